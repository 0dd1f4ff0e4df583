"""The running image as the base of a delta.

Root and boot artifact are read from where they lie, the root not through its
dm-verity device: that one restarts the machine at the first damaged block, so
an update over a rotten slot would never end. Nothing is lost by it. What is made
from a wrong byte has another digest than the signed one, and is fetched in full.
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
