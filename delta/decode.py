"""What all payloads have in common: a head, copies, and the bytes that a codec makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from delta import head, inodes
from delta.codecs.interface import Decode
from delta.errors import DeltaError
from delta.head import Copy
from delta.inode_tables import BLOCK
from delta.references import Base, read_range, read_references
from delta.sections import Data
from delta.varint import Reader

VERSION, WITH_INODES = 1, 2
FRAME_LIMIT = 16 << 20


def decode(reader: Reader, base: Base, into: memoryview, codecs: Mapping[int, Decode]) -> None:
    """Fills into, which is as large as the frame, from a payload of one of the codecs.

    Raises DeltaError if the payload is no such payload (into then holds anything), OSError from
    the base.
    """
    if len(into) > FRAME_LIMIT:
        raise DeltaError(f"expected a frame of at most {FRAME_LIMIT} bytes, found {len(into)}")
    version = reader.byte()
    if version not in (VERSION, WITH_INODES):
        raise DeltaError(f"expected format {VERSION} or {WITH_INODES}, found {version}")
    codec = reader.byte()
    if codec not in codecs:
        raise DeltaError(f"expected one of the codecs {sorted(codecs)}, found {codec}")
    unit = BLOCK if version == WITH_INODES else 1
    contents = head.read(reader, base.size, len(into), unit)
    for copy in contents.copies:
        read_range(base, copy.source, into[copy.at : copy.at + copy.source.size])
    places = list(gaps(contents.copies, len(into)))
    if version == WITH_INODES:
        places = inodes.predict(reader, base, into, contents.copies, places)
    coded = _Coded([into[start:end] for start, end in places])
    for data in codecs[codec](reader, lambda: read_references(contents, base), coded.left):
        coded.write(data)
    if coded.left:
        raise DeltaError(f"expected {coded.left} more coded bytes")


def gaps(copies: Sequence[Copy], size: int) -> Iterator[tuple[int, int]]:
    """Start and end of what the copies, sorted, leave of a frame: the coded bytes, in order."""
    at = 0
    for copy in copies:
        if copy.at > at:
            yield at, copy.at
        at = copy.at + copy.source.size
    if at < size:
        yield at, size


class _Coded:
    """Where the coded bytes go. left: bytes that are still missing."""

    def __init__(self, places: list[memoryview]) -> None:
        self.left = sum(map(len, places))
        self._places = iter(places)
        self._place = memoryview(bytearray())

    def write(self, data: Data) -> None:
        """Puts the next bytes to their places. Raises DeltaError if there are too many."""
        size = len(data)
        if size > self.left:
            raise DeltaError(f"expected at most {self.left} more coded bytes, found {size}")
        self.left -= size
        if size <= len(self._place):
            self._place[:size] = data
            self._place = self._place[size:]
            return
        rest = memoryview(data)
        while rest:
            if not self._place:
                self._place = next(self._places)
            size = min(len(rest), len(self._place))
            self._place[:size] = rest[:size]
            self._place = self._place[size:]
            rest = rest[size:]
