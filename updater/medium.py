"""The slot or file that is being written: positioned writes, flush, and honest reading back.

Slots are written and read past the page cache (O_DIRECT): what is read back
comes from the disk and not from memory, and an update does not push the
product's own data out of the cache. It also saves a copy of every byte. Where
O_DIRECT does not work (some file systems), pages are dropped when they have been flushed
and before they are read back.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from recovery import durable
from recovery.errors import OrbitalError, RefusedError, SpaceError, StateError

ALIGNMENT = 4096
"""What O_DIRECT wants of offsets, sizes and addresses, on every disk there is."""


def buffer(size: int) -> memoryview:
    """Memory for O_DIRECT: of at least size bytes, aligned (an anonymous mapping).

    In huge pages where the kernel has them: to touch it takes the kernel a tenth of an update's
    processor time otherwise. Private, for shared memory has none by default
    (Documentation/admin-guide/mm/transhuge.rst).
    """
    mapping = mmap.mmap(-1, aligned(size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)


def forget(memory: memoryview) -> None:
    """Gives the memory of a buffer back; it is zeros when it is used again."""
    mapping = memory.obj
    if isinstance(mapping, mmap.mmap):
        mapping.madvise(mmap.MADV_DONTNEED)


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
            # On a block device O_EXCL fails when anyone else has it, e.g. a mount.
            block = path.exists() and stat.S_ISBLK(path.stat().st_mode)
            self._fd = os.open(path, flags | (os.O_EXCL if block else 0), 0o644)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise RefusedError(
                    f"cannot write {path}: it is in use",
                    details="it is mounted or part of a device-mapper device",
                    resolution="stop what uses it, or reboot",
                ) from error
            raise self._failure("open", error) from error
        self._direct: int | None = None
        if not create:
            with contextlib.suppress(OSError):
                self._direct = os.open(path, flags | os.O_DIRECT)

    def __enter__(self) -> Medium:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        os.close(self._fd)
        if self._direct is not None:
            os.close(self._direct)

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

    def write(self, offset: int, data: memoryview) -> None:
        """Writes all of data, which begins at the start of a `buffer`, at offset.

        Raises SpaceError or StateError.
        """
        direct = self._direct is not None and len(data) % ALIGNMENT == offset % ALIGNMENT == 0
        fd = self._direct if direct and self._direct is not None else self._fd
        try:
            while data:
                done = os.pwrite(fd, data, offset)
                data, offset = data[done:], offset + done
                if done % ALIGNMENT:
                    fd = self._fd
        except OSError as error:
            raise self._failure("write", error) from error

    def write_changed(self, offset: int, data: memoryview, scratch: memoryview) -> int:
        """Writes the blocks of data that the medium does not hold; returns the bytes written.

        Flash wears out by writing, not by reading. data and offset: as for `write`.
        scratch: a `buffer` to read into. Raises SpaceError or StateError.
        """
        written = 0
        for start in range(0, len(data), len(scratch)):
            part = data[start : start + len(scratch)]
            size = self.read_back(offset + start, scratch[: aligned(len(part))])
            for first, last in changed_blocks(part, scratch[: min(size, len(part))]):
                self.write(offset + start + first, part[first:last])
                written += last - first
        return written

    def flush(self) -> None:
        """Makes everything written so far durable. Raises SpaceError or StateError."""
        try:
            durable.sync_descriptor(self._fd)
            # Nobody reads it from memory, and on FAT eight records of blocks go with each page.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failure("flush", error) from error

    def read_back(self, offset: int, into: memoryview) -> int:
        """Reads what the medium holds, not what the page cache remembers of our writes.

        To be called after `flush`: only clean pages can be dropped. into: from
        the start of a `buffer`, of a multiple of ALIGNMENT bytes. Returns how
        many bytes there were, fewer only at the end. Raises StateError.
        """
        try:
            if self._direct is not None and offset % ALIGNMENT == 0:
                return self._read(self._direct, offset, into)
            os.posix_fadvise(self._fd, offset, len(into), os.POSIX_FADV_DONTNEED)
            return self._read(self._fd, offset, into)
        except OSError as error:
            raise self._failure("read", error) from error

    def _read(self, fd: int, offset: int, into: memoryview) -> int:
        done = 0
        while done < len(into):
            count = os.preadv(fd, [into[done:]], offset + done)
            done += count
            if count == 0 or count % ALIGNMENT:
                break
        return done

    def _failure(self, what: str, error: OSError) -> OrbitalError:
        kind = SpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateError
        return kind(
            f"cannot {what} {self._path}: {error.strerror}",
            resolution="the running system is not affected; check the disk, then run the update "
            "again",
        )


def changed_blocks(wanted: memoryview, present: memoryview) -> Iterator[tuple[int, int]]:
    """Ranges of wanted, whole blocks of ALIGNMENT but for its end, that are not in present."""
    # Views are compared byte by byte, bytes at once: ten times as fast, copying included.
    new, old = bytes(wanted), bytes(present)
    if new == old:
        return
    begin = None
    for at in range(0, len(new), ALIGNMENT):
        same = new[at : at + ALIGNMENT] == old[at : at + ALIGNMENT]
        if same and begin is not None:
            yield begin, at
            begin = None
        elif not same and begin is None:
            begin = at
    if begin is not None:
        yield begin, len(new)


def aligned(size: int) -> int:
    """size rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT
