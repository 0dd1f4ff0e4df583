"""From units to frames: what each frame copies and which old ranges it refers to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from delta.decode import FRAME_LIMIT
from delta.inode_tables import Tables
from imager.delta.frame import Copy
from imager.delta.match import Reason, Span, Unit, merged

# The format's limit for the references of a frame.
REFERENCES = 16 << 20
# Where a part of a file is made from the matching part of the old file, that much around it too.
_MARGIN = 1 << 20
# Two frames with no more than this to code share what they have in common.
LITTLE = 4 << 20
# Shorter copies cost more in the list of operations than they save in the coded stream.
_SHORTEST_COPY = 64

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An old range that a frame refers to. start: its position in its file. pair: the new and
    the old file by number, where addresses of code are to be rewritten."""

    span: Span
    start: int = 0
    pair: Pair | None = None


@dataclass(frozen=True, slots=True)
class FramePlan:
    """A frame to encode. offset, size: its range of the new stream. inodes: what predicts them,
    when that is worth it."""

    offset: int
    size: int
    pieces: int
    copies: tuple[Copy, ...]
    references: tuple[Wanted, ...]
    inodes: Tables | None = None

    @property
    def coded(self) -> int:
        """Bytes that are not copied."""
        return self.size - sum(copy.size for copy in self.copies)


def plan(
    units: Sequence[Unit],
    size: int,
    *,
    piece: int,
    pieces: int,
    limit: int = REFERENCES,
    is_code: frozenset[Pair] = frozenset(),
    little: int = LITTLE,
) -> list[FramePlan]:
    """Frames that cover the new stream of that size. units: in order, without gaps.

    pieces: of a frame as a rule; two frames that have no more than little bytes to code are made
    one. is_code: pairs whose references keep their pair.
    """
    frames: list[FramePlan] = []
    starts = _starts(units, size, piece * pieces, little)
    parts = parts_of(units, starts)
    for offset, end, mine in zip(starts, [*starts, size][1:], parts, strict=True):
        frames.append(
            FramePlan(
                offset,
                end - offset,
                -(-(end - offset) // piece),
                _copies(mine, offset),
                references(mine, limit, is_code),
            )
        )
    return frames


def _starts(units: Sequence[Unit], size: int, length: int, little: int) -> list[int]:
    """Where frames begin: every length bytes, but for two that are made as one."""
    starts = list(range(0, size, length))
    coded = [
        sum(span.size for span, unit in part if unit.reason is not Reason.SAME)
        for part in parts_of(units, starts)
    ]
    joined = {
        starts[number]
        for number in range(1, len(starts), 2)
        if 2 * length <= FRAME_LIMIT and sum(coded[number - 1 : number + 1]) <= little
    }
    return [start for start in starts if start not in joined]


def parts_of(units: Sequence[Unit], starts: Sequence[int]) -> list[list[tuple[Span, Unit]]]:
    """For each frame, its ranges with the units that they are of. starts: of the frames."""
    found: list[list[tuple[Span, Unit]]] = [[] for _ in starts]
    number = 0
    for unit in units:
        at = unit.span.offset
        while at < unit.span.end:
            while number + 1 < len(starts) and starts[number + 1] <= at:
                number += 1
            last = number + 1 == len(starts)
            stop = unit.span.end if last else min(starts[number + 1], unit.span.end)
            found[number].append((Span(at, stop - at), unit))
            at = stop
    return found


def _copies(parts: Sequence[tuple[Span, Unit]], frame: int) -> tuple[Copy, ...]:
    """What is there as it is, with neighbours made one where they are neighbours in both."""
    found: list[Copy] = []
    for span, unit in parts:
        if unit.reason is not Reason.SAME:
            continue
        at = span.offset - frame
        offset = unit.old[0].offset + span.offset - unit.span.offset
        last = found[-1] if found else None
        if last and last.at + last.size == at and last.offset + last.size == offset:
            found[-1] = replace(last, size=last.size + span.size)
        else:
            found.append(Copy(at, offset, span.size))
    return tuple(copy for copy in found if copy.size >= _SHORTEST_COPY)


def references(
    parts: Sequence[tuple[Span, Unit]], limit: int, is_code: frozenset[Pair]
) -> tuple[Wanted, ...]:
    """Old ranges of all units that are not the same, at most limit bytes, in their old order."""
    plain: list[Span] = []
    code: list[Wanted] = []
    for span, unit in parts:
        if unit.reason in (Reason.SAME, Reason.NONE):
            continue
        if unit.reason in (Reason.METADATA, Reason.CONTENT):
            plain.extend(unit.old)
            continue
        window = _window(span, unit, limit)
        if unit.pair in is_code:
            code.append(Wanted(window, window.offset - unit.old[0].offset, unit.pair))
        else:
            plain.append(window)
    wanted = [*(Wanted(span) for span in merged(plain)), *dict.fromkeys(code)]
    wanted.sort(key=lambda item: (item.span.offset, item.span.size, item.start))
    return tuple(_capped(wanted, limit))


def _window(span: Span, unit: Unit, limit: int) -> Span:
    """The old range for a part of a unit: all of it, or what lies where the part lies."""
    old = unit.old[0]
    if span == unit.span and old.size <= limit:
        return old
    ratio = old.size / unit.span.size
    start = int((span.offset - unit.span.offset) * ratio) - _MARGIN
    end = int((span.end - unit.span.offset) * ratio) + _MARGIN
    # Whole words, so that code is not cut within an instruction or a pointer.
    start, end = max(start, 0) // 4096 * 4096, min(-(-end // 4096) * 4096, old.size)
    return Span(old.offset + start, end - start)


def _capped(wanted: Sequence[Wanted], limit: int) -> Iterator[Wanted]:
    """The same within the limit: the largest give up equally, at both of their ends."""
    cap = _cap([item.span.size for item in wanted], limit)
    for item in wanted:
        size = min(item.span.size, cap)
        cut = (item.span.size - size) // 2 // 4096 * 4096
        if size:
            yield replace(item, span=Span(item.span.offset + cut, size), start=item.start + cut)


def _cap(sizes: Sequence[int], limit: int) -> int:
    """The largest size that all can have so that their sum is at most the limit."""
    left, count = limit, len(sizes)
    for size in sorted(sizes):
        if size * count > left:
            return left // count // 4096 * 4096 or left // count
        left -= size
        count -= 1
    return limit
