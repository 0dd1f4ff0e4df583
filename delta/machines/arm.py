"""32-bit Arm: Thumb-2, which most code is, and ARM, which procedure linkage tables are.

Source: Arm Architecture Reference Manual, ARMv7-A and ARMv7-R edition (DDI 0406), chapters A5, A6
and A8: B, BL, BLX; LDR (literal); ADD (register) of the program counter. The entries of .plt are
those that binutils and lld write: ADD, ADD, LDR.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

from delta.machines.machine import Part

_WORD = Struct("<I")
_HALVES = Struct("<HH")
_INT = Struct("<i")

# Higher bytes of halves: a wide branch; LDR of a literal, 2 and 4 bytes; ADD to any register.
_THUMB = re.compile(rb"[\xf0-\xf7](?=[\x80-\xff])|[\x48-\x4f\xf8\x44]")
# Highest byte: B, BL, BLX; LDR to the program counter with write-back.
_ARM = re.compile(rb"[\xea\xeb\xfa\xe5]")
# Bytes after a load in which its literal is added to the program counter.
_NEAR = 64

# Forms. Those from LITERAL on are an ADD, plus the distance to the literal from LOWEST on.
_WIDE, _CONDITIONAL, _ARM_BRANCH, _STUB, _LITERAL = range(5)
_LOWEST = -4096


class Thumb:
    """Code of halves."""

    page = 1

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """A literal is given out where it is added to the program counter."""
        bias, end = part.bias, part.end
        start = part.start + (part.start + bias) % 2
        literals: dict[int, tuple[int, int]] = {}
        for found in _THUMB.finditer(data[start + 1 : end : 2]):
            at = start + 2 * found.start()
            high_byte, low_byte = data[at + 1], data[at]
            if high_byte == 0x44:
                register = low_byte >> 4 & 8 | low_byte & 7
                if low_byte & 0x78 != 0x78 or register not in literals:
                    continue
                loaded, literal = literals.pop(register)
                if at - loaded > _NEAR:
                    continue
                target = at + bias + 4 + _INT.unpack_from(data, literal)[0]
                form = _LITERAL + literal - at - _LOWEST
            elif high_byte < 0x50 or high_byte == 0xF8:
                loaded_literal = _literal(data, at, part)
                if loaded_literal is not None:
                    register, literal = loaded_literal
                    literals[register] = at, literal
                continue
            else:
                first, second = _HALVES.unpack_from(data, at)
                form = _WIDE if second & 0x5000 else _CONDITIONAL
                if form == _CONDITIONAL and first >> 6 & 0xE == 0xE:
                    continue  # not a branch
                target = at + bias + 4 + _distance(form, first, second)
                if second & 0xD000 == 0xC000:  # BLX, from a multiple of four
                    target &= ~3
            if low <= target < high:
                yield at, target, form

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """See Machine."""
        distance = target - here - 4
        if form >= _LITERAL:
            if -(1 << 31) <= distance < 1 << 31:
                _INT.pack_into(data, position + form - _LITERAL + _LOWEST, distance)
            return
        first, second = _HALVES.unpack_from(data, position)
        if second & 0xD000 == 0xC000:
            distance = target - (here + 4 & ~3)
        bits = 24 if form == _WIDE else 20
        if not -(1 << bits) <= distance < 1 << bits or distance & 1:
            return
        sign = distance >> bits & 1
        low = distance >> 1 & 0x7FF
        if form == _WIDE:
            # The two bits below the sign are stored inverted where the sign is 0.
            j1, j2 = (~(distance >> bit) & 1 ^ sign for bit in (23, 22))
            first = first & 0xF800 | sign << 10 | distance >> 12 & 0x3FF
            second = second & 0xD000 | j1 << 13 | j2 << 11 | low
        else:
            j1, j2 = distance >> 18 & 1, distance >> 19 & 1
            first = first & 0xFBC0 | sign << 10 | distance >> 12 & 0x3F
            second = second & 0xD000 | j1 << 13 | j2 << 11 | low
        _HALVES.pack_into(data, position, first, second)


class Arm:
    """Code of words."""

    page = 1

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """An entry of .plt is given out at its first instruction."""
        bias = part.bias
        start = part.start + -(part.start + bias) % 4
        for found in _ARM.finditer(data[start + 3 : part.end : 4]):
            at = start + 4 * found.start()
            word: int = _WORD.unpack_from(data, at)[0]
            form = _ARM_BRANCH
            if word >> 24 == 0xE5:
                if word & 0xFFFFF000 != 0xE5BCF000 or at - 8 < part.start:
                    continue
                at -= 8
                first, second = _WORD.unpack_from(data, at)[0], _WORD.unpack_from(data, at + 4)[0]
                if first & ~0xFF != 0xE28FC600 or second & ~0xFF != 0xE28CCA00:
                    continue
                form = _STUB
                target = at + bias + 8 + ((first & 0xFF) << 20 | (second & 0xFF) << 12)
                target += word & 0xFFF
            else:
                target = at + bias + 8 + ((word << 2 & 0x3FFFFFF) ^ 0x2000000) - 0x2000000
            if low <= target < high:
                yield at, target, form

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """See Machine."""
        distance = target - here - 8
        if form == _STUB:
            if 0 <= distance < 1 << 28:
                words = (distance >> 20, distance >> 12 & 0xFF, distance & 0xFFF)
                for at, kept, value in zip((0, 4, 8), (~0xFF, ~0xFF, ~0xFFF), words, strict=True):
                    word = _WORD.unpack_from(data, position + at)[0]
                    _WORD.pack_into(data, position + at, word & kept | value)
        elif -(1 << 25) <= distance < 1 << 25 and not distance & 3:
            word = _WORD.unpack_from(data, position)[0]
            _WORD.pack_into(data, position, word & 0xFF000000 | distance >> 2 & 0xFFFFFF)


def _literal(data: bytearray, at: int, part: Part) -> tuple[int, int] | None:
    """Register and position of what LDR (literal) loads."""
    first, second = data[at] | data[at + 1] << 8, 0
    if first >> 8 == 0xF8:
        if first & 0xFF7F != 0xF85F or at + 4 > part.end:
            return None
        second = data[at + 2] | data[at + 3] << 8
        register, offset = second >> 12, second & 0xFFF
        offset = offset if first & 0x80 else -offset
    else:
        register, offset = first >> 8 & 7, (first & 0xFF) << 2
    literal = (at + part.bias + 4 & ~3) - part.bias + offset
    return (register, literal) if part.start <= literal <= part.end - 4 else None


def _distance(form: int, first: int, second: int) -> int:
    sign, j1, j2 = first >> 10 & 1, second >> 13 & 1, second >> 11 & 1
    low = (second & 0x7FF) << 1
    if form == _WIDE:
        i1, i2 = ~(j1 ^ sign) & 1, ~(j2 ^ sign) & 1
        return low | (first & 0x3FF) << 12 | i2 << 22 | i1 << 23 | -sign << 24
    return low | (first & 0x3F) << 12 | j1 << 18 | j2 << 19 | -sign << 20
