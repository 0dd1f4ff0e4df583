"""The tables by which inodes are predicted, read from a payload: see delta.inodes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from delta.errors import DeltaError
from delta.varint import Reader, signed

BLOCK = 4096
# Pieces of moves, inodes and ranges: more than any frame of 16 MiB needs.
PIECES, INODES = 1 << 14, 1 << 16
PLACE_LIMIT = 1 << 48

Range = tuple[int, int]
"""Start and end, in bytes."""


@dataclass(frozen=True)
class Shifts:
    """How far what has a number moved, in pieces. starts: ascending."""

    starts: Sequence[int] = ()
    shifts: Sequence[int] = ()

    def moved(self, number: int) -> int:
        """The new number."""
        piece = bisect_right(self.starts, number) - 1
        return number + self.shifts[piece] if piece >= 0 else number


@dataclass(frozen=True)
class Run:
    """count old inodes, one after the other. jump: slots between where the first is expected in
    the base and where it is; home: whether it is expected where blocks around it come from, not
    behind the last. gap: slots between where it is expected in the frame and where it is."""

    jump: int
    home: bool
    count: int
    gap: int


@dataclass(frozen=True)
class Tables:
    """A section of inodes.

    origin: block of the new image where the frame begins. ranges: of the frame, whole blocks,
    that are predicted. blocks, numbers: moves of blocks and of inode numbers. moves: old slot to
    new slot of inodes that no run of this frame places. changed: by number of the placed inode,
    by how much its file grew, when its tail is coded. directories: (place in the frame, place in
    the base) of blocks of directories. holes: ranges that are coded after all.
    """

    origin: int = 0
    ranges: Sequence[Range] = ()
    blocks: Shifts = Shifts()
    numbers: Shifts = Shifts()
    moves: Mapping[int, int] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    changed: Mapping[int, int] = field(default_factory=dict)
    directories: Sequence[tuple[int, int]] = ()
    holes: Sequence[Range] = ()


def read_tables(reader: Reader, coded: Sequence[Range]) -> Tables:
    """The tables, of which every range is in the coded ones. Raises DeltaError."""
    origin = reader.number(PLACE_LIMIT, "a block")
    size = sum(end - start for start, end in coded)
    ranges = list(placed_ranges(_ranges(reader, size, BLOCK), coded))
    frame = coded[-1][1] if coded else 0
    blocks, numbers = _shifts(reader), _shifts(reader)
    moves = dict(_moves(reader))
    runs = _runs(reader)
    total = sum(run.count for run in runs)
    if total > INODES:
        raise DeltaError(f"expected at most {INODES} inodes, found {total}")
    changed = {}
    number = -1
    for step, grown in _pairs(reader, INODES, "a changed inode"):
        number += step + 1
        changed[number] = signed(grown)
    directories = []
    at, old = 0, origin
    for gap, distance in _pairs(reader, INODES, "a block of a directory"):
        at += gap
        old += signed(distance)
        if (at + 1) * BLOCK > frame or old < 0 or not _within(ranges, at * BLOCK):
            raise DeltaError("expected a block of a directory within the frame and the base")
        directories.append((at * BLOCK, old * BLOCK))
        at, old = at + 1, old + 1
    holes = _ranges(reader, frame, 1)
    reader.end()
    return Tables(origin, ranges, blocks, numbers, moves, runs, changed, directories, holes)


def placed_ranges(ranges: Sequence[Range], coded: Sequence[Range]) -> Iterator[Range]:
    """Ranges of the coded bytes, one after the other, as ranges of the frame."""
    rest = iter(coded)
    start = end = behind = 0
    for low, high in ranges:
        at = low
        while at < high:
            while at >= behind + end - start:
                behind += end - start
                start, end = next(rest)
            stop = min(high, behind + end - start)
            yield start + at - behind, start + stop - behind
            at = stop


def _within(ranges: Sequence[Range], at: int) -> bool:
    index = bisect_right(ranges, (at, PLACE_LIMIT)) - 1
    return index >= 0 and at + BLOCK <= ranges[index][1]


def _columns(reader: Reader, limit: int, width: int, what: str) -> list[list[int]]:
    """Columns of equal length, which comes before them."""
    count = reader.number(min(limit, reader.left), f"a number of {what}")
    return [[reader.number(PLACE_LIMIT, what) for _ in range(count)] for _ in range(width)]


def _pairs(reader: Reader, limit: int, what: str) -> Iterator[tuple[int, int]]:
    first, second = _columns(reader, limit, 2, what)
    return zip(first, second, strict=True)


def _ranges(reader: Reader, frame: int, unit: int) -> list[Range]:
    found: list[Range] = []
    at = 0
    for gap, size in _pairs(reader, INODES, "a range"):
        start, at = at + gap * unit, at + (gap + size) * unit
        if at > frame:
            raise DeltaError(f"expected a range of a frame of {frame}, found {at}")
        found.append((start, at))
    return found


def _shifts(reader: Reader) -> Shifts:
    starts: list[int] = []
    shifts: list[int] = []
    start = shift = 0
    for step, change in _pairs(reader, PIECES, "a move"):
        start += step
        shift += signed(change)
        starts.append(start)
        shifts.append(shift)
    return Shifts(starts, shifts)


def _moves(reader: Reader) -> Iterator[tuple[int, int]]:
    slot, shift = -1, 0
    for step, change in _pairs(reader, INODES, "a moved inode"):
        slot += step + 1
        shift += signed(change)
        if not 0 <= slot + shift <= PLACE_LIMIT:
            raise DeltaError("expected an inode to move within the image")
        yield slot, slot + shift


def _runs(reader: Reader) -> list[Run]:
    columns = _columns(reader, INODES, 3, "inodes")
    return [
        Run(signed(jump >> 1), bool(jump & 1), count + 1, signed(gap))
        for jump, count, gap in zip(*columns, strict=True)
    ]
