"""The tables of a kernel's names (kallsyms): addresses, and the order of the names.

Source: Linux, scripts/kallsyms.c. kallsyms_offsets has distances from the kernel's beginning in
their order, kallsyms_relative_base that beginning, kallsyms_seqs_of_names the number of each name
in the order of the alphabet, 3 bytes with the highest first. Nothing says where they are.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from delta.machines.moves import Moves
from delta.rewrite import INDEX_LIMIT, NUMBERS_LIMIT, Kind
from imager.delta.elf_file import Executable

Ints = NDArray[np.int64]

# A kernel has at least so many names, nothing between two of them takes more bytes, and at most
# so many are those of variables per CPU, whose offsets do not grow with the others.
_NAMES, _GAP, _OTHERS = 1000, 1 << 26, 1 << 16
_CHANCE = 16
_WIDTH = 3


@dataclass(frozen=True)
class NameTables:
    """Positions in the data: of the distances of all but some first names, and of the order.

    distances: the first. before: names before these.
    """

    start: int
    end: int
    distances: Ints
    order: tuple[int, int]
    before: int


def find_names(data: bytes | bytearray, direction: int) -> NameTables | None:
    """The longest run of numbers that grow in that direction, 1 or -1, and what follows it."""
    values = np.frombuffer(data, "<i4", len(data) // 4).astype(np.int64)
    steps = np.diff(values) * direction
    grows = (steps >= 0) & (steps < _GAP)
    ends = np.flatnonzero(np.diff(np.concatenate(([0], grows.astype(np.int8), [0]))))
    first = last = 0
    for low, high in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True):
        count = high - low
        if count >= max(_NAMES, last - first) and abs(values[high] - values[low]) >= 16 * count:
            first, last = low + 1, high + 1
    if not last:
        return None
    at = -(-4 * last // 8) * 8 + 8
    # Numbers before the table may grow with it by chance.
    count = _order(data, at, max(last - first - _CHANCE, 1))
    if not count:
        return None
    first = max(first, last - count)
    order = at, at + _WIDTH * count
    return NameTables(4 * first, 4 * last, values[first:last], order, count - last + first)


def _order(data: bytes | bytearray, at: int, least: int) -> int:
    """How many numbers from there on are all of 0 to their count; 0 if none."""
    most = min((len(data) - at) // _WIDTH, least + _OTHERS)
    if most < least:
        return 0
    digits = np.frombuffer(data, np.uint8, _WIDTH * most, at).reshape(-1, _WIDTH).astype(np.int64)
    numbers = digits @ np.array([1 << 16, 1 << 8, 1])
    full = np.flatnonzero(np.maximum.accumulate(numbers) == np.arange(most)) + 1
    for count in full[full >= least][:3].tolist():
        if len(np.unique(numbers[:count])) == count:
            return int(count)
    return 0


def with_order(before: Executable, after: Executable, moves: Moves) -> Executable:
    """The old program, with how the numbers of its names changed; without them if unknown."""
    indexes = _indexes(before, after, moves)
    regions = (
        replace(region, indexes=indexes) if region.kind is Kind.INDEXES else region
        for region in before.regions
    )
    return replace(
        before, regions=tuple(region for region in regions if region.indexes or _other(region.kind))
    )


def _other(kind: Kind) -> bool:
    return kind is not Kind.INDEXES


def _indexes(before: Executable, after: Executable, moves: Moves) -> Moves | None:
    """From old numbers of names to new ones, by the addresses that they are for."""
    if before.names is None or after.names is None:
        return None
    (old, skipped_old), (new, skipped_new) = before.names, after.names
    piece = np.searchsorted(np.asarray(moves.starts), old, side="right") - 1
    moved = old + np.asarray(moves.shifts)[np.maximum(piece, 0)]
    _, ours, theirs = np.intersect1d(_ranked(moved), _ranked(new), return_indices=True)
    numbers = ours[np.argsort(ours)] + skipped_old
    shifts = theirs[np.argsort(ours)] + skipped_new - numbers
    first = np.flatnonzero(np.concatenate((shifts[:1] != 0, shifts[1:] != shifts[:-1])))
    if len(first) >= NUMBERS_LIMIT or not len(first) or numbers[first[0]] == 0:
        return None
    starts, values = [0, *numbers[first].tolist()], [0, *shifts[first].tolist()]
    return Moves(0, INDEX_LIMIT, array("q", starts), array("q", values))


def _ranked(addresses: Ints) -> Ints:
    """Each address with how many of the same came before it."""
    order = np.argsort(addresses, kind="stable")
    ascending = addresses[order]
    first = np.concatenate(([True], ascending[1:] != ascending[:-1]))
    since = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - since
    ranked: Ints = addresses * (1 << 20) + ranks
    return ranked
