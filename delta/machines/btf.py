"""Type information of kernels and their modules (BTF), which numbers types and names.

A new type makes all numbers after it grow by one, so they are rewritten as addresses are.
Source: Linux, Documentation/bpf/btf.rst, section 2; include/uapi/linux/btf.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from delta.machines.machine import Part
from delta.machines.moves import Moves

# Numbers of types and offsets of names are below this.
LIMIT = 1 << 32
_WORD = Struct("<I")
# Bytes of each kind of type after its three words: fixed, and for each member.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_ARRAY, _VARIABLES, _LAST = 3, 15, 19
# Kinds whose third word is a type, and kinds whose members have a type after their name.
_REFERS = frozenset((2, 8, 9, 10, 11, 12, 13, 14, 17, 18))
_TYPED = frozenset((4, 5, 13))


@dataclass(frozen=True)
class Numbers:
    """How the numbers of types and the offsets of names changed; both from 0 to LIMIT."""

    types: Moves
    names: Moves


def starts(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Position, kind, members and size of each type that lies in data[start:end] as a whole."""
    while start + 12 <= end:
        info = _WORD.unpack_from(data, start + 4)[0]
        kind, count = info >> 24 & 31, info & 0xFFFF
        size = 12 + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * count
        if not 0 < kind <= _LAST or start + size > end:
            return
        yield start, kind, count, size
        start += size


def types(data: bytearray, part: Part, numbers: Numbers) -> None:
    """Changes the numbers in types that follow each other from the part's beginning on."""
    of_types, of_names = numbers.types, numbers.names
    for at, kind, count, _ in starts(data, part.start, part.end):
        _change(data, at, of_names)
        if kind in _REFERS:
            _change(data, at + 8, of_types)
        if kind == _ARRAY:
            _change(data, at + 12, of_types)
            _change(data, at + 16, of_types)
        elif kind in _EACH:
            step = _EACH[kind]
            for member in range(at + 12, at + 12 + step * count, step):
                _change(data, member, of_types if kind == _VARIABLES else of_names)
                if kind in _TYPED:
                    _change(data, member + 4, of_types)


def _change(data: bytearray, at: int, moves: Moves) -> None:
    value = _WORD.unpack_from(data, at)[0]
    moved = value + moves.shift(value)
    if 0 <= moved < LIMIT:
        _WORD.pack_into(data, at, moved)
