"""aarch64: branches, literal loads, and addresses made of a page and an offset in it.

Source: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4, "A64 instruction
set encoding". Instructions are 4 bytes, little-endian, and their highest byte tells most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

_WORD = Struct("<I")
_PAGE = 4096
# Instructions after an ADRP that may use its page; compilers keep them near.
_NEAR = 64

# Forms. Those from OFFSET on are offsets in a page, by the power of two that they are divided by.
_BRANCH26, _BRANCH19, _BRANCH14, _ADR, _ADRP, _OFFSET = range(6)
# By the highest byte of an instruction: B, BL; B.cond, CBZ, CBNZ, LDR of a literal; TBZ, TBNZ;
# ADR; ADRP; ADD of an immediate; LDR and STR with an unsigned offset.
_KINDS: dict[int, int] = {
    **dict.fromkeys(b"\x14\x15\x16\x17\x94\x95\x96\x97", _BRANCH26),
    **dict.fromkeys(b"\x54\x34\x35\xb4\xb5\x18\x1c\x58\x5c\x98\x9c", _BRANCH19),
    **dict.fromkeys(b"\x36\x37\xb6\xb7", _BRANCH14),
    **dict.fromkeys(b"\x10\x30\x50\x70", _ADR),
    **dict.fromkeys(b"\x90\xb0\xd0\xf0", _ADRP),
    **dict.fromkeys(b"\x91\x39\x3d\x79\x7d\xb9\xbd\xf9\xfd", _OFFSET),
}
_PATTERN = re.compile(b"[" + re.escape(bytes(_KINDS)) + b"]")
_KIND = bytes(_KINDS.get(byte, 255) for byte in range(256))


class Aarch64:
    """See above."""

    page = _PAGE

    def find(
        self, data: bytearray, start: int, end: int, bias: int, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """An ADRP is given out once, with the target of the first that uses it."""
        read = _WORD.unpack_from
        kinds = _KIND
        start += -(start + bias) % 4
        # By register: index of the ADRP, its page, whether it was given out.
        pages: dict[int, tuple[int, int]] = {}
        waiting: set[int] = set()
        highest = data[start + 3 : end : 4]
        for found in _PATTERN.finditer(highest):
            index = found.start()
            at = start + 4 * index
            word: int = read(data, at)[0]
            kind = kinds[word >> 24]
            if kind == _BRANCH26:
                target = at + bias + ((word << 2 & 0xFFFFFFF) ^ 0x8000000) - 0x8000000
            elif kind == _BRANCH19:
                target = at + bias + ((word >> 3 & 0x1FFFFC) ^ 0x100000) - 0x100000
            elif kind == _BRANCH14:
                target = at + bias + ((word >> 3 & 0xFFFC) ^ 0x8000) - 0x8000
            elif kind == _OFFSET:
                register = word >> 5 & 31
                if register not in pages:
                    continue
                before, page = pages[register]
                if index - before > _NEAR:
                    del pages[register]
                    if register in waiting:
                        waiting.discard(register)
                        if page >= low:
                            yield start + 4 * before, page, _ADRP
                    continue
                if word >> 22 == 0x244:  # ADD, 64 bits, not shifted
                    scale = 0
                elif word >> 24 == 0x91:
                    continue
                else:
                    scale = _scale(word)
                target = page + ((word >> 10 & 0xFFF) << scale)
                if not low <= target < high:
                    continue
                if register in waiting:
                    waiting.discard(register)
                    yield start + 4 * before, target, _ADRP
                if word & 31 == register and (scale == 0 or word >> 22 & 1):
                    # Overwritten by the sum or by what was loaded.
                    del pages[register]
                kind = _OFFSET + scale
            else:
                distance = ((word >> 3 & 0x1FFFFC | word >> 29 & 3) ^ 0x100000) - 0x100000
                if kind == _ADRP:
                    register = word & 31
                    page = (at + bias & -_PAGE) + (distance << 12)
                    if register in waiting:
                        before, other = pages[register]
                        if other >= low:
                            yield start + 4 * before, other, _ADRP
                    pages.pop(register, None)
                    waiting.discard(register)
                    if low - _PAGE < page < high:
                        pages[register] = index, page
                        waiting.add(register)
                    continue
                target = at + bias + distance
            if low <= target < high:
                yield at, target, kind

    def change(
        self, data: bytearray, position: int, form: int, here: int, target: int, old_here: int
    ) -> None:
        """See Machine."""
        word: int = _WORD.unpack_from(data, position)[0]
        if form >= _OFFSET:
            offset = target & _PAGE - 1
            word = word & ~(0xFFF << 10) | offset >> (form - _OFFSET) << 10
        elif form in (_ADR, _ADRP):
            distance = (target >> 12) - (here >> 12) if form == _ADRP else target - here
            if not -(1 << 20) <= distance < 1 << 20:
                return
            word = word & 0x9F00001F | (distance & 3) << 29 | (distance & 0x1FFFFC) << 3
        else:
            bits, lowest = ((26, 0), (19, 5), (14, 5))[form]
            distance = target - here
            if not -(1 << bits + 1) <= distance < 1 << bits + 1 or distance & 3:
                return
            mask = (1 << bits) - 1
            word = word & ~(mask << lowest) | (distance >> 2 & mask) << lowest
        _WORD.pack_into(data, position, word)


def _scale(word: int) -> int:
    """The power of two that the offset of a load or store is divided by."""
    if word & 0x04800000 == 0x04800000 and word >> 30 == 0:
        return 4  # 16 bytes of a vector register
    return word >> 30
