"""DER (X.690), as much of it as signatures need: definite, shortest lengths only. Pure."""

from __future__ import annotations

INTEGER, BITS, OCTETS, OBJECT, SEQUENCE, SET = 2, 3, 4, 6, 0x30, 0x31
CONTEXT_0, CONTEXT_1 = 0xA0, 0xA1


def take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the first value in data, which must have this tag, and what follows it.

    Raises ValueError.
    """
    if len(data) < 2 or data[0] != tag:
        raise ValueError(f"expected tag {tag:#x}")
    length, start = data[1], 2
    if length >= 0x80:
        count = length & 0x7F
        digits = data[2 : 2 + count]
        start += count
        length = int.from_bytes(digits, "big")
        # The only one form that DER allows: no indefinite length, no leading zeros.
        if not 1 <= count <= 3 or len(digits) != count or digits[0] == 0 or length < 0x80:
            raise ValueError("not a DER length")
    if len(data) < start + length:
        raise ValueError("cut short")
    return data[start : start + length], data[start + length :]


def whole(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The first value with its header, and what follows it. Raises ValueError."""
    _, rest = take(data, tag)
    return data[: len(data) - len(rest)], rest


def only(data: bytes, tag: int) -> bytes:
    """Content of the one value that data consists of. Raises ValueError."""
    content, rest = take(data, tag)
    if rest:
        raise ValueError("data behind the end")
    return content
