"""aarch64: branches, literal loads, and addresses made of a page and an offset in it.

Source: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4, "A64 instruction
set encoding". Instructions are 4 bytes, little-endian, and their highest byte tells most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

from delta.machines.machine import Part

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


class _Pages:
    """The pages that registers hold, and which of their ADRP were not given out yet."""

    def __init__(self, start: int, low: int, high: int) -> None:
        self._start, self._low, self._high = start, low, high
        self._held: dict[int, tuple[int, int]] = {}
        self._waiting: set[int] = set()

    def define(self, index: int, register: int, page: int) -> list[tuple[int, int, int]]:
        """An ADRP. Gives out the register's last one, if nothing used it."""
        found = self._forget(register)
        if self._low - _PAGE < page < self._high:
            self._held[register] = index, page
            self._waiting.add(register)
        return found

    def use(self, index: int, word: int) -> list[tuple[int, int, int]]:
        """An instruction that adds an offset; gives out the ADRP as well when it is the first."""
        register = word >> 5 & 31
        if register not in self._held:
            return []
        before, page = self._held[register]
        if index - before > _NEAR:
            return self._forget(register)
        addition = word >> 24 == 0x91
        if addition and word >> 22 & 1:
            return []  # ADD of a multiple of the page size
        scale = 0 if addition else _scale(word)
        target = page + ((word >> 10 & 0xFFF) << scale)
        if not self._low <= target < self._high:
            return []
        found = [(self._start + 4 * index, target, _OFFSET + scale)]
        if register in self._waiting:
            self._waiting.discard(register)
            found.insert(0, (self._start + 4 * before, target, _ADRP))
        if word & 31 == register and (addition or word >> 22 & 1):
            # Overwritten by the sum or by what was loaded.
            del self._held[register]
        return found

    def _forget(self, register: int) -> list[tuple[int, int, int]]:
        before, page = self._held.pop(register, (0, 0))
        if register not in self._waiting:
            return []
        self._waiting.discard(register)
        return [(self._start + 4 * before, page, _ADRP)] if page >= self._low else []


class Aarch64:
    """See above."""

    page = _PAGE

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """An ADRP is given out once, with the target of the first that uses it."""
        read, kinds, bias = _WORD.unpack_from, _KIND, part.bias
        start = part.start + -(part.start + bias) % 4
        pages = _Pages(start, low, high)
        for found in _PATTERN.finditer(data[start + 3 : part.end : 4]):
            index = found.start()
            at = start + 4 * index
            word: int = read(data, at)[0]
            kind = kinds[word >> 24]
            if kind == _OFFSET:
                yield from pages.use(index, word)
                continue
            if kind == _BRANCH26:
                target = at + bias + ((word << 2 & 0xFFFFFFF) ^ 0x8000000) - 0x8000000
            elif kind == _BRANCH19:
                target = at + bias + ((word >> 3 & 0x1FFFFC) ^ 0x100000) - 0x100000
            elif kind == _BRANCH14:
                target = at + bias + ((word >> 3 & 0xFFFC) ^ 0x8000) - 0x8000
            else:
                distance = ((word >> 3 & 0x1FFFFC | word >> 29 & 3) ^ 0x100000) - 0x100000
                if kind == _ADRP:
                    page = (at + bias & -_PAGE) + (distance << 12)
                    yield from pages.define(index, word & 31, page)
                    continue
                target = at + bias + distance
            if low <= target < high:
                yield at, target, kind

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
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
