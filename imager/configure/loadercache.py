"""/etc/ld.so.cache: where the dynamic loader finds each library, as ldconfig(8) writes it.

Format "glibc-ld.so.cache1.1" of glibc (elf/cache.c, sysdeps/generic/dl-cache.h): a
header; an entry for each library, sorted descending by its name; the strings; an
extension that names the generator. ldconfig of one architecture refuses another's
libraries, and the target's cannot run here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from imager.package.elf import MAGIC, read_elf
from imager.tree import Tree
from manifests.architectures import LOADERS

_CACHE = "etc/ld.so.cache"
_MAGIC = b"glibc-ld.so.cache1.1"
_LITTLE_ENDIAN = 2
_HEADER, _ENTRY = struct.Struct("<20sIIB3xI12x"), struct.Struct("<iIIIQ")
_EXTENSION = struct.Struct("<IIIIII")
_EXTENSION_MAGIC = 0xEAA42174
_GENERATOR = b"orbital"
# FLAG_ELF_LIBC6 and the flag of the architecture's ABI (sysdeps/generic/ldconfig.h).
_FLAGS = {"x86_64": 0x0303, "aarch64": 0x0A03, "riscv64": 0x1003, "armhf": 0x0903}
_LIBRARY = re.compile(r"(lib|ld-).*\.so")


def write_loader_cache(tree: Tree) -> None:
    """Writes the cache; nothing when the tree has no loader that is known."""
    libraries = dict(_libraries(tree))
    for architecture, flags in _FLAGS.items():
        if LOADERS[architecture] in libraries:
            tree.file(_CACHE, encode_cache(libraries, flags))


def encode_cache(libraries: dict[str, str], flags: int) -> bytes:
    """The cache. libraries: path of each, by the name (soname) that programs ask for."""
    names = sorted(libraries, key=_order, reverse=True)
    start = _HEADER.size + len(names) * _ENTRY.size
    strings = bytearray()
    entries = bytearray()
    for name in names:
        path = start + len(strings)
        # A name is the end of its path.
        key = path + len(libraries[name].encode()) - len(name.encode())
        entries += _ENTRY.pack(flags, key, path, 0, 0)
        strings += libraries[name].encode() + b"\0"
    end = start + len(strings)
    extension = end + -end % 4
    header = _HEADER.pack(_MAGIC, len(names), len(strings), _LITTLE_ENDIAN, extension)
    at = extension + _EXTENSION.size
    tail = _EXTENSION.pack(_EXTENSION_MAGIC, 1, 0, 0, at, len(_GENERATOR)) + _GENERATOR
    return header + bytes(entries) + bytes(strings) + bytes(-end % 4) + tail


def _libraries(tree: Tree) -> Iterator[tuple[str, str]]:
    """Each library's name and path; of two with one name, that in the later folder first."""
    for folder in reversed(_folders(tree)):
        for path in tree.glob(f"{tree.resolve(folder)}/*.so*"):
            base = path.rpartition("/")[2]
            entry = tree.get(tree.resolve(path))
            if not _LIBRARY.match(base) or entry is None or entry.kind != "file":
                continue
            data = entry.read()
            if data.startswith(MAGIC):
                name = read_elf(data, path).soname or base
                yield name, f"{folder}/{name}"


def _folders(tree: Tree) -> list[str]:
    """Folders of ld.so.conf(5), and those that the loader knows, each once."""
    found: dict[str, str] = {}
    for path in ("etc/ld.so.conf", *tree.glob("etc/ld.so.conf.d/*.conf")):
        for line in tree.read(path).decode().splitlines() if path in tree else ():
            if line.startswith("/"):
                found.setdefault(tree.resolve(line), line.rstrip("/"))
    for folder in ("/lib", "/usr/lib"):
        found.setdefault(tree.resolve(folder), folder)
    return list(found.values())


def _order(name: str) -> list[tuple[int, int]]:
    """Key for the order of _dl_cache_libcmp: numbers by value, and after all letters."""
    parts = re.findall(r"\d+|\D", name)
    return [(2, int(part)) if part.isdigit() else (1, ord(part)) for part in parts]
