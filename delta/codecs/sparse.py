"""Codec 3, sparse: codec 2 where few of the added bytes are not zero. These are listed.

For executables whose addresses were rewritten, and files that hardly changed: 5 % to
30 % smaller than codec 2 there. A change is the number of zeros before it and its value.
"""

from __future__ import annotations

from collections.abc import Iterator

from delta.codecs.interface import References
from delta.codecs.steps import STEPS_LIMIT, follow
from delta.errors import DeltaError
from delta.sections import Data, read_section
from delta.varint import Reader, numbers

# Changes at most, and bytes of the numbers of zeros before them. More are for codec 2.
CHANGES_LIMIT = 2 << 20
GAPS_LIMIT = 4 << 20


def decode(payload: Reader, references: References, size: int) -> Iterator[Data]:
    """See delta.codecs.interface."""
    steps = read_section(payload, STEPS_LIMIT, "steps")
    gaps = read_section(payload, GAPS_LIMIT, "gaps between changes")
    changes = read_section(payload, CHANGES_LIMIT, "changes")
    inserted = read_section(payload, size, "inserted bytes")
    payload.end()
    added = _Sparse(size - inserted.size, gaps.whole(), changes.whole())
    yield from follow(steps.whole(), memoryview(references()), added, inserted.open())


class _Sparse:
    """The added bytes as their section in codec 2 would give them out."""

    def __init__(self, size: int, gaps: bytes, changes: bytes) -> None:
        self._size = size
        self._at = 0
        self._changes = placed(gaps, changes)
        self._next = next(self._changes, _NONE)

    def read(self, size: int) -> Data:
        """The next bytes: zeros but for the changes."""
        start, end = self._at, self._at + size
        if end > self._size:
            raise DeltaError(f"expected to add {self._size} bytes, found more")
        self._at = end
        place, change = self._next
        if place >= end:
            return bytes(size)
        data = bytearray(size)
        while place < end:
            data[place - start] = change
            place, change = next(self._changes, _NONE)
        self._next = place, change
        return data

    def end(self) -> None:
        """Insists that all was read."""
        if self._at != self._size or self._next != _NONE:
            raise DeltaError(f"expected to add {self._size} bytes with all changes in them")


# After the last change: at a place that no frame has.
_NONE = (1 << 63, 0)


def placed(gaps: bytes, changes: bytes) -> Iterator[tuple[int, int]]:
    """Where in the added bytes each change is, and the change. Raises DeltaError."""
    place = -1
    try:
        for gap, change in zip(numbers(gaps), changes, strict=True):
            place += gap + 1
            yield place, change
    except ValueError as error:
        raise DeltaError("expected as many gaps as changes") from error
