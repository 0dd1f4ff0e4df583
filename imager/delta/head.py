"""Writing the head of a payload, as delta.head reads it."""

from __future__ import annotations

from delta.head import Head
from delta.varint import write, write_signed
from imager.delta.sections import BYTES, Effort, section


def written(head: Head, effort: Effort, unit: int = 1) -> bytes:
    """The two sections of the head. unit: bytes in which copies are counted."""
    distinct = sorted({bytes(rewriting.rewrite) for rewriting in head.rewritings.values()})
    tables = _copies(head, unit) + _references(head) + _rewritings(head, distinct)
    return section(tables, effort, BYTES) + section(b"".join(distinct), effort, BYTES)


def _copies(head: Head, unit: int) -> bytes:
    gaps, sizes, distances = [], [], []
    at = end = 0
    for copy in head.copies:
        gap = copy.at - at
        gaps.append(write(gap // unit))
        sizes.append(write(copy.source.size // unit))
        distances.append(write_signed((copy.source.offset - (end + gap)) // unit))
        at = copy.at + copy.source.size
        end = copy.source.offset + copy.source.size
    return write(len(gaps)) + b"".join(gaps + sizes + distances)


def _references(head: Head) -> bytes:
    sizes, distances = [], []
    end = 0
    for reference in head.references:
        sizes.append(write(reference.size))
        distances.append(write_signed(reference.offset - end))
        end = reference.offset + reference.size
    return write(len(sizes)) + b"".join(sizes + distances)


def _rewritings(head: Head, distinct: list[bytes]) -> bytes:
    table = write(len(distinct)) + b"".join(write(len(rewrite)) for rewrite in distinct)
    if not distinct:
        return table
    steps, which, starts = [], [], []
    after = 0
    for reference, rewriting in sorted(head.rewritings.items()):
        steps.append(write(reference - after))
        which.append(write(distinct.index(bytes(rewriting.rewrite))))
        starts.append(write(rewriting.start))
        after = reference + 1
    return table + write(len(steps)) + b"".join(steps + which + starts)
