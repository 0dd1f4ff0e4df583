"""The start record: what the next start is for, and how often starts have ended badly.

512 bytes at byte 524288 of the partition `environment`, on every board that has
a rescue system. Text, as GRUB's `load_env` and U-Boot's `env import -t` read it:

    # GRUB Environment Block
    orbital_asked=0          how often in a row rescue was asked for and did not come, 0 to 9;
                             first, because U-Boot's script changes this one byte, at 39
    orbital_loads=0          starts of a slot that took no try and did not reach its
                             initramfs, 0 to 9; counted by GRUB's and U-Boot's scripts,
                             U-Boot's changes this one byte, at 55
    orbital_next=rescue      or nothing: an ordinary start
    orbital_action=          nothing, "reset" or "erase": what rescue has been asked to do
    orbital_reason=TEXT      why rescue was asked for
    orbital_image=32HEX      the image whose unfinished starts are counted, or nothing
    orbital_starts=0         those starts, 0 to 99
    orbital_rescued=0        slots that rescue has started since a start was healthy, 0 to 99
    orbital_end=1
    ######                   to 512 bytes

What is not exactly this, each line once and in this order, reads as the empty
record. It is one sector: a power cut leaves the record before or the record
after, and damage loses counts and wishes, never a boot.

Written by the initramfs of a slot (`imager/initramfs/init`, in shell), by early
boot, by orbital-health and by rescue. Imports little: early boot reads it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from recovery import durable
from recovery.errors import BootControlError, OrbitalError
from recovery.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from recovery.device import DeviceConfig

    Action = Literal["", "reset", "erase"]
else:
    Action = str

OFFSET = 524288
SIZE = 512
SIGNATURE = b"# GRUB Environment Block\n"
LONGEST_REASON = 120
MOST_ASKED = 9
ASKED_IN_VAIN = 3
"""Asked so often, and the loader never started rescue: nobody asks again for this wish."""
MOST_LOADS = 5
"""Loads that did not come as far as the initramfs: the loader's script starts rescue."""
MOST_UNFINISHED = 8
"""Unfinished starts of one image: its initramfs asks for rescue (MOST_STARTS in its script)."""
MOST = 99
ASKED_BY = "asked by "
"""How the reason begins when a person asked: rescue then does nothing by itself."""

# Neither "#", the padding, nor "\\", which both loaders take for an escape.
_REASON = re.compile(r"(?:[!-\"$-\[\]-~](?:[ -\"$-\[\]-~]{0,118}[!-\"$-\[\]-~])?)?", re.ASCII)
_FORBIDDEN = re.compile(r"[^ -\"$-\[\]-~]", re.ASCII)
_RECORD = re.compile(
    rb"# GRUB Environment Block\n"
    rb"orbital_asked=([0-9])\n"
    rb"orbital_loads=([0-9])\n"
    rb"orbital_next=(|rescue)\n"
    rb"orbital_action=(|reset|erase)\n"
    rb"orbital_reason=([^\n]*)\n"
    rb"orbital_image=(|[0-9a-f]{32})\n"
    rb"orbital_starts=([0-9]|[1-9][0-9])\n"
    rb"orbital_rescued=([0-9]|[1-9][0-9])\n"
    rb"orbital_end=1\n"
    rb"#*"
)


class Starts(Value):
    """The record; without arguments the empty one.

    rescue: the next start is for the rescue system. action: what rescue is to
    do, until it is done. image: first half of a root hash, hex.
    """

    rescue: bool = False
    action: Action = ""
    reason: str = ""
    asked: int = 0
    image: str = ""
    starts: int = 0
    rescued: int = 0
    loads: int = 0

    @property
    def by_person(self) -> bool:
        """Whether it was a person who asked for rescue."""
        return self.rescue and self.reason.startswith(ASKED_BY)


def parse(data: bytes) -> Starts:
    """The record in the first bytes of data; the empty one for anything else."""
    match = _RECORD.fullmatch(data[:SIZE])
    if match is None or len(data) < SIZE:
        return Starts()
    asked, loads, following, action, reason, image, starts, rescued = (
        part.decode("latin-1") for part in match.groups()
    )
    if not _REASON.fullmatch(reason):
        return Starts()
    return Starts(
        rescue=following == "rescue",
        action=action,  # type: ignore[arg-type]  # The pattern allows no other.
        reason=reason,
        asked=int(asked),
        image=image,
        starts=int(starts),
        rescued=int(rescued),
        loads=int(loads),
    )


