"""Bases in memory, and frames made out of them by edits."""

from __future__ import annotations

import random
from dataclasses import dataclass

from delta.frame import apply
from imager.delta.frame import Copy, Reference

# A run of equal bytes, text, what looks like code with addresses, and noise.
KINDS = ("zeros", "text", "code", "noise")


class MemoryBase:
    """A base image in memory. read_bytes: how much was read of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.read_bytes = 0

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size, "a decoder left the base"
        self.read_bytes += size
        return self._data[offset : offset + size]


class BrokenBase(MemoryBase):
    """A base whose storage fails, as dm-verity does for a damaged block."""

    def read(self, offset: int, size: int) -> bytes:
        raise OSError(5, f"Input/output error at {offset}, {size} bytes")


@dataclass(frozen=True)
class Case:
    """What a maker is given for one frame."""

    base: bytes
    new: bytes
    copies: tuple[Copy, ...]
    references: tuple[Reference, ...]


def decoded(payload: bytes, base: bytes, size: int) -> bytes:
    """The frame that a payload makes."""
    into = bytearray(size)
    apply(payload, MemoryBase(base), memoryview(into))
    return bytes(into)


def content(kind: str, size: int, chance: random.Random) -> bytes:
    """Bytes of a kind."""
    if kind == "zeros":
        return bytes(size)
    if kind == "noise":
        return chance.randbytes(size)
    if kind == "text":
        words = [bytes(chance.choices(b"etaoin shrdlu", k=chance.randint(2, 9))) for _ in range(64)]
        return b" ".join(chance.choices(words, k=size // 3 + 1))[:size].ljust(size)
    parts = []
    for at in range(0, size, 8):
        # A call: the same target from another place is another number.
        parts.append(
            b"\x48\x89\xe8" + (chance.randrange(64) * 4096 - at).to_bytes(5, "little", signed=True)
        )
    return b"".join(parts)[:size]


def edited(base: bytes, edits: int, chance: random.Random) -> bytes:
    """The base with bytes changed, inserted, removed and moved."""
    new = bytearray(base)
    for _ in range(edits):
        at = chance.randrange(len(new) + 1)
        size = chance.choice((1, 4, 30, 500, 5000))
        match chance.randrange(5):
            case 0:
                new[at : at + size] = chance.randbytes(len(new[at : at + size]))
            case 1:
                new[at:at] = chance.randbytes(size)
            case 2:
                del new[at : at + size]
            case 3:
                start = chance.randrange(len(base) + 1)
                new[at:at] = base[start : start + size]
            case _:
                new[at : at + size : 8] = bytes(
                    (byte + 16) & 255 for byte in new[at : at + size : 8]
                )
    return bytes(new)


def case(seed: int, kinds: tuple[str, ...], size: int, edits: int) -> Case:
    """A frame after edits, with some true copies and some references, all by the seed."""
    chance = random.Random(seed)
    base = b"".join(content(kind, size, chance) for kind in kinds)
    new = edited(base, edits, chance)
    copies = []
    at = 0
    while at < len(new) and chance.random() < 0.8:
        # Stretches that have not changed place, to be found without a search.
        length = chance.randrange(1, 2000)
        if length <= len(new) - at and new[at : at + length] == base[at : at + length]:
            copies.append(Copy(at, at, length))
        at += length + chance.randrange(300)
    references = []
    for _ in range(chance.randrange(4)):
        start = chance.randrange(len(base) + 1)
        references.append(Reference(start, chance.randrange(len(base) - start + 1)))
    chance.shuffle(copies)
    return Case(base, new, tuple(copies), tuple(references))
