"""Adding bytes to bytes, modulo 256 and without numpy, which devices do not have.

A slice is taken as one large integer. In each byte the lower seven bits of both
sides are added, which cannot carry into the next byte; the highest bit is added
without carry, by exclusive or. Measured in docs/delta-format.md.
"""

from __future__ import annotations

SLICE = 1 << 16

_ZERO = bytes(SLICE)
_LOW = int.from_bytes(b"\x7f" * SLICE, "little")
_HIGH = int.from_bytes(b"\x80" * SLICE, "little")


def add(left: bytes, right: bytes) -> bytes:
    """Each byte of left plus the byte of right at the same place. Both have at most SLICE bytes,
    and equally many."""
    size = len(left)
    if right == (_ZERO if size == SLICE else _ZERO[:size]):
        return left
    a = int.from_bytes(left, "little")
    b = int.from_bytes(right, "little")
    # The masks may be longer than the numbers: what they cover there is zero.
    return (((a & _LOW) + (b & _LOW)) ^ ((a ^ b) & _HIGH)).to_bytes(size, "little")
