"""What an ELF file needs and offers: libraries and symbol versions, read with pyelftools."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection

from recovery.errors import ToolError

MAGIC = b"\x7fELF"
# By Debian's name: machine (as pyelftools calls it) and bits.
MACHINES = {
    "amd64": ("EM_X86_64", 64),
    "arm64": ("EM_AARCH64", 64),
    "riscv64": ("EM_RISCV", 64),
    "armhf": ("EM_ARM", 32),
}
# Where the loader looks by itself (ld.so(8) as Debian builds it), before it gives up.
TRIPLETS = {
    "amd64": "x86_64-linux-gnu",
    "arm64": "aarch64-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
    "armhf": "arm-linux-gnueabihf",
}
_WEAK = 2  # VER_FLG_WEAK: the loader only warns


@dataclass(frozen=True)
class ElfFacts:
    """Of one file. machine: pyelftools' name. bits: 32 or 64, little: byte order.

    interpreter: the dynamic loader, "" for none. soname: "" for none. needed:
    names of libraries. search: folders of RPATH and RUNPATH. wants: of each
    needed library the versions of its symbols. defines: versions it defines.
    """

    machine: str
    bits: int
    little: bool
    interpreter: str
    soname: str
    needed: tuple[str, ...]
    search: tuple[str, ...]
    wants: dict[str, tuple[str, ...]]
    defines: tuple[str, ...]


def read_elf(content: bytes, name: str) -> ElfFacts:
    """What the file says. Raises ToolError when it is damaged."""
    try:
        return _read(ELFFile(io.BytesIO(content)))
    except (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError,
            OverflowError) as error:  # fmt: skip
        # pyelftools raises whatever its parsing of damaged tables ends in.
        raise ToolError(
            f"cannot read the ELF file {name}: it is damaged", details=str(error)
        ) from error


def _read(elf: Any) -> ElfFacts:
    interpreter = soname = ""
    needed: list[str] = []
    search: list[str] = []
    wants: dict[str, tuple[str, ...]] = {}
    defines: list[str] = []
    for segment in elf.iter_segments("PT_INTERP"):
        interpreter = str(segment.get_interp_name())
    for segment in elf.iter_segments("PT_DYNAMIC"):
        if not elf.num_sections():
            # The loader does without; pyelftools needs it to find the versions.
            raise ValueError("it has no section table")
        for tag in segment.iter_tags():
            if tag.entry.d_tag == "DT_NEEDED":
                needed.append(str(tag.needed))
            elif tag.entry.d_tag == "DT_SONAME":
                soname = str(tag.soname)
            elif tag.entry.d_tag == "DT_RPATH":
                search += str(tag.rpath).split(":")
            elif tag.entry.d_tag == "DT_RUNPATH":
                search += str(tag.runpath).split(":")
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for library, versions in section.iter_versions():
                wants[str(library.name)] = tuple(
                    str(version.name)
                    for version in versions
                    if not version.entry["vna_flags"] & _WEAK
                )
        elif isinstance(section, GNUVerDefSection):
            for _, names in section.iter_versions():
                defines.append(str(next(names).name))
    return ElfFacts(
        machine=str(elf["e_machine"]),
        bits=int(elf.elfclass),
        little=bool(elf.little_endian),
        interpreter=interpreter,
        soname=soname,
        needed=tuple(needed),
        search=tuple(folder for folder in search if folder),
        wants=wants,
        defines=tuple(defines),
    )