def to_bytes(record: Starts) -> bytes:
    """The sector. Counts stop at their highest value; the reason is made fit (`plain_reason`)."""
    lines = (
        f"orbital_asked={min(record.asked, MOST_ASKED)}\n"
        f"orbital_loads={min(record.loads, 9)}\n"
        f"orbital_next={'rescue' if record.rescue else ''}\n"
        f"orbital_action={record.action}\n"
        f"orbital_reason={plain_reason(record.reason)}\n"
        f"orbital_image={record.image}\n"
        f"orbital_starts={min(record.starts, MOST)}\n"
        f"orbital_rescued={min(record.rescued, MOST)}\n"
        "orbital_end=1\n"
    )
    return (SIGNATURE + lines.encode("ascii")).ljust(SIZE, b"#")


def plain_reason(text: str) -> str:
    """The text as the record can hold it: one short line of harmless characters."""
    return _FORBIDDEN.sub("?", " ".join(text.split()))[:LONGEST_REASON].strip()


def wish(record: Starts, who: str, reason: str, action: Action = "") -> Starts:
    """The record after a person asked for rescue, or for something that rescue does."""
    text = f"{ASKED_BY}{who}" + (f": {reason}" if reason else "")
    return replace(record, rescue=True, action=action, reason=text, asked=0)


def healthy(record: Starts, *, volatile: bool = False) -> Starts:
    """The record after a healthy start: nothing is counted any more.

    volatile: the state partition could not be used. Rescue has been there for it,
    or did not come: to forget that would be to ask again at every start.
    A wish that could not be fulfilled ends here: else it would cost restarts for ever.
    """
    if record.asked >= ASKED_IN_VAIN:
        record = replace(record, rescue=False, action="", reason="")
    if volatile:
        return replace(record, image="", starts=0, loads=0)
    return replace(record, image="", starts=0, loads=0, asked=0, rescued=0)


class StartFile:
    """The record in its partition, or in a plain file in tests."""

    def __init__(self, path: Path) -> None:
        """path: the partition's device node. Nothing is read yet."""
        self.path = path

    def load(self) -> Starts:
        """The record; the empty one when it is damaged or cannot be read."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return Starts()
        try:
            return parse(os.pread(fd, SIZE, OFFSET))
        except OSError:
            return Starts()
        finally:
            os.close(fd)

    def save(self, record: Starts) -> None:
        """Writes one sector, durably. Raises BootControlError."""
        try:
            durable.overwrite(self.path, OFFSET, to_bytes(record))
        except OSError as error:
            raise BootControlError(
                f"cannot write the start record: {error.strerror or error}",
                details=str(self.path),
                resolution="check the disk; starts go on without it",
            ) from error


def open_starts(config: DeviceConfig, root: Path = Path("/")) -> StartFile | None:
    """The start record of this device; None when it has no rescue system.

    Raises StateError when the partition that the image names is not there.
    """
    if not config.rescue.partition:
        return None
    from recovery.partitions import find_partition

    return StartFile(find_partition(config.rescue.record, root))


def note_healthy(config: DeviceConfig, root: Path, *, volatile: bool) -> None:
    """This start is healthy: one write, or none when nothing was counted.

    A record that cannot be written is no reason to call a boot unhealthy.
    """
    with suppress(OrbitalError):
        file = open_starts(config, root)
        found = file.load() if file is not None else Starts()
        if file is not None and found != healthy(found, volatile=volatile):
            file.save(healthy(found, volatile=volatile))


def ask_once(config: DeviceConfig, root: Path, reason: str) -> bool:
    """Asks for rescue on behalf of a boot that finds its state partition unusable.

    Whether it was asked: not when rescue has been there since the last healthy
    start, when it has been asked for and did not come, or when it may not do more
    than was tried already. Nothing here may stop a boot.
    """
    with suppress(OrbitalError):
        file = open_starts(config, root)
        found = file.load() if file is not None else Starts()
        if file is None or found.rescued or found.asked or config.rescue.state != "renew":
            return False
        wanted = replace(found, rescue=True, reason=plain_reason(reason))
        file.save(wanted)
        return file.load() == wanted
    return False
