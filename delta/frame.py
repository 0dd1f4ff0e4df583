"""Decoding one frame: some pieces of a new image, made out of the base image and a payload.

A payload says which bytes of the frame are copied from the base as they are, which
ranges of the base are references, and how the codec makes the remaining, coded bytes
out of them. The format byte by byte: docs/delta-format.md.

A payload is not trusted. Its numbers are checked before memory is taken or the base
is read, and whatever it says, decoding ends: it reads at most 32 MiB of the base,
gives out as many bytes as the frame has, and stops at the first that is too many.
That the bytes are the right ones is not known here: the caller has their digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from delta import head
from delta.codecs import dictionary, difference, sparse, store
from delta.codecs.interface import Decode
from delta.errors import DeltaError
from delta.head import Copy
from delta.references import Base, read_range, read_references
from delta.sections import Data
from delta.varint import Reader

__all__ = ["CODECS", "FRAME_LIMIT", "Base", "apply", "gaps"]

VERSION = 1
FRAME_LIMIT = 16 << 20

# Never renumber: golden payloads of every codec are in tests/delta/golden.
STORE, DICTIONARY, DIFFERENCE, SPARSE = range(4)
CODECS: dict[int, Decode] = {
    STORE: store.decode,
    DICTIONARY: dictionary.decode,
    DIFFERENCE: difference.decode,
    SPARSE: sparse.decode,
}


def apply(payload: bytes, base: Base, into: memoryview) -> None:
    """Fills into, which is as large as the frame, with the frame's bytes.

    Memory: at most 16 MiB of references and 16 MiB of decompression windows beside payload and
    into. Frames do not depend on each other: any may be applied alone, again, and at any time.

    Raises DeltaError if the payload is no such payload (into then holds anything), OSError from
    the base.
    """
    if len(into) > FRAME_LIMIT:
        raise DeltaError(f"expected a frame of at most {FRAME_LIMIT} bytes, found {len(into)}")
    reader = Reader(memoryview(payload))
    version = reader.byte()
    if version != VERSION:
        raise DeltaError(f"expected format {VERSION}, found {version}")
    codec = reader.byte()
    if codec not in CODECS:
        raise DeltaError(f"expected one of the codecs {sorted(CODECS)}, found {codec}")
    contents = head.read(reader, base.size, len(into))
    for copy in contents.copies:
        read_range(base, copy.source, into[copy.at : copy.at + copy.source.size])
    coded = _Coded([into[start:end] for start, end in gaps(contents.copies, len(into))])
    for data in CODECS[codec](reader, lambda: read_references(contents, base), coded.left):
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
