"""A small linker: ELF files of functions that call each other and refer to data.

Two versions of a program differ as two builds do: most functions are the same, but lie elsewhere.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BASE = 0x1000
DATA_GAP = 0x1000
MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
_ALIGNMENT = 16

# Writes the instructions for a call and for taking an address: (place, target) to bytes.
Emit = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Function:
    """name; filler: what is between its references; calls, reads: to whom it refers."""

    name: int
    filler: bytes
    calls: tuple[int, ...]
    reads: tuple[int, ...]


def functions(count: int, seed: int) -> list[Function]:
    """Functions that call others and read objects, always the same for a seed."""
    chance = random.Random(seed)
    return [
        Function(
            name,
            chance.randbytes(16 * chance.randrange(2, 12)),
            tuple(chance.randrange(count) for _ in range(chance.randrange(5))),
            tuple(chance.randrange(count) for _ in range(chance.randrange(3))),
        )
        for name in range(count)
    ]


def link(machine: str, program: Sequence[Function], objects: int) -> bytes:
    """An ELF file: .text with the functions in order, .data with pointers to all of them."""
    call, take = _EMIT[machine]
    places: dict[int, int] = {}
    at = BASE
    for function in program:
        places[function.name] = at
        size = len(function.filler) + 8 * (len(function.calls) + len(function.reads))
        at += size + -size % _ALIGNMENT
    data = at + -at % 0x1000 + DATA_GAP
    text = bytearray()
    for function in program:
        for kind, names in ((call, function.calls), (take, function.reads)):
            for name in names:
                target = places.get(name, BASE) if kind is call else data + 8 * (name % objects)
                code = kind(BASE + len(text), target)
                text += code + function.filler[: 8 - len(code)]
        text += function.filler
        text += bytes(-len(text) % _ALIGNMENT)
    pointers = b"".join(
        struct.pack("<Q", places.get(n % len(program), BASE)) for n in range(objects)
    )
    return _elf(MACHINES[machine], bytes(text), data, pointers)


def _elf(machine: int, text: bytes, data_address: int, data: bytes) -> bytes:
    names = b"\0.text\0.data\0.shstrtab\0"
    text_at, data_at = BASE, BASE + len(text)
    names_at = data_at + len(data)
    sections_at = names_at + len(names) + -(names_at + len(names)) % 8
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, BASE, 64, sections_at, 0, 64, 56, 2, 64, 4, 3
    )
    segments = _segment(5, text_at, BASE, len(text)) + _segment(6, data_at, data_address, len(data))
    file = (header + segments).ljust(BASE, b"\0") + text + data + names
    file = file.ljust(sections_at, b"\0")
    return (
        file
        + bytes(64)
        + struct.pack("<IIQQQQIIQQ", 1, 1, 6, BASE, text_at, len(text), 0, 0, 16, 0)
        + struct.pack("<IIQQQQIIQQ", 7, 1, 3, data_address, data_at, len(data), 0, 0, 8, 0)
        + struct.pack("<IIQQQQIIQQ", 13, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    )


def _segment(flags: int, offset: int, address: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", 1, flags, offset, address, address, size, size, 0x1000)


def _x86_call(place: int, target: int) -> bytes:
    return b"\xe8" + struct.pack("<i", target - place - 5)


def _x86_take(place: int, target: int) -> bytes:
    return b"\x48\x8d\x05" + struct.pack("<i", target - place - 7)  # lea rax, [rip + n]


def _arm_call(place: int, target: int) -> bytes:
    return struct.pack("<I", 0x94000000 | (target - place >> 2) & 0x3FFFFFF)


def _arm_take(place: int, target: int) -> bytes:
    pages = (target >> 12) - (place >> 12)
    page = 0x90000000 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5  # adrp x0
    return struct.pack("<II", page, 0x91000000 | (target & 0xFFF) << 10)  # add x0, x0, n


def _riscv_pair(place: int, target: int, second: int) -> bytes:
    distance = target - place
    high = (distance + 0x800) >> 12
    return struct.pack(
        "<II", (high & 0xFFFFF) << 12 | 0x517, (distance - (high << 12) & 0xFFF) << 20 | second
    )  # auipc a0


def _riscv_call(place: int, target: int) -> bytes:
    return _riscv_pair(place, target, 0x500E7)  # jalr ra, n(a0)


def _riscv_take(place: int, target: int) -> bytes:
    return _riscv_pair(place, target, 0x50513)  # addi a0, a0, n


_EMIT: dict[str, tuple[Emit, Emit]] = {
    "x86_64": (_x86_call, _x86_take),
    "aarch64": (_arm_call, _arm_take),
    "riscv64": (_riscv_call, _riscv_take),
}
