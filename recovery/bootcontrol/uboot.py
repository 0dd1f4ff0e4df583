"""U-Boot: the record in a redundant environment in the partition `environment`.

The newer valid copy counts. Linux and U-Boot's script write the other one, with
the next flag, in one write: until its checksum is whole it is not valid, so a
power cut anywhere in it leaves the record before.

When the record is lost U-Boot's script starts the rescue system. Where there is none
it does what RAUC's does: it begins with the order A B and 3 tries each, takes one, and
writes copy 0.
"""

from __future__ import annotations

from pathlib import Path

from recovery.bootcontrol import ubootenv
from recovery.bootcontrol.copies import read_copies, write_copy
from recovery.bootcontrol.recorded import Record, counted_afresh
from recovery.bootcontrol.ubootenv import Environment
from recovery.errors import BootControlError
from recovery.slots import Slot


class UbootEnvironment:
    """The record in the partition at path; conforms to `recorded.RecordStore`."""

    most_tries = 7

    def __init__(self, path: Path) -> None:
        """path: the partition's device node."""
        self._path = path

    def load(self) -> Record | None:
        """The record that counts; None when no copy of it is valid."""
        _, environment = self._newest()
        return None if environment is None else ubootenv.record_of(environment)

    def save(self, record: Record) -> None:
        """Writes the copy that does not count; then it does. Variables of others stay."""
        copy, environment = self._newest()
        variables = () if environment is None else environment.variables
        self._write(copy, environment, ubootenv.with_record(variables, record))

    def fresh(self, current: Slot) -> Record:
        """The running slot first, then the other one; both counted."""
        return counted_afresh(current)

    def repair(self) -> None:
        """Writes an invalid copy again, with the variables of the valid one.

        It becomes the newer one, and means the same. Two valid copies are left
        as they are: the older one is the record before, as it should be.
        """
        copies = self._copies()
        copy, environment = _newest(copies)
        if environment is not None and None in copies:
            self._write(copy, environment, environment.variables)

    def _copies(self) -> tuple[Environment | None, Environment | None]:
        first, second = read_copies(self._path, ubootenv.SIZE)
        return _decoded(first), _decoded(second)

    def _newest(self) -> tuple[int, Environment | None]:
        return _newest(self._copies())

    def _write(self, newest: int, before: Environment | None, variables: tuple[bytes, ...]) -> None:
        """Writes the copy beside the newest one. A lost record begins with copy 0, flag 1."""
        copy = 0 if before is None else 1 - newest
        flag = 1 if before is None else (before.flag + 1) % 256
        try:
            data = ubootenv.encode(Environment(flag, variables))
        except ValueError as error:
            raise BootControlError(
                "cannot write the boot control's record: no room beside the other variables",
                details=f"{self._path}: {error}",
                resolution="remove variables that are not needed from U-Boot's environment",
            ) from error
        write_copy(self._path, copy, data)


def _newest(
    copies: tuple[Environment | None, Environment | None],
) -> tuple[int, Environment | None]:
    """Number and content of the copy that counts; None when no copy is valid."""
    first, second = copies
    if first is None or (second is not None and ubootenv.second_is_newer(first.flag, second.flag)):
        return 1, second
    return 0, first


def _decoded(data: bytes) -> Environment | None:
    try:
        return ubootenv.decode(data)
    except ValueError:
        return None
