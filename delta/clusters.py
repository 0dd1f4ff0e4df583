"""Clusters of a compressed image, opened and closed again.

A cluster is a few whole blocks that hold the next bytes of a file: one zstd frame with zeros
in front of it, as erofs stores it (Linux, fs/erofs/decompressor_zstd.c), or the bytes as they
are with zeros behind. Everything else in an image, metadata and what does not shrink, is a part
of the second kind without zeros. Closing gives the same bytes only with the same release of
libzstd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import zstandard

from delta.errors import DeltaError

# Of libzstd here: 1.5.7 is 10507, as ZSTD_VERSION_NUMBER.
LIBRARY = (
    zstandard.ZSTD_VERSION[0] * 10000
    + zstandard.ZSTD_VERSION[1] * 100
    + (zstandard.ZSTD_VERSION[2])
)

# Bytes of one compressed cluster: erofs has at most 1 MiB of 4 MB.
CLOSED_LIMIT = 1 << 20
OPENED_LIMIT = 4 << 20
HIGHEST_LEVEL = 19
# As zstd's and erofs's: 1 KiB and 1 MiB.
SMALLEST_WINDOW_LOG, LARGEST_WINDOW_LOG = 10, 20
# Bytes that are decompressed for one frame: its references and copies once, and some twice.
WORK = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """closed, opened: bytes as they lie in the image, and of what is in there."""

    closed: int
    opened: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """How clusters were compressed. level: zstd's. window_log: 0 is what the level says."""

    level: int
    window_log: int = 0


def open_cluster(closed: bytes, size: int) -> bytes:
    """The size bytes in a compressed cluster. Raises DeltaError when that is not what it holds."""
    stored = closed.lstrip(b"\0")
    try:
        frame = zstandard.get_frame_parameters(stored)
        # A stated size is what the library takes memory for.
        if frame.content_size not in (size, zstandard.CONTENTSIZE_UNKNOWN) or frame.dict_id:
            raise DeltaError(f"expected a cluster of {size} bytes, found {frame.content_size}")
        opened = zstandard.ZstdDecompressor(max_window_size=2 * OPENED_LIMIT).decompress(
            stored, max_output_size=size
        )
    except zstandard.ZstdError as error:
        raise DeltaError(f"expected a compressed cluster: {error}") from error
    if len(opened) != size:
        raise DeltaError(f"expected a cluster of {size} bytes, found {len(opened)}")
    return opened


def closer(settings: Settings) -> Callable[[bytes, int], bytes]:
    """A function from what is in a cluster and its size to the compressed cluster.

    The function raises DeltaError when it does not fit.
    """
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            compression_level=settings.level,
            window_log=settings.window_log,
            write_content_size=1,
            write_checksum=0,
        )
    )

    def close(opened: bytes, size: int) -> bytes:
        stored = compressor.compress(opened)
        if len(stored) > size:
            raise DeltaError(f"expected a cluster of {size} bytes, found {len(stored)}")
        return bytes(size - len(stored)) + stored

    return close


class Opened:
    """What parts hold, one after the other, as a base (`delta.references.Base`).

    Each is opened when it is read. One is kept: readers go from front to back.
    """

    def __init__(self, parts: Sequence[Part], closed: Callable[[], bytes | bytearray]) -> None:
        """closed: the parts as they lie in the image; called at the first read."""
        self._parts = parts
        self._ends = list(accumulate(part.opened for part in parts))
        self._places = list(accumulate((part.closed for part in parts), initial=0))
        self._read = closed
        self._closed: memoryview | None = None
        self._kept = -1, b""
        self._work = 0

    @property
    def size(self) -> int:
        """Bytes when opened."""
        return self._ends[-1] if self._ends else 0

    def read(self, offset: int, size: int) -> bytes:
        """The opened bytes there. Raises DeltaError, and OSError from the image's base."""
        found = []
        number = _first_after(self._ends, offset)
        while size and number < len(self._parts):
            start = self._ends[number] - self._parts[number].opened
            at = offset - start
            taken = min(size, self._parts[number].opened - at)
            found.append(self._taken(number, at, taken))
            offset, size, number = offset + taken, size - taken, number + 1
        return found[0] if len(found) == 1 else b"".join(found)

    def _taken(self, number: int, at: int, size: int) -> bytes:
        if self._closed is None:
            self._closed = memoryview(self._read())
            if len(self._closed) != self._places[-1]:
                raise DeltaError(
                    f"expected {self._places[-1]} bytes of clusters, found {len(self._closed)}"
                )
        part, place = self._parts[number], self._places[number]
        if not part.compressed:
            return bytes(self._closed[place + at : place + at + size])
        if self._kept[0] != number:
            self._work += part.opened
            if self._work > WORK:
                raise DeltaError(f"expected to open at most {WORK} bytes of clusters")
            closed = bytes(self._closed[place : place + part.closed])
            self._kept = number, open_cluster(closed, part.opened)
        return self._kept[1][at : at + size]


def _first_after(ends: Sequence[int], offset: int) -> int:
    """The number of the part that holds the offset."""
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        if ends[middle] > offset:
            high = middle
        else:
            low = middle + 1
    return low
