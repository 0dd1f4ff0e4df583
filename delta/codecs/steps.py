"""Steps through the references, shared by codecs 2 and 3.

A step takes `take` bytes of the references from where it stands and adds as many
of the added bytes to them, then gives out `insert` of the inserted bytes, then
moves by `seek` in the references, starting at their front. The idea is bsdiff's
(Colin Percival, "Naive differences of executable code", 2003), the format is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from delta.addition import SLICE, add
from delta.errors import DeltaError
from delta.sections import Content, Data, pieces
from delta.varint import Reader, numbers, signed

# Bytes of the three columns of steps together.
STEPS_LIMIT = 4 << 20

# Steps that are summed up together at most: their sizes are kept that long.
BATCH = 1 << 10


def follow(
    steps: bytes, references: memoryview, added: Content, inserted: Content
) -> Iterator[Data]:
    """Yields what the steps make. Raises DeltaError, also if bytes are left that no step used."""
    batch = _Batch(references, added, inserted)
    for take, insert, seek in _steps(steps):
        yield from batch.take(take)
        batch.insert(insert)
        batch.seek(seek)
    yield from batch.flush()
    added.end()
    inserted.end()


def _steps(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The steps out of their three columns, none of which is ever a list."""
    reader = Reader(memoryview(data))
    takes = reader.number(STEPS_LIMIT, "a size of the column of takes")
    inserts = reader.number(STEPS_LIMIT, "a size of the column of inserts")
    columns = reader.take(takes), reader.take(inserts), reader.take(reader.left)
    try:
        for take, insert, seek in zip(*map(numbers, columns), strict=True):
            yield take, insert, signed(seek)
    except ValueError as error:
        raise DeltaError("expected three columns of the same length") from error


class _Batch:
    """Steps that are summed up at once: most are shorter than one addition is worth."""

    def __init__(self, references: memoryview, added: Content, inserted: Content) -> None:
        self._references = references
        self._at = 0
        self._added = added
        self._inserted = inserted
        self._taken: list[memoryview] = []
        self._size = 0
        self._shape: list[tuple[int, int]] = []

    def take(self, size: int) -> Iterator[Data]:
        """Takes bytes of the references; yields what had to make room before."""
        if size > len(self._references) - self._at:
            raise DeltaError(
                f"expected to take at most {len(self._references) - self._at} bytes of the "
                f"references, found {size}"
            )
        while True:
            # Here, not when it gets full: what is inserted after a part is known only then.
            if self._size == SLICE or len(self._shape) == BATCH:
                yield from self.flush()
            part = min(size, SLICE - self._size)
            self._taken.append(self._references[self._at : self._at + part])
            self._shape.append((part, 0))
            self._at += part
            self._size += part
            size -= part
            if not size:
                return

    def insert(self, size: int) -> None:
        """Inserts bytes after what was taken last."""
        self._shape[-1] = (self._shape[-1][0], size)

    def seek(self, distance: int) -> None:
        """Moves in the references."""
        self._at += distance
        if not 0 <= self._at <= len(self._references):
            raise DeltaError(f"expected a place in the references, found {self._at}")

    def flush(self) -> Iterator[Data]:
        """Yields the sums with the insertions between them."""
        taken = b"".join(self._taken)
        sums = memoryview(add(taken, bytes(self._added.read(self._size))))
        at = 0
        for take, insert in self._shape:
            yield sums[at : at + take]
            at += take
            yield from pieces(self._inserted, insert)
        self._taken.clear()
        self._shape.clear()
        self._size = 0
