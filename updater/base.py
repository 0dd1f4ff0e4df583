"""The running image as the base of a delta.

The root is read through dm-verity: a block that the disk returns damaged is an
error and never a wrong byte. The boot artifact has no such guard; what a wrong
byte there makes has another digest than the signed one. Either way the pieces
concerned are fetched in full.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class FileBase:
    """A file or block device as a base (`delta.frame.Base`); closed with `close`."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be opened."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def close(self) -> None:
        """Closes it."""
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at offset, fewer at the end. Raises OSError."""
        found = os.pread(self._fd, size, offset)
        while len(found) < size:
            more = os.pread(self._fd, size - len(found), offset + len(found))
            if not more:
                break
            found += more
        # An update must not push the product's own data out of memory.
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)
        return found


def root_device(root: Path = Path("/")) -> Path | None:
    """The device that the root file system is on; None when it is not under device-mapper."""
    try:
        number = root.stat().st_dev
        block = root / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}"
        return root / "dev" / block.resolve().name if (block / "dm").is_dir() else None
    except OSError:
        return None
