"""The only place that makes writes survive a power cut.

What POSIX and Linux promise, and what this relies on: after ``fsync`` of a
file its content is on the medium; after ``rename`` a reader sees the old or
the new file, never a mixture; the rename itself is on the medium after
``fsync`` of the directory. Before that, a power cut may show either.
Creating a file needs the same ``fsync`` of its directory.

FAT promises less (Linux, fs/fat/namei_vfat.c): a renamed entry gets its size
and first cluster only when the file's own inode is written, so a rename is
followed by ``fsync`` of the file, too. Until then a power cut may show the new
name empty and the old one gone: nothing that is needed may be renamed on FAT,
only something new that is not needed yet.

A block device promises least: a sector (512 bytes at a multiple of 512) that a
power cut interrupts holds the old or the new bytes, never a mixture (what disks,
eMMC and virtio promise); of several sectors any subset may be new, in any order.
So a record that must change in one step is one sector, or is written beside the
one that counts and carries a checksum (`overwrite`).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from recovery.reading import open_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def sync_directory(directory: Path) -> None:
    """Makes creations, renames and removals in the directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_descriptor(fd: int) -> None:
    """Makes what was written to the open file or block device durable."""
    os.fsync(fd)


def sync_file(path: Path) -> None:
    """Makes the content of the file, and on FAT its directory entry, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: Path) -> None:
    """Makes everything written to the file system that holds path durable: syncfs(2)."""
    import ctypes  # Python has no syncfs.

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def make_directory(directory: Path, mode: int = 0o755) -> None:
    """Creates the directory and its parents, durably; does nothing if it exists."""
    missing: list[Path] = []
    current = directory
    while not current.is_dir():
        missing.append(current)
        current = current.parent
    for path in reversed(missing):
        path.mkdir(mode=mode, exist_ok=True)
        sync_directory(path.parent)


def stage_file(path: Path, chunks: Iterable[bytes], mode: int = 0o644) -> Path:
    """Writes a durable temporary file beside path and returns its name.

    Until `publish_file` renames it nothing has happened: a power cut leaves
    a file that nobody reads and `remove_leftovers` deletes.
    """
    # Not tempfile: importing it costs early boot more than writing the file.
    staged = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as out:
            for chunk in chunks:
                out.write(chunk)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def publish_file(staged: Path, path: Path) -> None:
    """Renames staged to path in one step and makes that durable.

    Power cut before the directory's fsync: the old or the new file, whole.
    After: the new one.
    """
    rename(staged, path)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces (or creates) a file: after a power cut the old or the new content, whole."""
    publish_file(stage_file(path, [data], mode), path)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Writes data at offset (bytes) of an existing file, partition or disk, durably.

    The only way in which a record in a partition is written. When it returns,
    the bytes are on the medium. A power cut before that leaves each sector
    that data covers old or new, each for itself; every other byte stays. The
    kernel writes whole blocks of up to 4096 bytes, so two copies that must not
    fail together lie further apart than that. The size never changes, so a
    file's directory entry and block list are not written. Raises OSError
    (ENOSPC) when data would not fit.
    """
    fd = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
    try:
        if offset < 0 or offset + len(data) > os.lseek(fd, 0, os.SEEK_END):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], offset + written)
        os.fsync(fd)  # Also empties the disk's own cache, whatever O_DSYNC did.
    finally:
        os.close(fd)


def append_line(path: Path, line: bytes) -> None:
    """Appends one line to a journal; a power cut may tear the last line, never an earlier one.

    Readers must ignore a last line without its newline. A torn line found
    here is closed first, so that the new line stands alone.
    """
    created = not path.exists()
    # Never into what a link names, and never waiting for the reader of a pipe.
    fd = open_record(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    with os.fdopen(fd, "ab") as out:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        out.write((b"\n" if torn else b"") + line + b"\n")
        out.flush()
        os.fsync(fd)
    if created:
        sync_directory(path.parent)


def rename(source: Path, destination: Path) -> None:
    """Renames within one directory, replacing the destination, durably."""
    source.rename(destination)
    if not destination.is_dir():
        sync_file(destination)
    sync_directory(destination.parent)


def remove_file(path: Path) -> None:
    """Removes a file durably; does nothing if it is absent."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Deletes the temporary files that an interrupted `stage_file` left."""
    removed = False
    for path in directory.glob(".*.tmp"):
        if path.is_file():
            path.unlink()
            removed = True
    if removed:
        sync_directory(directory)
