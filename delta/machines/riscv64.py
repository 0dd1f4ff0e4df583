"""riscv64: jumps, branches, and addresses made by AUIPC and the instruction that adds the rest.

Source: The RISC-V Instruction Set Manual, volume I, chapters "RV32I" (formats I, S, B, U and J)
and "C" (instructions of 2 bytes do not end in 11). Compressed jumps stay within a function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

from delta.machines.machine import Part

_WORD = Struct("<I")
_HALF = Struct("<H")
# Lowest byte of AUIPC, JAL and the branches: seven bits of opcode, one of a register or immediate.
_PATTERN = re.compile(rb"[\x17\x97\x6f\xef\x63\xe3]")
_AUIPC, _JAL, _BRANCH = 0x17, 0x6F, 0x63
# What can add the rest: loads, ADDI, JALR; stores, which have their number in two parts.
_USES = frozenset((0x03, 0x07, 0x13, 0x67))
_STORES = frozenset((0x23, 0x27))
_NEAR = 24

# Forms; those from PAIR on are AUIPC, plus the distance to its use, plus one for a store.
_FORM_JAL, _FORM_BRANCH, _PAIR = range(3)


class Riscv64:
    """See above."""

    page = 1

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """Every even place is looked at, whether or not an instruction begins there."""
        read, bias = _WORD.unpack_from, part.bias
        start = part.start + (part.start + bias) % 2
        free = start
        for found in _PATTERN.finditer(data[start : max(start, part.end - 3) : 2]):
            at = start + 2 * found.start()
            if at < free:
                continue
            word: int = read(data, at)[0]
            opcode = word & 0x7F
            if opcode == _AUIPC:
                if word >> 7 & 31 == 0:
                    continue
                form, rest = _use(data, at, part.end, word >> 7 & 31)
                distance = (word & 0xFFFFF000 ^ 0x80000000) - 0x80000000 + rest
            elif opcode == _JAL:
                if word >> 7 & 31 > 1:  # calls and jumps only
                    continue
                form, distance = _FORM_JAL, _jump(word)
            else:
                if word >> 12 & 6 == 2:  # no such branch
                    continue
                form, distance = _FORM_BRANCH, _branch(word)
            target = at + bias + distance
            if form >= 0 and low <= target < high:
                yield at, target, form
                free = at + 4

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """See Machine."""
        distance = target - here
        word: int = _WORD.unpack_from(data, position)[0]
        if form == _FORM_JAL:
            if -(1 << 20) <= distance < 1 << 20 and not distance & 1:
                word = word & 0xFFF | distance & 0xFF000 | (distance & 0x800) << 9
                word |= (distance & 0x7FE) << 20 | (distance & 0x100000) << 11
                _WORD.pack_into(data, position, word)
        elif form == _FORM_BRANCH:
            if -(1 << 12) <= distance < 1 << 12 and not distance & 1:
                word = word & 0x01FFF07F | (distance & 0x800) >> 4 | (distance & 0x1E) << 7
                word |= (distance & 0x7E0) << 20 | (distance & 0x1000) << 19
                _WORD.pack_into(data, position, word)
        elif -(1 << 31) <= distance < (1 << 31) - 0x800:
            upper = distance + 0x800 & 0xFFFFF000
            _WORD.pack_into(data, position, word & 0xFFF | upper)
            at = position + (form - _PAIR & ~1)
            use: int = _WORD.unpack_from(data, at)[0]
            if form - _PAIR & 1:
                use = use & 0x01FFF07F | (distance & 0x1F) << 7 | (distance & 0xFE0) << 20
            else:
                use = use & 0x000FFFFF | (distance & 0xFFF) << 20
            _WORD.pack_into(data, at, use)


def _use(data: bytearray, at: int, end: int, register: int) -> tuple[int, int]:
    """Form and number of the first instruction after an AUIPC that uses its register; form -1
    when there is none near."""
    place = at + 4
    while place + 4 <= min(end, at + _NEAR):
        if _HALF.unpack_from(data, place)[0] & 3 != 3:
            place += 2
            continue
        word: int = _WORD.unpack_from(data, place)[0]
        if word >> 15 & 31 == register:
            form = _PAIR + place - at
            opcode = word & 0x7F
            if opcode in _USES:
                return form, (word >> 20 ^ 0x800) - 0x800
            if opcode in _STORES:
                return form + 1, ((word >> 20 & 0xFE0 | word >> 7 & 31) ^ 0x800) - 0x800
        place += 4
    return -1, 0


def _jump(word: int) -> int:
    distance = word >> 11 & 0x100000 | word & 0xFF000 | word >> 9 & 0x800 | word >> 20 & 0x7FE
    return (distance ^ 0x100000) - 0x100000


def _branch(word: int) -> int:
    distance = word >> 19 & 0x1000 | word << 4 & 0x800 | word >> 20 & 0x7E0 | word >> 7 & 0x1E
    return (distance ^ 0x1000) - 0x1000
