"""The head of a payload: what is copied, what is referred to, what is rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from delta.errors import DeltaError
from delta.sections import read_section
from delta.varint import Reader, signed

REFERENCES_LIMIT = 16 << 20

# How many there may be. Rewritten references are fewer, as each costs work.
COPIES = 1 << 14
REFERENCES = 1 << 14
REWRITES = 1 << 10

# Bytes of the tables, of all rewrites, and of the rewrites as often as they are used.
TABLES_LIMIT = 1 << 20
REWRITES_LIMIT = 2 << 20
REWRITING_LIMIT = 8 << 20

ANY = (1 << 63) - 1


@dataclass(frozen=True)
class Range:
    """A range of the base, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Copy:
    """Bytes at a place of the frame that are a range of the base as it is."""

    at: int
    source: Range


@dataclass(frozen=True)
class Rewriting:
    """How a reference is rewritten: rewrite as delta.rewrite decodes it; start: where in its file
    the range begins."""

    rewrite: memoryview
    start: int


@dataclass(frozen=True)
class Head:
    """copies: in the order of the frame, none overlaps another. rewritings: by number of the
    reference, for those that are rewritten."""

    copies: Sequence[Copy]
    references: Sequence[Range]
    rewritings: dict[int, Rewriting]

    @property
    def references_size(self) -> int:
        """Bytes of all references."""
        return sum(reference.size for reference in self.references)


def read(payload: Reader, base_size: int, frame_size: int, unit: int = 1) -> Head:
    """The head, of which every range lies in the base and in the frame. Raises DeltaError.

    unit: bytes in which the copies are counted.
    """
    tables = read_section(payload, TABLES_LIMIT, "tables").whole()
    rewrites = read_section(payload, REWRITES_LIMIT, "rewrites").whole()
    reader = Reader(memoryview(tables))
    copies = _copies(reader, base_size, frame_size, unit)
    references = _references(reader, base_size)
    rewritings = _rewritings(reader, memoryview(rewrites), len(references))
    reader.end()
    return Head(copies, references, rewritings)


def _copies(reader: Reader, base_size: int, frame_size: int, unit: int) -> list[Copy]:
    count = reader.number(COPIES, "a number of copies")
    gaps = [reader.number(frame_size, "coded bytes before a copy") for _ in range(count)]
    sizes = [reader.number(frame_size, "a size of a copy") for _ in range(count)]
    copies = []
    at = end = 0
    for gap, size in zip(gaps, sizes, strict=True):
        # Where one would expect it: as far from the copy before as in the frame.
        source = _range(reader, end + gap, size, base_size // unit)
        copies.append(Copy((at + gap) * unit, Range(source.offset * unit, size * unit)))
        at += gap + size
        end = source.offset + size
        if at * unit > frame_size:
            raise DeltaError(f"expected copies up to {frame_size} of the frame, found {at}")
    return copies


def _references(reader: Reader, base_size: int) -> list[Range]:
    count = reader.number(REFERENCES, "a number of references")
    sizes = [reader.number(REFERENCES_LIMIT, "a size of a reference") for _ in range(count)]
    if sum(sizes) > REFERENCES_LIMIT:
        raise DeltaError(f"expected references of at most {REFERENCES_LIMIT} bytes together")
    references = []
    end = 0
    for size in sizes:
        references.append(_range(reader, end, size, base_size))
        end = references[-1].offset + size
    return references


def _rewritings(reader: Reader, rewrites: memoryview, references: int) -> dict[int, Rewriting]:
    count = reader.number(REWRITES, "a number of rewrites")
    sizes = [reader.number(len(rewrites), "a size of a rewrite") for _ in range(count)]
    ends = list(accumulate(sizes, initial=0))
    if ends[-1] != len(rewrites):
        raise DeltaError(f"expected {ends[-1]} bytes of rewrites, found {len(rewrites)}")
    if not count:
        return {}
    uses = reader.number(REWRITES, "a number of rewritten references")
    steps = [reader.number(references, "a distance of references") for _ in range(uses)]
    which = [reader.number(count - 1, "a number of a rewrite") for _ in range(uses)]
    starts = [reader.number(ANY, "a place in a file") for _ in range(uses)]
    if sum(sizes[number] for number in which) > REWRITING_LIMIT:
        raise DeltaError(f"expected at most {REWRITING_LIMIT} bytes of rewrites to follow")
    rewritings = {}
    # Counted from the reference before, so that none is rewritten twice.
    for reference, number, start in zip(
        (end - 1 for end in accumulate(step + 1 for step in steps)), which, starts, strict=True
    ):
        if reference >= references:
            raise DeltaError(f"expected one of {references} references, found {reference}")
        data = rewrites[ends[number] : ends[number + 1]]
        rewritings[reference] = Rewriting(data, start)
    return rewritings


def _range(reader: Reader, expected: int, size: int, base_size: int) -> Range:
    """A range by its distance from where it is expected."""
    offset = expected + signed(reader.number(ANY, "a distance in the base"))
    if not 0 <= offset <= base_size - size:
        raise DeltaError(f"expected {size} bytes of a base of {base_size}, found offset {offset}")
    return Range(offset, size)
