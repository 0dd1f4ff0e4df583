"""Writing the tables by which inodes are predicted, as delta.inode_tables reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from delta.inode_tables import BLOCK, Range, Run, Shifts, Tables
from delta.varint import write, write_signed
from imager.delta.difference import sparse
from imager.delta.erofs import Buffer


def written(tables: Tables, coded: Sequence[Range]) -> bytes:
    """The tables as delta.inode_tables reads them, in a frame with these coded ranges."""
    found = [write(tables.origin), _ranges(list(_in_coded(tables.ranges, coded)), BLOCK)]
    found += [_shifts(tables.blocks), _shifts(tables.numbers), _moves(tables.moves)]
    found.append(
        _columns((_jump(run), write(run.count - 1), write_signed(run.gap)) for run in tables.runs)
    )
    found.append(_columns(_stepped(sorted(tables.changed.items()))))
    rows = []
    behind, old = 0, tables.origin
    for at, source in tables.directories:
        rows.append((write(at // BLOCK - behind), write_signed(source // BLOCK - old)))
        behind, old = at // BLOCK + 1, source // BLOCK + 1
    found.append(_columns(rows))
    found.append(_ranges(tables.holes, 1))
    return b"".join(found)


def _jump(run: Run) -> bytes:
    jump = 2 * run.jump if run.jump >= 0 else -2 * run.jump - 1
    return write(2 * jump + run.home)


def _in_coded(ranges: Sequence[Range], coded: Sequence[Range]) -> Iterator[Range]:
    """Ranges of the frame as ranges of the coded bytes, neighbours made one."""
    behind = 0
    low = high = 0
    for start, end in coded:
        for first, last in ranges:
            if start <= first < end:
                at = behind + first - start
                if at != high:
                    if low < high:
                        yield low, high
                    low = at
                high = at + last - first
        behind += end - start
    if low < high:
        yield low, high


def corrections(filled: Sequence[Range], made: Buffer, wanted: Buffer) -> tuple[bytes, bytes]:
    """Gaps and changes that turn what was predicted into what is wanted."""
    added = b"".join(
        bytes((b - a) & 255 for a, b in zip(made[start:end], wanted[start:end], strict=True))
        if made[start:end] != wanted[start:end]
        else bytes(end - start)
        for start, end in filled
    )
    return sparse(added)


def _columns(rows: Iterable[tuple[bytes, ...]]) -> bytes:
    rows = list(rows)
    return write(len(rows)) + b"".join(map(b"".join, zip(*rows, strict=True)))


def _stepped(items: Iterable[tuple[int, int]]) -> Iterator[tuple[bytes, bytes]]:
    last = -1
    for number, value in items:
        yield write(number - last - 1), write_signed(value)
        last = number


def _ranges(ranges: Sequence[Range], unit: int) -> bytes:
    rows = []
    at = 0
    for start, end in ranges:
        rows.append((write((start - at) // unit), write((end - start) // unit)))
        at = end
    return _columns(rows)


def _shifts(shifts: Shifts) -> bytes:
    rows = []
    start = shift = 0
    for next_start, next_shift in zip(shifts.starts, shifts.shifts, strict=True):
        rows.append((write(next_start - start), write_signed(next_shift - shift)))
        start, shift = next_start, next_shift
    return _columns(rows)


def _moves(moves: Mapping[int, int]) -> bytes:
    rows = []
    last, shift = -1, 0
    for slot, moved in sorted(moves.items()):
        rows.append((write(slot - last - 1), write_signed(moved - slot - shift)))
        last, shift = slot, moved - slot
    return _columns(rows)
