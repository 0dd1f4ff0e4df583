"""From pairs of old and new addresses to the fewest pieces that explain most of them."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from delta.machines.moves import Moves

Ints = NDArray[np.int64]

# Bytes of the delta: a piece of the map; an address that is not predicted (each time it is used).
PIECE_COST = 4.0
MISS_COST = 3.0
_MOST_USES = 8


def votes(old: Ints, new: Ints) -> tuple[Ints, Ints, Ints]:
    """Each old address, its most frequent shift, and how often it was seen."""
    pairs = np.stack([old, new - old], axis=1)
    if not len(pairs):
        return tuple(np.empty(0, np.int64) for _ in range(3))  # type: ignore[return-value]
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    # Sorted by address, then by count: the last of each address wins.
    order = np.lexsort((counts, unique[:, 0]))
    unique, counts = unique[order], counts[order]
    last = np.concatenate((unique[1:, 0] != unique[:-1, 0], [True]))
    return unique[last, 0], unique[last, 1], counts[last]


def pieces(addresses: Ints, shifts: Ints, counts: Ints, *, low: int, high: int) -> Moves:
    """The map of least cost: pieces that are paid for, addresses that are missed, too.

    Viterbi's algorithm over the shift as the hidden state. All states but the wanted one grow
    dearer together at each address, so one number stands for that and a step takes constant time.
    """
    wanted = shifts.tolist()
    weights = (np.minimum(counts, _MOST_USES) * MISS_COST).tolist()
    costs: dict[int, float] = {0: 0.0}
    best, best_cost = 0, 0.0
    switched = bytearray(len(wanted))
    came_from: list[int] = []
    for index, (shift, weight) in enumerate(zip(wanted, weights, strict=True)):
        came_from.append(best)
        stay = costs.get(shift)
        if stay is None or stay > best_cost + PIECE_COST:
            switched[index] = 1
            stay = best_cost + PIECE_COST
        costs[shift] = stay - weight
        if stay - weight < best_cost:
            best, best_cost = shift, stay - weight
    starts, values = [], []
    state = best
    for index in range(len(wanted) - 1, -1, -1):
        if switched[index] and wanted[index] == state:
            starts.append(index)
            values.append(state)
            state = came_from[index]
    return _moves(
        addresses.tolist(),
        starts[::-1],
        values[::-1],
        Moves(low, high, array("q", [low]), array("q", [state])),
    )


def _moves(addresses: list[int], indexes: list[int], values: list[int], moves: Moves) -> Moves:
    """moves: of one piece, which is before all others; they are added to it."""
    low, starts, shifts = moves.low, moves.starts, moves.shifts
    for index, value in zip(indexes, values, strict=True):
        start = _roundest(addresses[index - 1] if index else low, addresses[index])
        if start <= starts[-1]:
            shifts[-1] = value
        elif value != shifts[-1]:
            starts.append(start)
            shifts.append(value)
    return moves


def _roundest(after: int, last: int) -> int:
    """The number in (after, last] that is divisible by the largest power of two: it packs best."""
    if last <= after:
        return last
    bits = (after ^ last).bit_length() - 1
    return last >> bits << bits
