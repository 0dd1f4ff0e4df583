"""Making the payload of one frame of a compressed image: codec 4 around a payload of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from delta import head
from delta.clusters import LIBRARY, Settings
from delta.codecs.plain import STORE
from delta.decode import VERSION
from delta.frame import OPENED, apply
from delta.head import Head, Range
from delta.varint import write
from imager.delta.frame import Copy, Reference, encode, merged_copies
from imager.delta.head import written
from imager.delta.match import Span, merged
from imager.delta.opened import Piece
from imager.delta.opened_plan import OpenedFrame
from imager.delta.sections import BYTES, Effort, section


class Base:
    """A stream in memory as a base."""

    def __init__(self, stream: bytes | memoryview) -> None:
        self._stream = stream
        self.size = len(stream)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there."""
        return bytes(self._stream[offset : offset + size])


def encode_opened(
    frame: OpenedFrame,
    rewrites: Sequence[bytes | None],
    settings: Settings,
    *,
    closed: tuple[memoryview, memoryview],
    opened: tuple[memoryview, memoryview],
    level: int,
) -> bytes:
    """The payload; decoded once before it is returned. closed: the old and the new image.

    opened: their opened streams. rewrites: of the frame's references.

    Raises DeltaError when a device could not decode it.
    """
    effort = Effort(level)
    old_image, new_image = closed
    new = b"".join(
        bytes(new_image[part.piece.offset :][: part.size])
        if part.as_it_lies
        else bytes(opened[1][part.piece.at :][: part.size])
        for part in frame.parts
    )
    place = _Places(frame.old)
    base = b"".join(bytes(opened[0][piece.at :][: piece.opened]) for piece in frame.old)
    inside = encode(
        new,
        Base(base),
        [Copy(copy.at, place.of(copy.offset), copy.size) for copy in frame.inside.copies],
        [
            Reference(place.of(wanted.span.offset), wanted.span.size, rewrite, wanted.start)
            for wanted, rewrite in zip(frame.inside.references, rewrites, strict=True)
        ],
        level=level,
    )
    made = bytes(new_image[frame.offset :][: frame.size])
    copies = [
        head.Copy(copy.at, Range(copy.offset, copy.size))
        for copy in merged_copies(made, Base(old_image), frame.copies)
    ]
    if not frame.parts:
        payload = bytes([VERSION, STORE]) + written(Head(copies, (), {}), effort) + write(0)
    else:
        ranges = merged(Span(piece.offset, piece.closed) for piece in frame.old)
        # Pieces lie in the image in the order in which they lie in the opened stream.
        contents = Head(copies, [Range(span.offset, span.size) for span in ranges], {})
        tables = section(_tables(frame, settings), effort, BYTES)
        payload = bytes([VERSION, OPENED]) + written(contents, effort) + tables + inside
    into = bytearray(frame.size)
    apply(payload, Base(old_image), memoryview(into))
    if into != made:
        raise AssertionError("a payload decodes to other bytes")
    return payload


def _tables(frame: OpenedFrame, settings: Settings) -> bytes:
    """What delta.codecs.opened reads first."""
    old = _joined((piece.closed, piece.opened, piece.compressed) for piece in frame.old)
    new = _joined(
        (part.size, part.size, False)
        if part.as_it_lies
        else (part.piece.closed, part.piece.opened, part.piece.compressed)
        for part in frame.parts
    )
    library = LIBRARY if any(compressed for _, _, compressed in new) else 0
    numbers = [library, settings.level, settings.window_log, frame.skip]
    for parts in (old, new):
        numbers.append(len(parts))
        numbers += [closed for closed, _, _ in parts]
        numbers += [opened << 1 | compressed for _, opened, compressed in parts]
    return b"".join(map(write, numbers))


_Shape = tuple[int, int, bool]


def _joined(shapes: Iterable[_Shape]) -> list[_Shape]:
    """Bytes as they lie, opened, and whether compressed; neighbours that lie open as one."""
    found: list[_Shape] = []
    for closed, opened, compressed in shapes:
        if found and not compressed and closed == opened:
            last = found[-1]
            if not last[2] and last[0] == last[1]:
                found[-1] = last[0] + closed, last[1] + opened, False
                continue
        found.append((closed, opened, compressed))
    return found


class _Places:
    """From places in the old opened stream to places in what a device opens of it."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._starts = [piece.at for piece in pieces]
        self._places = list(accumulate((piece.opened for piece in pieces), initial=0))

    def of(self, place: int) -> int:
        """Where it is."""
        number = bisect_right(self._starts, place) - 1
        return self._places[number] + place - self._starts[number]
