"""Finds what delta.inodes needs to predict the inodes of a frame, from both layouts."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from delta.head import Copy
from delta.inode_tables import BLOCK, Range, Run, Shifts, Tables
from delta.inodes import SLOT, Frontier, Homes, Inode, OldInodes, parse
from imager.delta.erofs import Buffer, Layout, Node
from imager.delta.jobs import Mapped
from imager.delta.match import Span, normalised
from imager.delta.streams import Streams

# Bytes of a tail that may differ before it is coded with the old one as its reference.
_FEW = 8


@dataclass(frozen=True)
class Prediction:
    """tables: for the payload. references: old ranges for what is coded after all."""

    tables: Tables
    references: tuple[Span, ...]


class Predictor:
    """Knows which inode became which. layouts: of the old and the new stream."""

    def __init__(self, streams: Streams, layouts: tuple[Layout, Layout]) -> None:
        self._old, self._new = streams.old, streams.new
        self._base = Mapped(streams.old)
        old_layout, new_layout = layouts
        self._usable = old_layout.block == new_layout.block == BLOCK
        paths = {node.path: node for node in old_layout.nodes}
        similar: dict[str, Node] = {}
        for node in old_layout.nodes:
            similar.setdefault(normalised(node.path), node)
        self._counterparts: dict[str, Node] = {}
        self._moves: dict[int, int] = {}
        for node in new_layout.nodes:
            before = paths.get(node.path) or similar.get(normalised(node.path))
            if before is not None and before.kind == node.kind:
                self._counterparts[node.path] = before
                self._moves.setdefault(before.inode // SLOT, node.inode // SLOT)
        self._nodes = sorted(new_layout.nodes, key=lambda node: node.inode)
        self._places = [node.inode for node in self._nodes]
        self._blocks = {
            node.data + at: (node, at)
            for node in new_layout.nodes
            if node.kind == "directory"
            for at in range(0, node.data_size, BLOCK)
        }

    def predict(
        self, start: int, end: int, ranges: Sequence[Range], copies: Sequence[Copy]
    ) -> Prediction | None:
        """What predicts these ranges of the frame [start, end) of the new stream; None if nothing.

        ranges: ascending, whole blocks, with inodes or blocks of directories in them.
        """
        if not self._usable or not ranges:
            return None
        collected = _Collected([(low - start, high - start) for low, high in ranges], start)
        places = _Places(
            OldInodes(self._base, start), Frontier(collected.ranges), Homes(copies, start)
        )
        for low, high in ranges:
            for at in range(low, high, BLOCK):
                if at in self._blocks:
                    self._directory_block(collected, at, start)
            for node in self._inside(low, high):
                self._inode(collected, node, min(high, end), places)
        if start == 0:
            # The superblock.
            collected.holes.append((1024, 1152))
            collected.references.append(Span(1024, 128))
        if not collected.runs and not collected.directories:
            return None
        return collected.finished(self._needed(collected))

    def is_directory(self, at: int) -> bool:
        """Whether a block of a directory lies at that place of the new stream."""
        return at in self._blocks

    def _inside(self, low: int, high: int) -> Iterable[Node]:
        first, last = bisect_left(self._places, low), bisect_left(self._places, high)
        return self._nodes[first:last]

    def _directory_block(self, collected: _Collected, at: int, start: int) -> None:
        node, position = self._blocks[at]
        before = self._counterparts.get(node.path)
        if before is not None and position < before.data_size:
            source = before.data + position
            old, new = self._old[source : source + BLOCK], self._new[at : at + BLOCK]
            if self._same_directory(old, new):
                collected.directories.append((at - start, source))
                collected.named.update(_slots(old))
                return
            collected.references.append(Span(source, BLOCK))
        collected.holes.append((at - start, at - start + BLOCK))

    def _inode(
        self,
        collected: _Collected,
        node: Node,
        end: int,
        places: _Places,
    ) -> None:
        at, start = node.inode, collected.start
        mine = parse(bytes(self._new[at : at + 64]))
        before = self._counterparts.get(node.path)
        theirs = (
            parse(bytes(self._old[before.inode : before.inode + 64]))
            if before is not None
            else None
        )
        if node.inode_end > end:
            return
        if before is None or mine is None or theirs is None or mine.head != theirs.head:
            collected.holes.append((at - start, node.inode_end - start))
            if before is not None:
                collected.references.append(Span(before.inode, before.inode_end - before.inode))
            return
        changed = self._changed(node, mine, before, theirs)
        tail = mine.tail if changed else theirs.tail
        collected.place(before.inode, at, places.run(before.inode, at - start, mine.head + tail))
        if changed:
            collected.changed[collected.placed - 1] = mine.size - theirs.size
            if theirs.tail:
                collected.references.append(Span(before.inode + theirs.head, theirs.tail))
            if mine.tail:
                low = at - start + mine.head
                collected.tails.append((low, low + mine.tail))
        elif node.kind == "directory":
            low = before.inode + theirs.head
            collected.named.update(_slots(self._old[low : low + theirs.tail]))
        if mine.block is not None and theirs.block is not None:
            collected.blocks[theirs.block] = mine.block
        collected.numbers[theirs.number] = mine.number

    def _changed(self, node: Node, mine: Inode, before: Node, theirs: Inode) -> bool:
        if mine.size != theirs.size or mine.tail != theirs.tail:
            return True
        low, high = before.inode + theirs.head, node.inode + mine.head
        old = self._old[low : low + theirs.tail]
        new = self._new[high : high + mine.tail]
        if node.kind == "directory":
            return not self._same_directory(old, new)
        return old != new and _differing(old, new) > _FEW

    def _same_directory(self, old: Buffer, new: Buffer) -> bool:
        """Whether they name the same, though it may be elsewhere."""
        mapped = bytearray(old)
        for at, slot in _entries(old):
            if slot in self._moves:
                struct.pack_into("<Q", mapped, at, self._moves[slot])
        return _differing(mapped, new) <= _FEW

    def _needed(self, collected: _Collected) -> dict[int, int]:
        """Moves that the placed inodes do not tell."""
        known = collected.moves
        return {
            slot: self._moves[slot]
            for slot in sorted(collected.named)
            if slot in self._moves and known.get(slot, slot) != self._moves[slot]
        }


@dataclass(frozen=True)
class _Places:
    """Where a device expects things: what is written is how far that is from the truth."""

    old: OldInodes
    new: Frontier
    homes: Homes

    def run(self, old: int, new: int, size: int) -> Run:
        """A run of one inode, from a place of the base to one of the frame."""
        gap = (new - self.new.expected(size)) // SLOT
        behind = (old - self.old.expected()) // SLOT
        last = self.old.seek(self.homes.of(self.new.next()))
        home = (old - self.old.expected()) // SLOT
        closer = abs(home) < abs(behind)
        if not closer:
            self.old.seek(last)
        jump = home if closer else behind
        self.old.take(jump)
        self.new.take(size, gap)
        return Run(jump, closer, 1, gap)


class _Collected:
    """The tables of one frame as they grow."""

    def __init__(self, ranges: Sequence[Range], start: int) -> None:
        self.ranges = ranges
        self.start = start
        self.runs: list[Run] = []
        self.placed = 0
        self.moves: dict[int, int] = {}
        self.changed: dict[int, int] = {}
        self.directories: list[tuple[int, int]] = []
        self.holes: list[Range] = []
        self.tails: list[Range] = []
        self.references: list[Span] = []
        self.named: set[int] = set()
        self.blocks: dict[int, int] = {}
        self.numbers: dict[int, int] = {}

    def place(self, old: int, new: int, run: Run) -> None:
        """Adds an inode."""
        if self.runs and not run.jump and not run.gap and not run.home:
            self.runs[-1] = replace(self.runs[-1], count=self.runs[-1].count + 1)
        else:
            self.runs.append(run)
        self.moves[old // SLOT] = new // SLOT
        self.placed += 1

    def finished(self, moves: dict[int, int]) -> Prediction:
        """All of it."""
        tables = Tables(
            self.start // BLOCK,
            self.ranges,
            _pieces(self.blocks),
            _pieces(self.numbers),
            moves,
            self.runs,
            self.changed,
            sorted(self.directories),
            _joined(self.holes),
        )
        return Prediction(tables, tuple(self.references))


def _pieces(moves: Mapping[int, int]) -> Shifts:
    starts: list[int] = []
    shifts: list[int] = []
    for old, new in sorted(moves.items()):
        if new - old != (shifts[-1] if shifts else 0):
            starts.append(old)
            shifts.append(new - old)
    return Shifts(starts, shifts)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start < found[-1][1] + SLOT:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif start < end:
            found.append((start, end))
    return found


def _entries(block: Buffer) -> Iterator[tuple[int, int]]:
    """Place and inode of each entry of a block of a directory."""
    if len(block) >= 12:
        (names,) = struct.unpack_from("<H", block, 8)
        for at in range(0, min(names, len(block)) - 11, 12):
            yield at, struct.unpack_from("<Q", block, at)[0]


def _slots(block: Buffer) -> set[int]:
    return {slot for _, slot in _entries(block)}


def _differing(old: Buffer, new: Buffer) -> int:
    if len(old) != len(new):
        return max(len(old), len(new))
    return sum(a != b for a, b in zip(old, new, strict=True))
