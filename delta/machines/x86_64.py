"""x86_64: 32-bit displacements relative to the next instruction.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter 2
(ModR/M with mod 00 and r/m 101 is RIP-relative) and the pages of CALL, JMP and Jcc. Code is not
decoded from instruction to instruction: bytes that look like a reference to the program itself
nearly always are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

from delta.machines.machine import Part

# CALL, JMP; Jcc; any ModR/M byte that is RIP-relative. Found at each place, overlapping or not.
_REFERENCE = rb"(?s)(?=([\xe8\xe9]|\x0f[\x80-\x8f]|[\x05\x0d\x15\x1d\x25\x2d\x35\x3d])..."
_DISPLACEMENT = Struct("<i")
_RIP_RELATIVE = frozenset(b"\x05\x0d\x15\x1d\x25\x2d\x35\x3d")
# Opcodes of one byte that a ModR/M byte can follow.
_OPERAND = bytes(
    (opcode < 0x40 and opcode % 8 < 4)
    or 0x84 <= opcode <= 0x8F
    or 0xD8 <= opcode <= 0xDF
    or opcode in b"\x63\x69\x6b\x80\x81\x83\xc0\xc1\xc6\xc7\xd0\xd1\xd2\xd3\xf6\xf7\xfe\xff"
    for opcode in range(256)
)
# Bytes of an immediate operand between the displacement and the next instruction, by opcode.
_IMMEDIATE = bytes(
    1 if opcode in b"\x6b\x80\x83\xc0\xc1\xc6" else 4 if opcode in b"\x69\x81\xc7" else 0
    for opcode in range(256)
)


class X8664:
    """Calls, jumps and RIP-relative operands."""

    page = 1

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """The form is the size of an immediate operand that follows."""
        start, end, bias = part.start, part.end, part.bias
        read = _DISPLACEMENT.unpack_from
        immediate, operand, relative = _IMMEDIATE, _OPERAND, _RIP_RELATIVE
        free = start
        for found in _pattern(high - low).finditer(data, start, end):
            at = found.end(1)
            if found.start() < free:
                continue
            target: int = at + 4 + bias + read(data, at)[0]
            form = 0
            if at - start >= 6 and data[at - 1] in relative and data[at - 2] != 0x0F:
                opcode = data[at - 2]
                if not operand[opcode] and not _is_long(data[at - 6 : at - 2]):
                    continue
                form = immediate[opcode]
                if opcode & 0xFE == 0xF6 and data[at - 1] < 0x10:  # TEST
                    form = 4 if opcode & 1 else 1
                target += form
            if low <= target < high:
                yield at, target, form
                free = at + 4

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """See Machine."""
        displacement = target - here - 4 - form
        if -(1 << 31) <= displacement < 1 << 31:
            _DISPLACEMENT.pack_into(data, position, displacement)


def _is_long(before: bytearray) -> bool:
    """Whether these four bytes and an opcode begin an instruction with a longer opcode."""
    return (
        before[3] == 0x0F
        or (before[2] == 0x0F and before[3] in (0x38, 0x3A))
        or before[2] == 0xC5
        or before[1] == 0xC4
        or before[0] == 0x62
    )


def _pattern(span: int) -> re.Pattern[bytes]:
    """References at most span bytes away: this decides what their highest byte can be."""
    highest = min(span >> 24, 0x7F)
    return re.compile(_REFERENCE + b"[\\x00-\\x%02x\\x%02x-\\xff])" % (highest, 0xFF - highest))
