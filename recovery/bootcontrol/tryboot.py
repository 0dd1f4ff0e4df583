"""The Raspberry Pi's firmware: the record in autoboot.txt on the partition `firmware`.

The file is one sector, written in place: a power cut leaves the record before
or the record after, and no directory entry is ever in danger.

The firmware allows less than other loaders:

* One try. `set_active` grants one, whatever is asked, and only one slot has a
  try at a time.
* It starts [tryboot] once, when the reboot was asked for with "0 tryboot":
  `set_active` leaves that for the reboot in /run/systemd/reboot-param.
* It cannot write, so a try is used as soon as another boot runs. A power cut
  after the try was granted and before the reboot uses it up, too: the device
  stays on what it ran, and the update counts as failed.

When the record is lost (no autoboot.txt, or none that names a partition) the firmware
starts the first partition that it can: the rescue system's, which lies before the slots'.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from recovery import durable
from recovery.boot import boot_id
from recovery.bootcontrol import autoboot
from recovery.bootcontrol.autoboot import Autoboot
from recovery.bootcontrol.recorded import GOOD, Count, Record
from recovery.errors import BootControlError
from recovery.slots import Slot, other_slot

FILE = "autoboot.txt"
# What a file that we make is long; under the firmware's limit of 512.
SIZE = 480
REBOOT_PARAMETER = "run/systemd/reboot-param"
TRYBOOT = "0 tryboot"
# Big-endian u32, 1 when the firmware took [tryboot] (Raspberry Pi documentation,
# "Device trees: firmware parameters").
IS_TRY = "proc/device-tree/chosen/bootloader/tryboot"


class TrybootFile:
    """The record on the mounted partition; conforms to `recorded.RecordStore`."""

    most_tries = 1

    def __init__(
        self, firmware: Path, numbers: dict[Slot, int], root: Path = Path("/"), *, rescue: int = 0
    ) -> None:
        """firmware: where it is mounted. numbers: of each slot's boot partition. rescue: of the
        rescue system's, 0 when there is none."""
        self._path = firmware / FILE
        self._numbers = numbers
        self._rescue = rescue
        self._root = root
        self._boot = boot_id(root)

    def load(self) -> Record | None:
        """The record as this boot sees it; None when the file is absent or names no slot."""
        found = self._load()
        return None if found is None else found.seen_from(self._boot)

    def save(self, record: Record) -> None:
        """One write in place, then what the next reboot has to ask for."""
        found = self._load()
        made = Autoboot(_one_try(record), self._boot, found.others if found is not None else ())
        try:
            self._write(made)
        except ValueError as error:
            raise BootControlError(
                "cannot write the boot control's record: no room beside the other lines",
                details=f"{self._path}: {error}",
                resolution="remove lines that are not needed from autoboot.txt",
            ) from error
        except OSError as error:
            raise _failed("write", self._path, error) from error
        self._ask(made.record)

    def fresh(self, current: Slot) -> Record:
        """The running slot stays the one to start; in a try, the other one does."""
        order = (current, other_slot(current))
        mine = Count(0) if self._is_try() else GOOD
        return Record(order, mine, GOOD) if current == "a" else Record(order, GOOD, mine)

    def repair(self) -> None:
        """Asks again for the try that waits: /run may have been cleaned."""
        record = self.load()
        if record is not None:
            self._ask(record)

    def _load(self) -> Autoboot | None:
        try:
            return autoboot.decode(self._path.read_bytes(), self._numbers, self._rescue)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise _failed("read", self._path, error) from error

    def _write(self, made: Autoboot) -> None:
        size = self._path.stat().st_size if self._path.is_file() else 0
        if size > autoboot.LIMIT or not size:
            # Nothing that the firmware could use is lost by a cut.
            durable.replace_file(self._path, self._encoded(made, SIZE))
            return
        if size < SIZE:
            # Made by others. It grows by a comment first, within its only sector.
            durable.append_line(self._path, b"#" * (SIZE - size - 1))
            size = self._path.stat().st_size
        durable.overwrite(self._path, 0, self._encoded(made, size))

    def _encoded(self, made: Autoboot, size: int) -> bytes:
        return autoboot.encode(made, self._numbers, size, self._rescue)

    def _ask(self, record: Record) -> None:
        """Lets the next reboot start the slot that is tried, or nothing but the lasting one."""
        path = self._root / REBOOT_PARAMETER
        try:
            if autoboot.trying(record) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(TRYBOOT)
            elif path.is_file() and path.read_text().strip() == TRYBOOT:
                path.unlink()
        except OSError as error:
            raise _failed("write", path, error) from error

    def _is_try(self) -> bool:
        """Whether the firmware took [tryboot] for this boot."""
        with contextlib.suppress(OSError):
            return int.from_bytes((self._root / IS_TRY).read_bytes(), "big") == 1
        return False


def _one_try(record: Record) -> Record:
    """The record without the tries of any slot but the first that has one."""
    tried = autoboot.trying(record)
    a, b = (
        count if count.good or slot == tried else Count(0)
        for slot, count in (("a", record.a), ("b", record.b))
    )
    return Record(record.order, a, b)


def _failed(what: str, path: Path, error: OSError) -> BootControlError:
    return BootControlError(
        f"cannot {what} {path.name}: {error.strerror or error}",
        details=str(path),
        resolution="check the partition labelled firmware: it may be damaged or full",
    )
