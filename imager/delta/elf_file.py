"""Where an ELF file holds addresses: its code and its tables, as regions that can be rewritten."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section
from numpy.typing import NDArray

from delta.machines.tables import frame_starts
from delta.rewrite import ADDRESS_LIMIT, MACHINES, REGIONS_LIMIT, Kind, Region

_CODE = {
    "EM_X86_64": Kind.X86_64,
    "EM_AARCH64": Kind.AARCH64,
    "EM_RISCV": Kind.RISCV64,
    "EM_ARM": Kind.THUMB,
}
_POINTER_ARRAYS = ("SHT_INIT_ARRAY", "SHT_FINI_ARRAY", "SHT_PREINIT_ARRAY")
_STUBS = (".plt", ".plt.got", ".plt.sec")
# Of .eh_frame_hdr: version 1; frame pointer pcrel sdata4; count udata4; table datarel sdata4.
_FRAME_INDEX = b"\x01\x1b\x03\x3b"
_PCREL_SDATA4 = 0x1B


@dataclass(frozen=True)
class Executable:
    """A program or library. low, high: the addresses of what is loaded of it.

    data: its bytes. regions: where addresses are, as for delta.rewrite.Rewrite.
    read_only: data that is neither code nor written, as (offset, size, address less offset).
    stubs: position and size of code that is a table: the n-th entry belongs to the n-th entry of
    another one, and so became the new n-th one, whichever function it now calls.
    tables: by name, the range of the file with a table of distances from their own places.
    types: its type information (BTF), whose types are regions.
    names: addresses of a kernel's names in their order, and how many names are before these.
    """

    data: bytes
    low: int
    high: int
    regions: tuple[Region, ...]
    read_only: tuple[tuple[int, int, int], ...]
    stubs: Mapping[str, tuple[int, int]]
    tables: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    types: bytes = b""
    names: tuple[NDArray[np.int64], int] | None = None

    @property
    def machine(self) -> Kind:
        """What its code is."""
        return next(region.kind for region in self.regions if region.kind in MACHINES)

    def bias(self, offset: int) -> int:
        """Address less position of what begins at this position; 0 if it is no region."""
        return next((region.bias for region in self.regions if region.offset == offset), 0)


def read_executable(data: bytes) -> Executable | None:
    """None for what is no ELF file of a machine that is known, or has no code, or is damaged."""
    if not data.startswith(b"\x7fELF"):
        return None
    try:
        return _read(data, ELFFile(io.BytesIO(data)))
    except (ELFError, ValueError, KeyError, IndexError, OverflowError, TypeError, AttributeError):
        # pyelftools raises any of these when headers lie.
        return None


def _read(data: bytes, elf: ELFFile) -> Executable | None:
    kind = _CODE.get(elf["e_machine"])
    if kind not in MACHINES or not elf.little_endian or elf["e_type"] not in ("ET_DYN", "ET_EXEC"):
        return None
    if elf["e_machine"] == "EM_RISCV" and elf.elfclass != 64:
        return None
    loaded = [
        (segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"])
        for segment in elf.iter_segments("PT_LOAD")
    ]
    found: list[Region] = []
    read_only, stubs = [], {}
    for section in elf.iter_sections():
        if section["sh_type"] == "SHT_NOBITS" or not section["sh_size"]:
            continue
        if section["sh_offset"] + section["sh_size"] > len(data):
            return None
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC:
            regions = list(_regions(data, section, elf.elfclass // 8, kind))
            found.extend(regions)
            if section.name in _STUBS:
                stubs[section.name] = section["sh_offset"], section["sh_size"]
            if not regions and not section["sh_flags"] & SH_FLAGS.SHF_WRITE:
                offset, size, address = (section[f"sh_{n}"] for n in ("offset", "size", "addr"))
                read_only.append((offset, size, address - offset))
    if not loaded or not any(region.kind in MACHINES for region in found):
        return None
    found.extend(_headers(elf))
    low, high = min(start for start, _ in loaded), max(end for _, end in loaded)
    places = [(region.offset, region.size, region.bias) for region in found] + read_only
    if len(found) > REGIONS_LIMIT or not all(
        offset + size <= len(data) and 0 <= offset + bias <= ADDRESS_LIMIT
        for offset, size, bias in [*places, (0, 0, low), (0, 0, high)]
    ):
        return None
    return Executable(data, low, high, _separate(found), tuple(read_only), stubs)


def _regions(data: bytes, section: Section, word: int, code: Kind) -> Iterator[Region]:
    kind, flags = section["sh_type"], section["sh_flags"]
    offset, size, address = section["sh_offset"], section["sh_size"], section["sh_addr"]
    pointers = Region(
        Kind.POINTERS, offset, size, address - offset, width=word, stride=word
    )  # fmt: skip
    if kind in ("SHT_PROGBITS", "SHT_X86_64_UNWIND"):
        if flags & SH_FLAGS.SHF_EXECINSTR:
            # In its linkage table, 32-bit Arm switches to the other instruction set.
            other = code is Kind.THUMB and section.name in _STUBS
            yield Region(Kind.ARM if other else code, offset, size, address - offset)
        elif section.name == ".eh_frame":
            if _frames_are_relative(data[offset : offset + size]):
                yield Region(Kind.FRAMES, offset, size, address - offset)
        elif section.name == ".eh_frame_hdr":
            if data[offset : offset + 4] == _FRAME_INDEX:
                yield Region(
                    Kind.OFFSETS, offset + 12, size - 12, address - offset, stride=4, base=address
                )
        elif flags & SH_FLAGS.SHF_WRITE and not flags & SH_FLAGS.SHF_TLS:
            yield pointers
    elif kind in _POINTER_ARRAYS:
        yield pointers
    elif kind == "SHT_RELR":
        yield replace(pointers, kind=Kind.EVEN_POINTERS)
    elif kind == "SHT_RELA":
        # The word between, number and type of a symbol, is no address of a program.
        yield pointers
    elif kind == "SHT_REL":
        yield replace(pointers, stride=2 * word)
    elif kind == "SHT_DYNAMIC":
        yield _shifted(pointers, word, stride=2 * word)
    elif kind == "SHT_DYNSYM":
        yield _shifted(pointers, 8 if word == 8 else 4, stride=24 if word == 8 else 16)


def _headers(elf: ELFFile) -> Iterator[Region]:
    """Addresses in the program headers and in the section headers."""
    word = elf.elfclass // 8
    # sh_addr and sh_offset follow each other; p_vaddr and p_paddr as well.
    for offset, entry, count, place in (
        (elf["e_phoff"], elf["e_phentsize"], elf["e_phnum"], 16 if word == 8 else 8),
        (elf["e_shoff"], elf["e_shentsize"], elf["e_shnum"], 16 if word == 8 else 12),
    ):
        if count and word <= entry <= 64:
            size = entry * count - place
            yield Region(Kind.POINTERS, offset + place, size, 0, width=word, stride=entry)


def _shifted(region: Region, by: int, *, stride: int) -> Region:
    return replace(region, offset=region.offset + by, size=region.size - by, stride=stride)


def _separate(regions: list[Region]) -> tuple[Region, ...]:
    """The regions in order, without those that begin inside another."""
    regions = sorted((region for region in regions if region.size > 0), key=lambda r: r.offset)
    kept = regions[:1]
    for _, region in pairwise(regions):
        if region.offset >= kept[-1].offset + kept[-1].size:
            kept.append(region)
    return tuple(kept)


def _frames_are_relative(section: bytes) -> bool:
    """Whether all frame descriptions begin with a 4-byte distance from themselves.

    Said by the letter R of the augmentation of the common entry. Source: LSB Core 5.0, 10.6.1.
    """
    encodings = set()
    descriptions = set(frame_starts(section, 0, len(section)))
    at = 0
    while at + 12 <= len(section):
        length = int.from_bytes(section[at : at + 4], "little")
        if length >= 8 and at + 8 not in descriptions:
            encodings.add(_encoding(section[at + 8 : at + 4 + length]))
        at += 4 + length
    return encodings == {_PCREL_SDATA4}


def _encoding(common: bytes) -> int:
    """The encoding of addresses that a common entry declares; 0 when it declares none."""
    augmentation, _, rest = common[1:].partition(b"\0")
    if not augmentation.startswith(b"z"):
        return 0
    at = 0
    for _ in range(4):  # code alignment, data alignment, return register, length: LEB128
        while rest[at] & 0x80:
            at += 1
        at += 1
    for letter in augmentation[1:].decode("ascii", "replace"):
        if letter == "R":
            return rest[at]
        if letter == "L":
            at += 1
        elif letter == "P":
            if rest[at] & 0x0F not in (0x03, 0x0B):
                return 0
            at += 5
        elif letter not in "SB":
            return 0
    return 0
