"""What of a new image the running one has: its slices, wherever they lie at whole blocks.

The first block of a slice is looked for by its CRC-32, and where that is found the slice's
digest decides. Everything is read once, in windows; what cannot be read has no slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from manifests.slices import BLOCK, LARGEST_SLICE, digest_of, probe_of
from updater.runs import Slice

_WINDOW = 4 << 20
_NARROW = 64 << 10
# A first block that many slices or places share (zeros) must not cost without end.
_ATTEMPTS = 16


class Readable(Protocol):
    """What is searched. size in bytes; read raises OSError."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at offset, fewer at the end."""


def find(
    base: Readable, slices: Iterable[Slice], progress: Callable[[int, int], None]
) -> dict[bytes, int]:
    """Where in the base slices lie, by digest. progress(done, total) in bytes."""
    wanted: dict[int, list[Slice]] = {}
    known: set[bytes] = set()
    for item in slices:
        if item.digest not in known and item.size >= BLOCK:
            known.add(item.digest)
            same = wanted.setdefault(item.probe, [])
            if len(same) < _ATTEMPTS:
                same.append(item)
    found: dict[bytes, int] = {}
    attempts: Counter[bytes] = Counter()
    at = 0
    width = _WINDOW
    while at < base.size and wanted:
        try:
            window = memoryview(base.read(at, width + LARGEST_SLICE))
        except OSError:
            # Around a rotten block: in small steps, so that little is lost by it.
            at, width = (at, _NARROW) if width > _NARROW else (at + _NARROW, width)
            continue
        if not window:
            break
        width = _WINDOW
        inside = 0
        while inside < min(width, len(window)):
            step = _match(window[inside:], at + inside, wanted, attempts, found)
            inside += step
        at += inside
        progress(min(at, base.size), base.size)
    return found


def _match(
    data: memoryview,
    at: int,
    wanted: dict[int, list[Slice]],
    attempts: Counter[bytes],
    found: dict[bytes, int],
) -> int:
    """Notes the slice that data, from at in the base, begins with. Bytes to go on by."""
    probe = probe_of(data)
    for item in wanted.get(probe, ()):
        attempts[item.digest] += 1
        if digest_of(data[: item.size]) == item.digest:
            found[item.digest] = at
            _forget(wanted, probe, item)
            return -(-item.size // BLOCK) * BLOCK
        if attempts[item.digest] >= _ATTEMPTS:
            _forget(wanted, probe, item)
            break
    return BLOCK


def _forget(wanted: dict[int, list[Slice]], probe: int, item: Slice) -> None:
    wanted[probe].remove(item)
    if not wanted[probe]:
        del wanted[probe]
