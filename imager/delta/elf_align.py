"""Which bytes of the old file became which of the new one, when most of them did not change.

Sequences that occur once in each file are the anchors; between two of them the split is where
most bytes are equal. Linear but for sorting, with numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 1 << 20
# Above this many bytes only a part of the sequences is considered, to bound memory and time.
_SAMPLED_ABOVE = 1 << 20
# A run of anchors shorter than this between two that agree with each other is a chance hit.
_CHANCE = 64


@dataclass(frozen=True)
class Alignment:
    """new[starts[i]:ends[i]] came from old[starts[i] + away[i]:ends[i] + away[i]]; ascending."""

    starts: Ints
    ends: Ints
    away: Ints

    def old(self, positions: Ints) -> Ints:
        """The old position of each new position, -1 where there is none."""
        index = np.searchsorted(self.starts, positions, side="right") - 1
        known = index >= 0
        index[~known] = 0
        if not len(self.starts):
            return np.full(len(positions), -1, np.int64)
        known &= positions < self.ends[index]
        return np.where(known, positions + self.away[index], -1)


def align(old: bytes, new: bytes, length: int) -> Alignment:
    """Aligns by sequences of length bytes, a multiple of 8."""
    a, b = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    sample = 1 << ((len(a) + len(b)) // 2 // _SAMPLED_ABOVE).bit_length()
    at_old, digests_old = _unique(a, length, sample)
    at_new, digests_new = _unique(b, length, sample)
    index = np.searchsorted(digests_old, digests_new)
    index[index == len(digests_old)] = 0
    if not len(digests_old):
        return Alignment(*(np.empty(0, np.int64) for _ in range(3)))
    both = digests_old[index] == digests_new
    positions, away = at_new[both], at_old[index[both]] - at_new[both]
    order = np.argsort(positions)
    return _filled(a, b, *_runs(positions[order], away[order], length))


def _unique(data: Bytes, length: int, sample: int) -> tuple[Ints, NDArray[np.uint64]]:
    """Positions of the sequences that occur once, and their digests, sorted by digest."""
    digests, places = [], []
    for start in range(0, max(0, len(data) - length + 1), _CHUNK):
        piece = data[start : start + _CHUNK + length - 1]
        words = np.lib.stride_tricks.sliding_window_view(piece, 8)
        # The bytes are little-endian words wherever this runs.
        word = np.ascontiguousarray(words).view("<u8")[:, 0]
        count = len(piece) - length + 1
        digest = np.zeros(count, np.uint64)
        for step in range(0, length, 8):
            digest = (digest ^ word[step : step + count]) * _MULTIPLIER
            digest ^= digest >> np.uint64(29)
        chosen = (word[:count] != 0) & (digest % np.uint64(sample) == 0)
        digests.append(digest[chosen])
        places.append(np.flatnonzero(chosen) + start)
    if not digests:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    unique, first, count_of = np.unique(
        np.concatenate(digests), return_index=True, return_counts=True
    )
    once = count_of == 1
    return np.concatenate(places)[first[once]], unique[once]


def _runs(positions: Ints, away: Ints, length: int) -> tuple[Ints, Ints, Ints]:
    """Start, end and distance of runs of anchors that agree, without chance hits."""
    for _ in range(2):
        if not len(positions):
            break
        first = np.flatnonzero(np.concatenate(([True], away[1:] != away[:-1])))
        last = np.concatenate((first[1:], [len(positions)])) - 1
        spans = positions[last] - positions[first] + length
        values = away[first]
        chance = np.zeros(len(first), bool)
        chance[1:-1] = (values[:-2] == values[2:]) & (spans[1:-1] < _CHANCE)
        keep = np.repeat(~chance, last - first + 1)
        positions, away = positions[keep], away[keep]
    if not len(positions):
        empty = np.empty(0, np.int64)
        return empty, empty, empty
    first = np.flatnonzero(np.concatenate(([True], away[1:] != away[:-1])))
    last = np.concatenate((first[1:], [len(positions)])) - 1
    return positions[first], positions[last] + length, away[first]


def _filled(old: Bytes, new: Bytes, starts: Ints, ends: Ints, away: Ints) -> Alignment:
    """The runs, each grown into the gaps on both sides as far as that gives equal bytes."""
    begin, end = starts.copy(), ends.copy()
    for index in range(len(starts) + 1):
        left = int(ends[index - 1]) if index else 0
        right = int(starts[index]) if index < len(starts) else len(new)
        if right <= left:
            # Anchors overlap by less than their length.
            if 0 < index < len(starts):
                begin[index] = left
            continue
        before = _equal(old, new, left, right, int(away[index - 1])) if index else None
        after = _equal(old, new, left, right, int(away[index])) if index < len(starts) else None
        forward, backward = _split(before, after, right - left)
        if index:
            end[index - 1] = left + forward
        if index < len(starts):
            begin[index] = right - backward
    keep = end > begin
    return Alignment(begin[keep], end[keep], away[keep])


def _equal(old: Bytes, new: Bytes, left: int, right: int, away: int) -> NDArray[np.int32]:
    """1 for each equal byte, -1 for each other one, of new[left:right]."""
    scores = np.full(right - left, -1, np.int32)
    low, high = max(left, -away), min(right, len(old) - away)
    if low < high:
        same = new[low:high] == old[low + away : high + away]
        scores[low - left : high - left] = np.where(same, 1, -1)
    return scores


def _split(
    before: NDArray[np.int32] | None, after: NDArray[np.int32] | None, size: int
) -> tuple[int, int]:
    """How far the run before the gap grows forwards, and the one after it backwards."""
    forward = np.zeros(size + 1, np.int64)
    backward = np.zeros(size + 1, np.int64)
    if before is not None:
        np.cumsum(before, out=forward[1:])
    if after is not None:
        np.cumsum(after[::-1], out=backward[1:])
    # The best length up to each: the rest of the gap belongs to no run.
    best_forward = np.maximum.accumulate(forward)
    best_backward = np.maximum.accumulate(backward)
    cut = int(np.argmax(best_forward + best_backward[::-1]))
    return int(np.argmax(forward[: cut + 1])), int(np.argmax(backward[: size - cut + 1]))
