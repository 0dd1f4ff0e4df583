"""Reads files of the state partition, which anybody may have written with another machine.

A record there may be a link to elsewhere, a pipe that never answers, a device
node, or of any size. Whatever it is, it is read whole or refused at once.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LARGEST_RECORD = 4 << 20
"""Bytes. The largest record that a device writes, with packages and history, has some 100 KiB."""


def read_record(path: Path, largest: int = LARGEST_RECORD) -> bytes:
    """The content of a regular file that is not a link.

    Raises OSError: FileNotFoundError, ELOOP for a link, EINVAL for what is no
    file, EFBIG when it has more than largest bytes.
    """
    fd = open_record(path)
    try:
        size = os.fstat(fd).st_size
        if size > largest:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        # Its size is of a moment ago, and reads may be short.
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(largest)
    finally:
        os.close(fd)


def read_tail(path: Path, most: int = LARGEST_RECORD) -> bytes:
    """The last bytes of a journal. Raises OSError as `read_record`, but for its size."""
    fd = open_record(path)
    with os.fdopen(fd, "rb") as file:
        file.seek(max(0, os.fstat(fd).st_size - most))
        return file.read(most)


def open_record(path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """A descriptor of a regular file that is not a link. Raises OSError as `read_record`.

    mode: of a file that is created.
    """
    # O_NONBLOCK: to open a pipe would wait for its other end.
    harmless = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags | harmless, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd
