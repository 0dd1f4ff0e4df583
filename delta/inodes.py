"""Predicting an erofs image's inodes: the old ones, where the new image has them.

When one file grows, mkfs places many inodes elsewhere, and every directory and inode that refers
to what moved changes. All of that follows from where each inode went. A payload says which old
inodes lie one after the other in the new metadata blocks; their own references are changed
accordingly. What is predicted wrong is listed byte by byte. The format: docs/delta-format.md.

Nothing is believed: a wrong table makes wrong bytes, which the digest of the segment finds.
"""

from __future__ import annotations

import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from delta.codecs.sparse import CHANGES_LIMIT, GAPS_LIMIT, placed
from delta.errors import DeltaError
from delta.head import Copy
from delta.inode_tables import BLOCK, Range, Tables, read_tables
from delta.references import Base
from delta.sections import read_section
from delta.varint import Reader

SLOT = 32
TABLES_LIMIT = 1 << 20
_HEADER = struct.Struct("<HHHHI4xII")
_ENTRY = 12
_COMPACT, _EXTENDED = 32, 64
_PLAIN, _INLINE = 0, 2


@dataclass(frozen=True)
class Inode:
    """What an inode says of itself. head: bytes before its tail; tail: bytes of the content's end
    behind it; block: first of its blocks, None when it has none."""

    mode: int
    head: int
    size: int
    tail: int
    block: int | None
    number: int

    @property
    def total(self) -> int:
        """Bytes that it takes."""
        return self.head + self.tail


def predict(
    reader: Reader,
    base: Base,
    into: memoryview,
    copies: Sequence[Copy],
    coded: Sequence[Range],
) -> list[Range]:
    """Fills what is predicted; returns what is still to be coded, in order.

    coded: what the copies left. Raises DeltaError, and OSError from the base.
    """
    section = read_section(reader, TABLES_LIMIT, "inodes").whole()
    tables = read_tables(Reader(memoryview(section)), coded)
    left = without(coded, tables.ranges)
    filled, open_ranges = fill(tables, base, into, copies)
    _correct(reader, filled, into)
    return sorted([*left, *open_ranges])


def _correct(reader: Reader, filled: Sequence[Range], into: memoryview) -> None:
    """Adds the listed changes to what was predicted."""
    gaps = read_section(reader, GAPS_LIMIT, "gaps between changes").whole()
    changes = read_section(reader, CHANGES_LIMIT, "changes").whole()
    rest = iter(filled)
    start = end = behind = 0
    for number, change in placed(gaps, changes):
        while number >= behind + end - start:
            behind += end - start
            start, end = next(rest, (-1, -1))
            if start < 0:
                raise DeltaError("expected changes of what is predicted, found more")
        at = start + number - behind
        into[at] = (into[at] + change) & 255


def fill(
    tables: Tables, base: Base, into: memoryview, copies: Sequence[Copy]
) -> tuple[list[Range], list[Range]]:
    """Fills the ranges; returns those that are predicted, and those that are coded after all."""
    for start, end in tables.ranges:
        into[start:end] = bytes(end - start)
    found = list(place(tables, base, into, copies))
    moves = {old // SLOT: tables.origin * (BLOCK // SLOT) + at // SLOT for at, old, _, _ in found}
    moves.update(tables.moves)
    tails: list[Range] = []
    for number, (at, _, inode, tail) in enumerate(found):
        _move(into, at, inode, tables, tables.changed.get(number, 0))
        start, end = at + inode.head, at + inode.head + tail
        if number in tables.changed:
            tails.append((start, end))
        elif stat.S_ISDIR(inode.mode):
            _move_entries(into, start, end, moves)
    for at, old in tables.directories:
        into[at : at + BLOCK] = _exactly(base, old, BLOCK)
        _move_entries(into, at, at + BLOCK, moves)
    holes = sorted([*(tail for tail in tails if tail[0] < tail[1]), *tables.holes])
    return without(tables.ranges, holes), holes


def place(
    tables: Tables, base: Base, into: memoryview, copies: Sequence[Copy]
) -> Iterator[tuple[int, int, Inode, int]]:
    """Copies the inodes; yields for each its place in the frame, its place in the base, what it
    says, and the bytes of its tail in the frame."""
    new = Frontier(tables.ranges)
    old = OldInodes(base, tables.origin * BLOCK)
    homes = Homes(copies, tables.origin * BLOCK)
    number = 0
    for run in tables.runs:
        if run.home:
            old.seek(homes.of(new.next()))
        for index in range(run.count):
            at_old, inode, data = old.take(0 if index else run.jump)
            grown = tables.changed.get(number)
            tail = inode.tail if grown is None else tail_of(inode.size + grown)
            at = new.take(inode.head + tail, 0 if index else run.gap)
            if grown is None:
                into[at : at + inode.total] = data
            else:
                into[at : at + inode.head] = data[: inode.head]
            yield at, at_old, inode, tail
            number += 1


class Homes:
    """Where the blocks of a frame come from, by what is copied before them."""

    def __init__(self, copies: Sequence[Copy], origin: int) -> None:
        self._places = [copy.at for copy in copies]
        self._offsets = [copy.source.offset for copy in copies]
        self._origin = origin

    def of(self, at: int) -> int:
        """The place in the base, a whole slot."""
        index = bisect_right(self._places, at) - 1
        if index < 0:
            return self._origin + at
        return max(self._offsets[index] + at - self._places[index], 0) // SLOT * SLOT


class OldInodes:
    """Reads inodes of the base one after the other."""

    def __init__(self, base: Base, at: int) -> None:
        self._base = base
        self._at = at
        self._start = 0
        self._data = b""

    def expected(self) -> int:
        """Where the next one is, if nothing else is said: behind the last, or in the next block
        when there is none behind it."""
        if self._at % BLOCK and not any(self._read(self._at, 8)):
            return -(-self._at // BLOCK) * BLOCK
        return self._at

    def seek(self, at: int) -> int:
        """Expects the next one there; returns where it was expected before."""
        last, self._at = self._at, at
        return last

    def take(self, jump: int) -> tuple[int, Inode, bytes]:
        """The place of the inode so many slots from the expected one, what it says, its bytes."""
        at = self.expected() + jump * SLOT
        if not 0 <= at < self._base.size:
            raise DeltaError(f"expected an inode in a base of {self._base.size}, found {at}")
        inode = parse(self._read(at, _EXTENDED))
        if inode is None:
            raise DeltaError(f"expected an inode at {at} of the base")
        data = self._read(at, inode.total)
        if len(data) != inode.total:
            raise DeltaError(f"expected an inode of {inode.total} bytes at the end of the base")
        self._at = -(-(at + inode.total) // SLOT) * SLOT
        return at, inode, data

    def _read(self, at: int, size: int) -> bytes:
        """At most size bytes, less at the end of the base."""
        if not self._start <= at <= at + size <= self._start + len(self._data):
            self._start = at // BLOCK * BLOCK
            length = max(min(3 * BLOCK, self._base.size - self._start), 0)
            self._data = self._base.read(self._start, length) if length else b""
        return self._data[at - self._start : at - self._start + size]


class Frontier:
    """Places inodes in the ranges of a frame, as mkfs.erofs does: none lies in two blocks."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._starts = [start for start, _ in ranges]
        self._at = self._starts[0] if ranges else 0

    def next(self) -> int:
        """The first free place, unless an inode is too large for it."""
        return self._inside(self._at)

    def expected(self, size: int) -> int:
        """Where one of that size is, if nothing else is said."""
        at = self._at
        if at % BLOCK + size > BLOCK:
            at = -(-at // BLOCK) * BLOCK
        return self._inside(at)

    def _inside(self, at: int) -> int:
        if not self._ranges:
            return at
        index = max(bisect_right(self._starts, at) - 1, 0)
        if at >= self._ranges[index][1] and index + 1 < len(self._ranges):
            at = self._starts[index + 1]
        return at

    def take(self, size: int, gap: int) -> int:
        """The place so many slots behind the expected one. Raises DeltaError outside of a range."""
        if not self._ranges:
            raise DeltaError("expected no inodes")
        at = self.expected(size) + gap * SLOT
        index = bisect_right(self._starts, at) - 1
        if index < 0 or at + size > self._ranges[index][1]:
            raise DeltaError(f"expected an inode within the predicted ranges, found {at}")
        self._at = -(-(at + size) // SLOT) * SLOT
        return at


def parse(data: bytes) -> Inode | None:
    """The inode that the bytes begin with, None when it is none that could be predicted."""
    if len(data) < _COMPACT:
        return None
    form, attributes, mode, _, size, place, number = _HEADER.unpack_from(data)
    head = _COMPACT
    if form & 1:
        if len(data) < _EXTENDED:
            return None
        head = _EXTENDED
        (size,) = struct.unpack_from("<Q", data, 8)
    head += 12 + 4 * (attributes - 1) if attributes else 0
    layout = form >> 1 & 7
    tail = tail_of(size) if layout == _INLINE else 0
    if not mode or layout not in (_PLAIN, _INLINE) or head + tail > BLOCK:
        return None
    linked = stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
    return Inode(mode, head, size, tail, place if linked and size > tail else None, number)


def tail_of(size: int) -> int:
    """Bytes behind the inode, of a content of that size. Raises DeltaError below 0."""
    if size < 0:
        raise DeltaError("expected a file of at least 0 bytes")
    return size - max(-(-size // BLOCK) - 1, 0) * BLOCK


def without(ranges: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """What is left of the ranges. Both ascend. Raises DeltaError if not all taken lie in them."""
    left: list[Range] = []
    rest = iter(taken)
    hole = next(rest, None)
    for start, end in ranges:
        at = start
        while hole is not None and hole[0] < end:
            if hole[0] < at or hole[1] > end:
                raise DeltaError(f"expected {hole} within what is left of {start} to {end}")
            if hole[0] > at:
                left.append((at, hole[0]))
            at = hole[1]
            hole = next(rest, None)
        if at < end:
            left.append((at, end))
    if hole is not None:
        raise DeltaError(f"expected {hole} within the ranges")
    return left


def _move(into: memoryview, at: int, inode: Inode, tables: Tables, grown: int) -> None:
    """Changes what an inode refers to, and its size."""
    if inode.block is not None:
        _put(into, at + 16, tables.blocks.moved(inode.block))
    _put(into, at + 20, tables.numbers.moved(inode.number))
    if grown:
        wide = inode.size + grown >= 1 << 32 or inode.size >= 1 << 32
        if not wide:
            _put(into, at + 8, inode.size + grown)


def _put(into: memoryview, at: int, value: int) -> None:
    if 0 <= value < 1 << 32:
        struct.pack_into("<I", into, at, value)


def _move_entries(into: memoryview, start: int, end: int, moves: Mapping[int, int]) -> None:
    """Changes the inodes that a block of a directory names."""
    if end - start < _ENTRY:
        return
    (names,) = struct.unpack_from("<H", into, start + 8)
    for at in range(start, min(start + names, end) - _ENTRY + 1, _ENTRY):
        (slot,) = struct.unpack_from("<Q", into, at)
        moved = moves.get(slot)
        if moved is not None:
            struct.pack_into("<Q", into, at, moved)


def _exactly(base: Base, at: int, size: int) -> bytes:
    if at + size > base.size:
        raise DeltaError(f"expected {size} bytes of a base of {base.size}, found offset {at}")
    data = base.read(at, size)
    if len(data) != size:
        raise DeltaError(f"expected {size} bytes of the base, found {len(data)}")
    return data
