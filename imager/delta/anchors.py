"""Finds content that moved, where no names help: in boot artifacts, and in files that are new.

An anchor is a place whose bytes decide by themselves that it is one, so equal content has its
anchors at equal places however far it moved. Anchors are about 1 KiB apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imager.delta.erofs import Buffer
from imager.delta.match import Span, merged

_CHUNK = 1 << 20
# The first eight bytes decide whether it is an anchor; these many in all have to be equal.
_LENGTH = 32
_MULTIPLIERS = tuple(
    np.uint64(value)
    for value in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
)
_SHIFT = np.uint64(64 - 10)
_BUCKET = 256 << 10
_COMPARE = 16 << 10


@dataclass(frozen=True)
class Anchors:
    """Where content lies: digests, sorted, and the places that belong to them; each digest once."""

    digests: NDArray[np.uint64]
    places: NDArray[np.int64]

    def find(self, data: Buffer) -> list[tuple[int, int]]:
        """(position in data, place of the same content) of the data's own anchors."""
        found: list[tuple[int, int]] = []
        for digests, places in _anchors(data, [Span(0, len(data))]):
            at = np.searchsorted(self.digests, digests)
            at[at == len(self.digests)] = 0
            if len(self.digests):
                hits = np.flatnonzero(self.digests[at] == digests)
                found.extend(
                    zip(places[hits].tolist(), self.places[at[hits]].tolist(), strict=True)
                )
        return found


def index(data: Buffer, spans: Iterable[Span]) -> Anchors:
    """The anchors of these ranges of the data. What occurs more than once is none."""
    parts = list(_anchors(data, spans))
    if not parts:
        return Anchors(np.empty(0, np.uint64), np.empty(0, np.int64))
    digests = np.concatenate([part[0] for part in parts])
    places = np.concatenate([part[1] for part in parts])
    unique, first, count = np.unique(digests, return_index=True, return_counts=True)
    return Anchors(unique[count == 1], places[first[count == 1]])


def references(anchors: Anchors, data: Buffer, old_size: int, limit: int) -> tuple[Span, ...]:
    """Old ranges with content of the data, the fullest first until they have limit bytes; sorted.

    Empty when hardly anything of the data is there.
    """
    hits = anchors.find(data)
    votes: dict[int, int] = {}
    for _, place in hits:
        votes[place // _BUCKET] = votes.get(place // _BUCKET, 0) + 1
    if len(hits) * 64 < len(data) // 1024:
        return ()
    chosen = sorted(votes, key=lambda bucket: (-votes[bucket], bucket))[: limit // _BUCKET]
    spans = (Span(bucket * _BUCKET, min(_BUCKET, old_size - bucket * _BUCKET)) for bucket in chosen)
    return tuple(merged(spans))


def equal_ranges(
    anchors: Anchors, old: Buffer, new: Buffer, *, shortest: int = 4096
) -> Iterator[tuple[int, int, int]]:
    """(position in new, position in old, size) of what is equal, in order, none overlapping."""
    end = 0
    for at, place in anchors.find(new):
        if at < end:
            continue
        before = _equal_before(old, place, new, at, at - end)
        after = _equal_after(old, place, new, at)
        if before + after >= shortest:
            yield at - before, place - before, before + after
            end = at + after


def _equal_after(old: Buffer, a: int, new: Buffer, b: int) -> int:
    limit = min(len(old) - a, len(new) - b)
    done = 0
    while done < limit:
        size = min(_COMPARE, limit - done)
        left, right = old[a + done : a + done + size], new[b + done : b + done + size]
        if left != right:
            return done + _first_difference(left, right)
        done += size
    return done


def _equal_before(old: Buffer, a: int, new: Buffer, b: int, most: int) -> int:
    limit = min(a, b, most)
    done = 0
    while done < limit:
        size = min(_COMPARE, limit - done)
        left = bytes(old[a - done - size : a - done])[::-1]
        right = bytes(new[b - done - size : b - done])[::-1]
        if left != right:
            return done + _first_difference(left, right)
        done += size
    return done


def _first_difference(left: Buffer, right: Buffer) -> int:
    differs = np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8)
    return int(differs.argmax())


def _anchors(
    data: Buffer, spans: Iterable[Span]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    for span in spans:
        for start in range(span.offset, span.end, _CHUNK):
            size = min(_CHUNK, span.end - start - _LENGTH)
            if size > 0:
                piece = bytes(data[start : start + size + _LENGTH])
                digests, places = _of_piece(piece, size)
                yield digests, places + start


def _of_piece(piece: bytes, size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Anchors at the first size bytes of the piece."""
    words = np.ndarray((size + _LENGTH - 7,), np.dtype("<u8"), piece, strides=(1,))
    first = words[:size] * _MULTIPLIERS[0]
    # A shift of zero bytes is an anchor at each of them; such places are found nowhere.
    places = np.flatnonzero((first >> _SHIFT == 0) & (words[:size] != 0)).astype(np.int64)
    digests = first[places]
    for step, multiplier in enumerate(_MULTIPLIERS[1:], start=1):
        word = words[places + 8 * step]
        digests = (digests ^ (digests >> np.uint64(29)) ^ word) * multiplier
    return digests, places
