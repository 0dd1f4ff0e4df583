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

# CALL, JMP; the second byte of Jcc; any ModR/M byte that is RIP-relative.
_REFERENCE = rb"(?s)(?:[\xe8\xe9]|\x0f[\x80-\x8f]|[\x05\x0d\x15\x1d\x25\x2d\x35\x3d])..."
_DISPLACEMENT = Struct("<i")
_RIP_RELATIVE = frozenset(b"\x05\x0d\x15\x1d\x25\x2d\x35\x3d")
# Bytes of an immediate operand between the displacement and the next instruction, by opcode.
_IMMEDIATE = bytes(
    1 if opcode in b"\x6b\x80\x83\xc0\xc1\xc6" else 4 if opcode in b"\x69\x81\xc7" else 0
    for opcode in range(256)
)


class X8664:
    """Calls, jumps and RIP-relative operands."""

    page = 1

    def find(
        self, data: bytearray, start: int, end: int, bias: int, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """The form is the size of an immediate operand that follows."""
        read = _DISPLACEMENT.unpack_from
        immediate = _IMMEDIATE
        relative = _RIP_RELATIVE
        for found in _pattern(high - low).finditer(data, start, end):
            at = found.end() - 4
            target: int = at + 4 + bias + read(data, at)[0]
            form = 0
            # Two bytes before the displacement is the opcode, if this is a ModR/M byte.
            if data[at - 1] in relative and at - start >= 2:
                opcode = data[at - 2]
                form = immediate[opcode]
                if opcode & 0xFE == 0xF6 and data[at - 1] < 0x10:  # TEST
                    form = 4 if opcode & 1 else 1
                target += form
            if low <= target < high:
                yield at, target, form

    def change(
        self, data: bytearray, position: int, form: int, here: int, target: int, old_here: int
    ) -> None:
        """See Machine."""
        displacement = target - here - 4 - form
        if -(1 << 31) <= displacement < 1 << 31:
            _DISPLACEMENT.pack_into(data, position, displacement)


def _pattern(span: int) -> re.Pattern[bytes]:
    """References at most span bytes away: this decides what their highest byte can be."""
    highest = min((span >> 24), 0x7F)
    return re.compile(_REFERENCE + b"[\\x00-\\x%02x\\x%02x-\\xff]" % (highest, 0xFF - highest))
