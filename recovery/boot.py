"""What this boot is: its identity, its image, and what early boot chose (boot.json)."""

from __future__ import annotations

import os
from pathlib import Path

from recovery import codec
from recovery.errors import StateError
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recovery.generations import Generation
    from recovery.slots import Slot
    from recovery.state import StateRecord

SLOT_FILE = "run/orbital/slot"
REPORT_FILE = "run/orbital/boot.json"


class RunningImage(Value):
    """The image that the initramfs found, verified and mounted.

    root_hash: from the signed command line, hex; empty when there is none.
    """

    slot: Slot
    root_hash: str


class BootReport(Value):
    """What early boot decided; lives until the next boot.

    generation: the one that it chose; packages may have changed since, see
    `running_generation`. root_hash: of its image. trial: it is on trial. volatile:
    the state partition could not be used, so nothing that is written now will
    be remembered and nothing may be installed. notes: what had to be repaired.
    """

    boot_id: str
    slot: Slot
    generation: int
    trial: bool
    volatile: bool
    notes: tuple[str, ...] = ()
    root_hash: str = ""


def boot_id(root: Path = Path("/")) -> str:
    """The kernel's random name of this boot; empty when unknown."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def command_line(root: Path = Path("/")) -> dict[str, str]:
    """The kernel command line; a word without "=" has an empty value.

    The first occurrence of a key counts, as in the initramfs: the signed part
    comes first, whatever firmware or hypervisor appends comes after it.
    """
    found: dict[str, str] = {}
    for word in (root / "proc/cmdline").read_text().split():
        key, _, value = word.partition("=")
        found.setdefault(key, value)
    return found


def running_image(root: Path = Path("/")) -> RunningImage:
    """The image that runs. Raises StateError when the initramfs did not say."""
    path = root / SLOT_FILE
    try:
        slot = path.read_text().strip()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    if slot == "a":
        return RunningImage("a", command_line(root).get("orbital.roothash", ""))
    if slot == "b":
        return RunningImage("b", command_line(root).get("orbital.roothash", ""))
    raise StateError(f"cannot use {path}: {slot!r} is not a slot")


def running_generation(
    report: BootReport, record: StateRecord, generations: Sequence[Generation]
) -> int:
    """Number of the generation that runs now: packages change without a reboot.

    Among the generations of the running image, the trial if this boot is one,
    else the committed one, else what early boot chose.
    """
    place = (report.slot, report.root_hash)
    fitting = {g.number for g in generations if (g.slot, g.root_hash) == place}
    trial = record.trial
    if report.trial and trial is not None and trial.generation in fitting:
        return trial.generation
    return record.committed if record.committed in fitting else report.generation


def running_record(
    report: BootReport, record: StateRecord, generations: Sequence[Generation]
) -> Generation:
    """What runs now. Raises StateError when its record is lost."""
    number = running_generation(report, record, generations)
    running = next((item for item in generations if item.number == number), None)
    if running is None:
        raise StateError(
            f"cannot read the record of running generation {number}",
            resolution="reboot: early boot makes it again",
        )
    return running


def load_report(root: Path = Path("/")) -> BootReport:
    """What early boot decided. Raises StateError when it is absent or damaged."""
    path = root / REPORT_FILE
    try:
        return codec.build(
            BootReport,
            codec.parse_object(path.read_bytes()),
            boot_id=codec.text,
            slot=codec.one_of("a", "b"),
            generation=codec.number,
            trial=codec.truth,
            volatile=codec.truth,
            notes=codec.several(codec.text),
            root_hash=codec.text,
        )
    except (OSError, ValueError) as error:
        raise StateError(
            f"cannot read {path}: {error}",
            details="it is written by /usr/lib/orbital/early at each boot",
            resolution="run this on a device that was booted by Orbital",
        ) from error


def write_report(report: BootReport, root: Path = Path("/")) -> None:
    """Leaves the report in /run for the programs of this boot."""
    path = root / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(codec.encode(report))
    temporary.replace(path)
