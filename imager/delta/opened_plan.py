"""From units of opened streams to frames of the image as it lies. Pure.

What is in the old image as it is, is copied as it lies. What else is in a frame becomes its parts:
clusters that are made open and closed again, and ranges that are made as they lie.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from delta.codecs.opened import PARTS
from delta.head import REFERENCES_LIMIT
from imager.delta.frame import Copy
from imager.delta.match import Reason, Span, Unit, merged
from imager.delta.opened import OpenedImage, Piece
from imager.delta.plan import FramePlan, Pair, references

# Opened bytes that a frame makes, and those that it refers to: what the device has in memory.
LIMIT = 12 << 20
_SHORTEST_COPY = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a frame that are not copied. piece: of the new image; as_it_lies: made closed."""

    piece: Piece
    as_it_lies: bool = False

    @property
    def size(self) -> int:
        """Bytes to make."""
        return self.piece.closed if self.as_it_lies else self.piece.opened


@dataclass(frozen=True)
class OpenedFrame:
    """offset, size: its range of the new image. copies: of the old image as it lies.

    skip: bytes of the first part that lie before the frame. old: pieces of the old image that are
    opened, in order. inside: how the parts are made, with offsets of the old opened stream.
    """

    offset: int
    size: int
    copies: tuple[Copy, ...]
    parts: tuple[Part, ...]
    skip: int
    old: tuple[Piece, ...]
    inside: FramePlan


@dataclass(frozen=True)
class Images:
    """What a plan is made of. same: for clusters of the new image by offset, where the old image
    has the same bytes. closing: offsets of clusters that come back as they were when they are
    closed again."""

    old: OpenedImage
    new: OpenedImage
    units: Sequence[Unit]
    same: Mapping[int, int]
    closing: frozenset[int]
    is_code: frozenset[Pair]


def plan_opened(images: Images, size: int, *, piece: int, pieces: int) -> list[OpenedFrame]:
    """Frames that cover the new image of that size."""
    length = piece * pieces
    starts = [unit.span.offset for unit in images.units]
    frames = []
    for offset in range(0, size, length):
        end = min(offset + length, size)
        frames.append(_frame(images, starts, offset, end, -(-(end - offset) // piece)))
    return frames


def _frame(
    images: Images, starts: Sequence[int], offset: int, end: int, pieces: int
) -> OpenedFrame:
    copies: list[Copy] = []
    parts: list[Part] = []

    def units(span: Span) -> Iterator[tuple[Span, Unit]]:
        number = max(bisect_right(starts, span.offset) - 1, 0)
        for unit in images.units[number:]:
            if unit.span.offset >= span.end:
                return
            start, stop = max(unit.span.offset, span.offset), min(unit.span.end, span.end)
            if start < stop:
                yield Span(start, stop - start), unit

    for found in images.new.between(offset, end):
        if not found.cluster:
            for item in _between(images, found, units, offset):
                if isinstance(item, Copy):
                    copies.append(item)
                else:
                    parts.append(item)
            continue
        start = max(found.offset, offset)
        size = min(found.offset + found.closed, end) - start
        there = images.same.get(found.offset)
        if there is not None:
            copies.append(Copy(start - offset, there + start - found.offset, size))
        elif found.offset in images.closing:
            parts.append(Part(found))
        else:
            parts.append(Part(Piece(start, size, found.at, 0, cluster=True), as_it_lies=True))
    parts = list(_bounded(parts, offset, end))
    inside, old = _inside(images, parts, units, pieces)
    skip = max(offset - parts[0].piece.offset, 0) if parts else 0
    return OpenedFrame(offset, end - offset, tuple(copies), tuple(parts), skip, old, inside)


_Units = Callable[[Span], Iterator[tuple[Span, Unit]]]


def _between(images: Images, found: Piece, units: _Units, offset: int) -> Iterator[Copy | Part]:
    """What lies between clusters: files that are the same are copied, the rest is made."""
    for span, unit in units(Span(found.at, found.opened)):
        place = found.offset + span.offset - found.at
        if unit.reason is Reason.SAME:
            start = unit.old[0].offset + span.offset - unit.span.offset
            old = list(images.old.within(Span(start, span.size)))
            if len(old) == 1 and not old[0].cluster and old[0].closed == span.size:
                yield Copy(place - offset, old[0].offset, span.size)
                continue
        yield Part(Piece(place, span.size, span.offset, span.size))


def _bounded(parts: Sequence[Part], offset: int, end: int) -> Iterator[Part]:
    """The parts with no more opened bytes than a device has room for: the last are made closed."""
    room = LIMIT
    for part in parts:
        start = max(part.piece.offset, offset)
        size = min(part.piece.offset + part.piece.closed, end) - start
        closed = Part(Piece(start, size, part.piece.at, 0, cluster=True), as_it_lies=True)
        chosen = closed if part.size > room and part.piece.compressed else part
        room -= chosen.size
        yield chosen


def _inside(
    images: Images, parts: Sequence[Part], units: _Units, pieces: int
) -> tuple[FramePlan, tuple[Piece, ...]]:
    """How the parts are made, one after the other, and the old pieces for that."""
    at = 0
    copies: list[Copy] = []
    hulls: dict[Span, tuple[Span, Unit]] = {}
    for part in parts:
        if not part.as_it_lies:
            for span, unit in units(Span(part.piece.at, part.piece.opened)):
                place = at + span.offset - part.piece.at
                if unit.reason is Reason.SAME and span.size >= _SHORTEST_COPY:
                    start = unit.old[0].offset + span.offset - unit.span.offset
                    copies.append(Copy(place, start, span.size))
                elif unit.reason is not Reason.SAME:
                    first = hulls.get(unit.span, (span, unit))[0].offset
                    hulls[unit.span] = Span(first, span.end - first), unit
        at += part.size
    wanted = references(list(hulls.values()), LIMIT, images.is_code)
    spans = [item.span for item in wanted]
    spans += [Span(copy.offset, copy.size) for copy in copies]
    old = tuple(found for span in merged(spans) for found in images.old.within(span))
    # Neighbouring ranges may both need the cluster between them.
    old = tuple(dict.fromkeys(old))
    if len(old) > PARTS or sum(found.closed for found in old) > REFERENCES_LIMIT:
        return FramePlan(0, at, pieces, (), ()), ()
    return FramePlan(0, at, pieces, tuple(copies), wanted), old
