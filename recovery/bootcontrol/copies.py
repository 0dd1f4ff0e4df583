"""The two copies of a record in the partition `environment`: reading and writing their bytes."""

from __future__ import annotations

import os
from pathlib import Path

from recovery import durable
from recovery.errors import BootControlError

# Further apart than any erase block that one interrupted write would hurt on common
# cards, and on a 64 KiB boundary, where U-Boot's second copy begins.
OFFSETS = (0, 65536)


def read_copies(path: Path, size: int) -> tuple[bytes, bytes]:
    """The bytes of both copies, `size` each; empty where the disk cannot read them.

    One unreadable copy is as good as a corrupt one: writing it makes the disk
    replace the bad sector. Raises BootControlError when neither can be read.
    """
    found, failed = [], ""
    for offset in OFFSETS:
        try:
            found.append(read_at(path, offset, size))
        except OSError as error:
            found.append(b"")
            failed = f"{path}: {error.strerror}"
    if failed and not any(found):
        raise BootControlError(
            "cannot read the boot control's record",
            details=failed,
            resolution="check the partition labelled by `environment` in the board's manifest",
        )
    return found[0], found[1]


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Up to size bytes at offset. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while len(found) < size:
            part = os.pread(fd, size - len(found), offset + len(found))
            if not part:
                break
            found += part
        return found
    finally:
        os.close(fd)


def write_copy(path: Path, copy: int, data: bytes) -> None:
    """Writes copy 0 or 1, durably. Raises BootControlError."""
    try:
        durable.overwrite(path, OFFSETS[copy], data)
    except OSError as error:
        raise BootControlError(
            f"cannot write copy {copy} of the boot control's record: {error.strerror}",
            details=str(path),
            resolution="check the disk; the other copy still counts",
        ) from error
