"""Where a repository is read from: the contract, and a directory (a stick, a mount).

A source moves bytes and vouches for nothing: metadata is checked by
`updater.trust`, chunks against the signed index. So both kinds of source get
the same checks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol

from recovery.errors import FetchError

BLOCK = 256 * 1024


class NotFoundError(FetchError):
    """The source works and has no such file."""


class NoRangesError(FetchError):
    """The source works and gives only whole files. whole: the file, if it came instead."""

    def __init__(self, path: str, name: str, whole: bytes = b"") -> None:
        """path: of the file. name: of the source."""
        super().__init__(
            f"cannot fetch a part of {path} from {name}: it gives only whole files",
            resolution="nothing has to be done: whole files are fetched instead",
        )
        self.whole = whole


class Source(Protocol):
    """A place with a repository's files. Usable from several threads at once."""

    @property
    def name(self) -> str:
        """What people call it: a URL without credentials, or a path."""

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """The bytes of the file at path (relative, `/` between parts), block by block.

        Raises NotFoundError when there is no such file, and FetchError when
        it cannot be read or is longer than max_size bytes; both also while
        iterating. An empty file gives no block.
        """

    def open_range(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """As `open`, size bytes from offset on, which the file must have.

        Raises also NoRangesError, before the first block.
        """

    def close(self) -> None:
        """Gives up connections; the source is not used afterwards."""


def read(source: Source, path: str, max_size: int) -> bytes:
    """The whole file at path, which must fit in memory. Raises as `Source.open` does."""
    return b"".join(source.open(path, max_size))


def too_long(name: str, path: str, max_size: int) -> FetchError:
    """The error for endless or wrong data."""
    return FetchError(
        f"cannot fetch {path} from {name}: longer than the {max_size} bytes it may have",
        resolution="the repository or something on the way to it is broken; try another source",
    )


def too_short(name: str, path: str) -> NotFoundError:
    """The error for a file that ends before the range that was asked for."""
    return NotFoundError(
        f"cannot fetch {path} from {name}: shorter than it should be",
        resolution="the repository or something on the way to it is broken; try another source",
    )


class DirectorySource:
    """A repository in a directory, for instance on a stick."""

    def __init__(self, directory: Path) -> None:
        """Raises FetchError when the directory holds no repository."""
        self._directory = directory
        if not (directory / "metadata").is_dir():
            raise FetchError(
                f"cannot use {directory} as an update source: no repository there",
                details=f"{directory / 'metadata'} is not a directory",
                resolution="name the directory that holds metadata/, targets/ and chunks/",
            )

    @property
    def name(self) -> str:
        """The path."""
        return str(self._directory)

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """The bytes of a file; see Source."""
        return self._blocks(path, max_size)

    def open_range(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """Bytes of a file; see Source."""
        left = size
        for block in self._blocks(path, None, offset):
            yield block[:left]
            left -= min(left, len(block))
            if not left:
                return
        raise too_short(self.name, path)

    def close(self) -> None:
        """Nothing is held."""

    def _blocks(self, path: str, max_size: int | None, offset: int = 0) -> Iterator[bytes]:
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise NotFoundError(f"cannot fetch {path} from {self.name}: not a path inside it")
        done = 0
        try:
            with _opened(self._directory / path) as file:
                file.seek(offset)
                while block := file.read(BLOCK):
                    done += len(block)
                    if max_size is not None and done > max_size:
                        raise too_long(self.name, path, max_size)
                    yield block
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"cannot fetch {path} from {self.name}: no such file",
                resolution="the repository is incomplete; copy it again as a whole",
            ) from error
        except OSError as error:
            removed = error.errno in (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE)
            raise FetchError(
                f"cannot fetch {path} from {self.name}: {error.strerror}",
                resolution="check that the medium is still inserted and not damaged"
                if removed
                else "check that the files of the repository can be read",
            ) from error


def _opened(path: Path) -> FileIO:
    """The file, unbuffered. Raises OSError, also for what is no file: a pipe would never answer."""
    # Asked first: merely opening a device may start something.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb", buffering=0, opener=_without_waiting)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
