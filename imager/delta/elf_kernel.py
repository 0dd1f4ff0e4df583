"""Where a Linux kernel holds addresses: as imager.bzimage stores it, or as arm64 boots it.

Addresses of kernels lie in the top 2^47 bytes, more than a rewrite can name; those of one kernel
differ in their lower halves only, so these are the addresses here. What is found:

* x86_64: a zstd frame of stored blocks with an ELF file. Each section is as many regions as
  blocks it lies in. Which sections are tables of distances, and how long their entries are:
  Linux, arch/x86/include/asm/{asm,alternative,orc_types}.h, include/linux/export-internal.h.
* arm64: an image without sections (Documentation/arch/arm64/booting.rst). Pages that look like
  code are code, the others data.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from delta.machines.btf import starts
from delta.rewrite import REGIONS_LIMIT, Kind, Region
from imager.delta.elf_file import Executable
from imager.delta.elf_names import Ints, NameTables, find_names
from imager.delta.elf_types import information_in, types_range

_HALF = 0xFFFFFFFF
_FRAME = b"\x28\xb5\x2f\xfd\xa0"
_HEADER = len(_FRAME) + 4
_STORED, _REPEATED = 0, 1
_LARGEST = 256 << 20
# Bytes from one distance to the next. Where they differ, the words between are small numbers,
# which are distances to what moved with the table.
_DISTANCES = {
    **{f".{name}_sites": 4 for name in ("retpoline", "return", "call")},
    **dict.fromkeys(("__ex_table", "__ksymtab", "__ksymtab_gpl", "__bug_table"), 4),
    **dict.fromkeys((".orc_unwind_ip", ".ibt_endbr_seal", ".smp_locks"), 4),
    ".altinstructions": 14,
}
# Without addresses.
_PLAIN = (".BTF_ids", ".orc_unwind", "__kcrctab", "__kcrctab_gpl", "__ksymtab_strings")
_UPPER_X86_64, _UPPER_ARM64 = 0xFFFFFFFF, 0xFFFF8000
_IMAGE_AT, _IMAGE = 56, b"ARM\x64"
# A kernel of arm64 is linked for this place (lower half), the first of its modules' space's end.
_ARM64_START = 0x80000000
_X86_64_START = 0x81000000
_PAGE = 4096
# Highest bytes of words that code is made of mostly, but neither text nor numbers.
_USUAL = bytes.fromhex("9091929394979ba9aab0b4b5b8b9c8cad0d1d2d5d6ebf0f1f2f8f9")
_LIKE_CODE = 0.3
_SMOOTH = 4


@dataclass(frozen=True)
class _Block:
    """content[start:end] lies at start + away of the frame."""

    start: int
    end: int
    away: int


def read_kernel(data: bytes) -> Executable | None:
    """None for what is no such kernel."""
    try:
        if data.startswith(_FRAME):
            return _x86_64(data)
        if data[_IMAGE_AT : _IMAGE_AT + 4] == _IMAGE:
            return _arm64(data)
    except (ELFError, ValueError, KeyError, IndexError, OverflowError, TypeError, AttributeError):
        pass
    return None


def find_kernels(stream: memoryview) -> list[tuple[int, int]]:
    """Position and size of each kernel in a stream: a boot artifact."""
    found = []
    for match in re.finditer(re.escape(_FRAME), stream):
        size = _frame_size(stream[match.start() :])
        if size:
            found.append((match.start(), size))
    for match in re.finditer(re.escape(_IMAGE), stream):
        at = match.start() - _IMAGE_AT
        if at >= 0:
            # What it says is what it takes in memory: more than what lies there.
            size = int.from_bytes(stream[at + 16 : at + 24], "little")
            size = min(size, _image_size(stream[at:]))
            if size > _PAGE:
                found.append((at, size))
    return sorted(found)


def _frame_size(data: memoryview) -> int:
    """Bytes of a stored frame; 0 when it is none."""
    blocks = _blocks(data)
    if blocks is None:
        return 0
    return blocks[1]


def _image_size(data: memoryview) -> int:
    """Bytes of an arm64 image in a file, by its PE header; 0 without one."""
    pe = int.from_bytes(data[60:64], "little")
    if bytes(data[pe : pe + 4]) != b"PE\0\0":
        return 0
    count = int.from_bytes(data[pe + 6 : pe + 8], "little")
    table = pe + 24 + int.from_bytes(data[pe + 20 : pe + 22], "little")
    end = 0
    for at in range(table, table + 40 * min(count, 16), 40):
        size = int.from_bytes(data[at + 16 : at + 20], "little")
        end = max(end, int.from_bytes(data[at + 20 : at + 24], "little") + size)
    return min(end, len(data))


def _blocks(data: bytes | memoryview) -> tuple[list[_Block], int] | None:
    """The stored blocks and the size of the frame; None when it has others."""
    at, content = _HEADER, 0
    blocks = []
    while content < _LARGEST and at + 3 <= len(data):
        header = int.from_bytes(data[at : at + 3], "little")
        kind, size = header >> 1 & 3, header >> 3
        at += 3
        if kind not in (_STORED, _REPEATED):
            return None
        if kind == _STORED:
            blocks.append(_Block(content, content + size, at - content))
        content += size
        at += size if kind == _STORED else 1
        if header & 1:
            size = int.from_bytes(data[_HEADER - 4 : _HEADER], "little")
            return (blocks, at) if content == size and at <= len(data) else None
    return None


def _x86_64(data: bytes) -> Executable | None:
    found = _blocks(data)
    if found is None:
        return None
    blocks, _ = found
    content = bytearray(int.from_bytes(data[_HEADER - 4 : _HEADER], "little"))
    for block in blocks:
        content[block.start : block.end] = data[block.start + block.away : block.end + block.away]
    elf = ELFFile(io.BytesIO(bytes(content)))
    if elf["e_machine"] != "EM_X86_64":
        return None
    regions: list[Region] = []
    tables: dict[str, tuple[int, int]] = {}
    information = b""
    names: tuple[Ints, int] | None = None
    low, high, last = _HALF, 0, elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"]
    for section in elf.iter_sections():
        address, flags = section["sh_addr"] & _HALF, section["sh_flags"]
        if not flags & SH_FLAGS.SHF_ALLOC or not section["sh_size"]:
            continue
        if section["sh_addr"] >> 32 == _UPPER_X86_64:
            low, high = min(low, address), max(high, address + section["sh_size"])
        if section.name == ".BTF":
            information = section.data()
            regions += _types(blocks, information, section["sh_offset"])
        elif section["sh_type"] != "SHT_NOBITS" and section.name not in _PLAIN:
            place = section["sh_offset"], section["sh_size"], address
            if flags & SH_FLAGS.SHF_EXECINSTR:
                regions += _split(blocks, *place, Kind.X86_64_KERNEL)
            elif section.name in _DISTANCES:
                parts = list(_split(blocks, *place, Kind.PLACES, stride=_DISTANCES[section.name]))
                regions += parts
                if parts:
                    tables[section.name] = parts[0].offset, parts[-1].offset + parts[-1].size
            else:
                start = section["sh_offset"]
                tables_of = find_names(content[start : start + section["sh_size"]], -1)
                if tables_of is not None:
                    names = _X86_64_START - 1 - tables_of.distances, tables_of.before
                regions += _pointers(blocks, place, tables_of)
    # Behind the file: where addresses are that a random place of the kernel changes.
    regions += _split(blocks, last, len(content) - last, 0, Kind.POINTERS, stride=4)
    regions.sort(key=lambda region: region.offset)
    if not regions or low >= high or len(regions) > REGIONS_LIMIT:
        return None
    return Executable(data, low, high, tuple(regions), (), {}, tables, information, names)


def _pointers(
    blocks: list[_Block], place: tuple[int, int, int], names: NameTables | None
) -> Iterator[Region]:
    """The regions of a section of data, with the tables of the kernel's names."""
    offset, size, address = place
    at = 0
    if names is not None:
        for start, end in ((names.start, names.end), names.order):
            if start < end:
                part = offset + at, start - at, address + at
                yield from _split(blocks, *part, Kind.HIGH_POINTERS, stride=8, base=_UPPER_X86_64)
                at = -(-end // 8) * 8
        # Counted from the first address, and from -1: others are of variables per CPU.
        part = offset + names.start, names.end - names.start, address + names.start
        yield from _split(blocks, *part, Kind.DOWNWARDS, stride=4, base=_X86_64_START - 1)
        start, end = names.order
        yield from _split(blocks, offset + start, end - start, 0, Kind.INDEXES, stride=3)
    part = offset + at, size - at, address + at
    yield from _split(blocks, *part, Kind.HIGH_POINTERS, stride=8, base=_UPPER_X86_64)


def _types(blocks: list[_Block], information: bytes, offset: int) -> Iterator[Region]:
    """The types that lie in one block as a whole."""
    first, last = types_range(information)
    ends = {at + size: at for at, _, _, size in starts(information, first, last)}
    places = sorted(ends.values())
    sizes = {at: end - at for end, at in ends.items()}
    for block in blocks:
        low = bisect_left(places, block.start - offset)
        high = bisect_left(places, block.end - offset)
        while high > low and places[high - 1] + sizes[places[high - 1]] > block.end - offset:
            high -= 1
        if low < high:
            start, end = places[low], places[high - 1] + sizes[places[high - 1]]
            at = start + offset + block.away
            yield Region(Kind.TYPES, at, end - start, -at)


def _split(
    blocks: list[_Block],
    offset: int,
    size: int,
    address: int,
    kind: Kind,
    *,
    stride: int = 0,
    base: int = 0,
) -> Iterator[Region]:
    """The regions of a section of the content; entries that lie in two blocks are left out."""
    for block in blocks:
        start, end = max(offset, block.start), min(offset + size, block.end)
        if stride:
            start += -(start - offset) % stride
        if start < end:
            at = start + block.away
            bias = address + start - offset - at
            width = 4 if stride else 0
            yield Region(kind, at, end - start, bias, width=width, stride=stride, base=base)


def _arm64(data: bytes) -> Executable | None:
    size = len(data) // _PAGE * _PAGE
    highest = np.frombuffer(data, np.uint8, size)[3::4]
    usual = np.isin(highest, np.frombuffer(_USUAL, np.uint8)).reshape(-1, _PAGE // 4).mean(axis=1)
    smooth = np.convolve(usual, np.ones(2 * _SMOOTH + 1) / (2 * _SMOOTH + 1), "same")
    code = smooth > _LIKE_CODE
    borders = np.flatnonzero(np.diff(code.astype(np.int8))) + 1
    found = information_in(data)
    information = data[found[0] : found[1]]
    special: list[tuple[tuple[int, int], list[Region]]] = []
    if found[1]:
        whole = [_Block(0, len(data), 0)]
        special.append((found, list(_types(whole, information, found[0]))))
    runs = [(first * _PAGE, last * _PAGE) for first, last in _runs(borders, len(code))]
    names: tuple[Ints, int] | None = None
    for start, end in runs:
        tables_of = None if code[start // _PAGE] else find_names(data[start:end], 1)
        if tables_of is not None:
            names = _ARM64_START + tables_of.distances, tables_of.before
            place = start + tables_of.start, start + tables_of.end
            offsets = Region(
                Kind.OFFSETS,
                place[0],
                place[1] - place[0],
                _ARM64_START,
                stride=4,
                base=_ARM64_START,
            )
            special.append((place, [offsets]))
            low, high = (start + at for at in tables_of.order)
            indexes = Region(Kind.INDEXES, low, high - low, -low, stride=3)
            special.append(((low, high), [indexes]))
    regions: list[Region] = []
    for start, end in runs:
        if code[start // _PAGE]:
            regions.append(Region(Kind.AARCH64, start, end - start, _ARM64_START))
            continue
        at = start
        for (low, high), inside in sorted(special, key=lambda item: item[0]):
            if at <= low < high <= end:
                regions += _arm64_pointers(at, low)
                regions += inside
                at = -(-high // 8) * 8
        regions += _arm64_pointers(at, end)
    if not code.any() or len(regions) > REGIONS_LIMIT:
        return None
    high = _ARM64_START + len(data)
    return Executable(data, _ARM64_START, high, tuple(regions), (), {}, {}, information, names)


def _runs(borders: Ints, count: int) -> Iterator[tuple[int, int]]:
    return pairwise([0, *(int(border) for border in borders), count])


def _arm64_pointers(start: int, end: int) -> Iterator[Region]:
    if start < end:
        place = start, end - start, _ARM64_START
        yield Region(Kind.HIGH_POINTERS, *place, width=4, stride=8, base=_UPPER_ARM64)
