"""Numbers of variable length, as in docs/delta-format.md, and a reader that never leaves its bytes.

A number is little-endian base 128: seven bits in each byte, the high bit says that another
byte follows. Nine bytes at most, so below 2**63. A signed number is written as twice itself, or
as -2n - 1 when it is negative, so that small ones stay short.
"""

from __future__ import annotations

from collections.abc import Iterator

from delta.errors import DeltaError

LONGEST = 9


class Reader:
    """Reads from the front of some bytes. Everything it gives out was there."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def byte(self) -> int:
        """The next byte."""
        if not self.left:
            raise DeltaError("expected another byte, found the end")
        self._at += 1
        return self._data[self._at - 1]

    def number(self, limit: int, what: str) -> int:
        """The next number, at most limit; what it means is for the error."""
        value = shift = 0
        for _ in range(LONGEST):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if value > limit:
                    raise DeltaError(f"expected {what} of at most {limit}, found {value}")
                return value
            shift += 7
        raise DeltaError(f"expected {what}, found a number that does not end")

    def take(self, size: int) -> memoryview:
        """The next bytes, not copied."""
        if size > self.left:
            raise DeltaError(f"expected {size} more bytes, found {self.left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def end(self) -> None:
        """Insists that everything was read."""
        if self.left:
            raise DeltaError(f"expected the end, found {self.left} more bytes")


def numbers(column: bytes | memoryview) -> Iterator[int]:
    """The numbers that fill a column, one by one: no list of a hostile length is ever made."""
    value = shift = 0
    for byte in column:
        if byte < 128:
            yield value | byte << shift
            value = shift = 0
        else:
            value |= (byte & 127) << shift
            shift += 7
            if shift >= 7 * LONGEST:
                raise DeltaError("expected a number, found one that does not end")
    if shift:
        raise DeltaError("expected another byte of a number, found the end")


def signed(number: int) -> int:
    """The signed number that was written as number."""
    return number >> 1 ^ -(number & 1)


def write(number: int) -> bytes:
    """The bytes of a number from 0 to 2**63 - 1. Raises ValueError for others."""
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{number} is not between 0 and 2**63 - 1")
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def write_signed(number: int) -> bytes:
    """The bytes of a signed number between -2**62 and 2**62 - 1."""
    return write(number << 1 if number >= 0 else -number * 2 - 1)
