"""The slot or file that is being written: positioned writes, flush, and honest reading back."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from recovery import durable
from recovery.errors import OrbitalError, RefusedError, SpaceError, StateError


class Medium:
    """An open slot (block device, or a plain file on emulated devices) or boot artifact.

    Usable from several threads. Use as a context manager.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Opens for reading and writing; create makes a plain file that may exist.

        Raises RefusedError when the slot is in use (mounted, or under
        dm-verity), StateError when it cannot be opened.
        """
        self._path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            if path.exists() and stat.S_ISBLK(path.stat().st_mode):
                # On a block device: fail when anyone else has it, e.g. a mount.
                flags |= os.O_EXCL
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise RefusedError(
                    f"cannot write {path}: it is in use",
                    details="it is mounted or part of a device-mapper device",
                    resolution="stop what uses it, or reboot",
                ) from error
            raise self._failure("open", error) from error

    def __enter__(self) -> Medium:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        os.close(self._fd)

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    def truncate(self, size: int) -> None:
        """Gives a plain file its size. Raises SpaceError or StateError."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self._failure("write", error) from error

    def write(self, offset: int, data: bytes) -> None:
        """Writes all of data at offset. Raises SpaceError or StateError."""
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise self._failure("write", error) from error

    def flush(self) -> None:
        """Makes everything written so far durable. Raises SpaceError or StateError."""
        try:
            durable.sync_descriptor(self._fd)
        except OSError as error:
            raise self._failure("flush", error) from error

    def read_back(self, offset: int, size: int) -> bytes:
        """What the medium holds, not what the page cache remembers of our writes.

        To be called after `flush`: only clean pages can be dropped. Raises StateError.
        """
        try:
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failure("read", error) from error
        return self.read(offset, size)

    def read(self, offset: int, size: int) -> bytes:
        """Up to size bytes at offset, fewer only at the end. Raises StateError."""
        try:
            data = os.pread(self._fd, size, offset)
            while 0 < len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise self._failure("read", error) from error
        return data

    def _failure(self, what: str, error: OSError) -> OrbitalError:
        kind = SpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateError
        return kind(
            f"cannot {what} {self._path}: {error.strerror}",
            resolution="the running system is not affected; check the disk, then run the update "
            "again",
        )
