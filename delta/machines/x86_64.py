"""x86_64: 32-bit displacements relative to the next instruction.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter 2
(ModR/M with mod 00 and r/m 101 is RIP-relative) and the pages of CALL, JMP and Jcc. Code is not
decoded from instruction to instruction: bytes that look like a reference to the program itself
nearly always are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from heapq import merge
from struct import Struct

from delta.machines.machine import Part

# CALL, JMP; Jcc behind 0F; any ModR/M byte that is RIP-relative. Found at each place, overlapping
# or not. One set of bytes comes first: the regular expressions' engine looks for that quickly.
_REFERENCE = (
    rb"(?s)[\xe8\xe9\x80-\x8f\x05\x0d\x15\x1d\x25\x2d\x35\x3d]"
    rb"(?:(?<![\x80-\x8f])|(?<=\x0f.))(?=..."
)
_DISPLACEMENT = Struct("<i")
_ADDRESS = Struct("<I")
# Form of an address that is an operand itself. Others are sizes of an immediate operand.
ABSOLUTE = 8
# MOV and CMP of an immediate with a register of 64 bits; CMP with RAX; a ModR/M byte with mod 00
# and r/m 100, then a SIB byte without a base.
_OPERANDS = (
    rb"(?s)(?:[\x48\x49](?:\xc7[\xc0-\xc7]|\x81[\xf8-\xff]|\x3d)"
    rb"|[\x04\x0c\x14\x1c\x24\x2c\x34\x3c][\x05\x0d\x15\x1d\x25\x2d\x35\x3d"
    rb"\x45\x4d\x55\x5d\x65\x6d\x75\x7d\x85\x8d\x95\x9d\xa5\xad\xb5\xbd"
    rb"\xc5\xcd\xd5\xdd\xe5\xed\xf5\xfd])"
)
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
        start, end, ahead = part.start, part.end, part.bias + 4
        read = _DISPLACEMENT.unpack_from
        immediate, operand, relative = _IMMEDIATE, _OPERAND, _RIP_RELATIVE
        free = start
        for found in _pattern(high - low).finditer(data, start, end):
            at = found.end()
            kind = data[at - 1]
            form = 0
            if kind in relative:
                if at <= free:
                    continue
                if at - start >= 6 and data[at - 2] != 0x0F:
                    opcode = data[at - 2]
                    if not operand[opcode] and not _is_long(data[at - 6 : at - 2]):
                        continue
                    form = immediate[opcode]
                    if opcode & 0xFE == 0xF6 and kind < 0x10:  # TEST
                        form = 4 if opcode & 1 else 1
            # Jcc has two bytes.
            elif at <= free + (kind < 0x90):
                continue
            target: int = at + ahead + read(data, at)[0] + form
            if low <= target < high:
                yield at, target, form
                free = at + 4

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """See Machine."""
        displacement = target - here - 4 - form
        if -(1 << 31) <= displacement < 1 << 31:
            _DISPLACEMENT.pack_into(data, position, displacement)


class X8664Kernel:
    """As X8664, and addresses of the top 2 GiB as operands of 4 bytes, which only a kernel has.

    An address here is the lower half of the kernel's; the upper one follows from its sign.
    """

    # A distance within what moved as a whole stays, an address does not.
    page = 1 << 32

    def __init__(self) -> None:
        self._program = X8664()

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """The form is that of X8664, or ABSOLUTE."""
        distances = self._program.find(data, part, low, high)
        free = part.start
        for found in merge(distances, _absolute(data, part, low, high)):
            if found[0] >= free:
                yield found
                free = found[0] + 4

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """See Machine."""
        if form != ABSOLUTE:
            self._program.change(data, position, form, here, target)
        elif 0 <= target < 1 << 32:
            _ADDRESS.pack_into(data, position, target)


def _absolute(data: bytearray, part: Part, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    first, last = (min(max(end, 0) >> 24, 0xFF) for end in (low, high))
    pattern = re.compile(_OPERANDS + b"(?=...[\\x%02x-\\x%02x])" % (first, last))
    read = _ADDRESS.unpack_from
    for found in pattern.finditer(data, part.start, part.end):
        target = read(data, found.end())[0]
        if low <= target < high:
            yield found.end(), target, ABSOLUTE


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
