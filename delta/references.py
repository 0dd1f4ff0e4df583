"""Reading from the base: ranges as they are, and references, which may be rewritten."""

from __future__ import annotations

from typing import Protocol

from delta.errors import DeltaError
from delta.head import Head, Range, Rewriting
from delta.rewrite import apply_rewrite, decode_rewrite

# Bytes of the base that are read at once.
STEP = 1 << 20


class Base(Protocol):
    """The base image. size in bytes."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of a range that is in the base. Raises OSError (dm-verity: EIO)."""
        ...


def read_range(base: Base, source: Range, into: memoryview) -> None:
    """Fills into with the range. Raises DeltaError if the base gives less, OSError from it."""
    for at in range(0, source.size, STEP):
        size = min(STEP, source.size - at)
        data = base.read(source.offset + at, size)
        if len(data) != size:
            raise DeltaError(f"expected {size} bytes of the base, found {len(data)}")
        into[at : at + size] = data


def read_references(head: Head, base: Base) -> bytearray:
    """The references one after the other, rewritten where the head says so.

    The maker calls it as well, so that both sides have the same bytes. Raises as read_range.
    """
    references = bytearray(head.references_size)
    with memoryview(references) as view:
        at = 0
        for number, source in enumerate(head.references):
            into = view[at : at + source.size]
            read_range(base, source, into)
            rewriting = head.rewritings.get(number)
            if rewriting is not None:
                into[:] = _rewritten(rewriting, into)
            at += source.size
    return references


def _rewritten(rewriting: Rewriting, data: memoryview) -> bytearray:
    copy = bytearray(data)
    apply_rewrite(decode_rewrite(bytes(rewriting.rewrite)), rewriting.start, copy)
    if len(copy) != len(data):
        raise DeltaError(f"expected {len(data)} rewritten bytes, found {len(copy)}")
    return copy
