"""GRUB: the record in two environment blocks of the partition `environment`.

Copy 0 counts if it is valid, else copy 1. Linux and GRUB's script write copy 0,
durably, and then copy 1. A copy is one sector, so a power cut leaves:

* before copy 0 is written: the record before, in both;
* after copy 0: the record after; copy 1, which does not count, is made equal
  by `repair` or the next write;
* a copy 0 that is torn all the same: the record before, from copy 1.

GRUB cannot make a block whose signature is gone, and writes only where the
file system around the copies (`grubfiles`) is whole. When the record is lost it
starts the rescue system, or where there is none slot a, or b if that does not load,
uncounted, until Linux has made the record again. When it cannot count it starts a
good slot, or the rescue system, rather than one on trial.
"""

from __future__ import annotations

from pathlib import Path

from recovery import durable
from recovery.bootcontrol import grubenv, grubfiles
from recovery.bootcontrol.copies import read_at, read_copies, write_copy
from recovery.bootcontrol.grubenv import Block
from recovery.bootcontrol.recorded import Record, counted_afresh
from recovery.errors import BootControlError
from recovery.slots import Slot


class GrubEnvironment:
    """The record in the partition at path; conforms to `recorded.RecordStore`."""

    most_tries = 7

    def __init__(self, path: Path) -> None:
        """path: the partition's device node."""
        self._path = path

    def load(self) -> Record | None:
        """The record that counts; None when no copy of it is valid."""
        block = self._block()
        return None if block is None else block.record

    def save(self, record: Record) -> None:
        """Copy 0, which makes it count, then copy 1. Variables of others stay."""
        block = self._block()
        others = () if block is None else block.others
        try:
            data = grubenv.encode(Block(record, others))
        except ValueError as error:
            raise BootControlError(
                "cannot write the boot control's record: no room beside the other variables",
                details=f"{self._path}: {error}",
                resolution="remove variables that are not needed from GRUB's environment block",
            ) from error
        for copy in (0, 1):
            write_copy(self._path, copy, data)

    def fresh(self, current: Slot) -> Record:
        """The running slot first, then the other one; both counted."""
        return counted_afresh(current)

    def repair(self) -> None:
        """Writes the copy that does not count like the one that does, and the file system.

        Cut in the file system: GRUB does not count and starts a good slot, which
        repairs again.
        """
        copies = read_copies(self._path, grubenv.SIZE)
        valid = [copy for copy, data in enumerate(copies) if _decoded(data) is not None]
        if valid and copies[0] != copies[1]:
            write_copy(self._path, 1 - valid[0], copies[valid[0]])
        files = grubfiles.file_system()
        try:
            if read_at(self._path, grubfiles.START, len(files)) != files:
                durable.overwrite(self._path, grubfiles.START, files)
        except OSError as error:
            raise BootControlError(
                f"cannot repair the file system of GRUB's record: {error.strerror}",
                details=str(self._path),
                resolution="check the disk; without it GRUB starts no update",
            ) from error

    def _block(self) -> Block | None:
        """The block that counts."""
        decoded = (_decoded(data) for data in read_copies(self._path, grubenv.SIZE))
        return next((block for block in decoded if block is not None), None)


def _decoded(data: bytes) -> Block | None:
    try:
        return grubenv.decode(data)
    except ValueError:
        return None
