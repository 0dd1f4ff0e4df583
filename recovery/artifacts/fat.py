"""The files in the top directory of a FAT, as firmware reads them: by the first table. Pure.

Microsoft, "FAT: General Overview of On-Disk Format", 1.03. Only as much as it takes to compare
what a boot loader would find; short names only.
"""

from __future__ import annotations

import struct

from recovery.artifacts.content import Artifact, DamageError

_SECTOR, _ENTRY = 512, 32
_DIRECTORY, _LABEL = 0x10, 0x08
_MOST_ENTRIES = 4096
_LARGEST_FILE = 1 << 24
# The most clusters of a FAT12.
_LARGEST_12 = 4084


class _Fat:
    def __init__(self, data: Artifact) -> None:
        boot = data.take(0, _SECTOR)
        sector, per_cluster, reserved, tables, entries, small, small_table, large, large_table = (
            struct.unpack_from("<HBHBHHxH8xII", boot, 11)
        )
        total, table = small or large, small_table or large_table
        if boot[510:] != b"\x55\xaa" or sector != _SECTOR or not reserved or not 1 <= tables <= 2:
            raise DamageError("has no boot sector")
        if per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128) or not table or entries % 16:
            raise DamageError("has no boot sector")
        self.data, self.size = data, per_cluster * _SECTOR
        self.table = reserved * _SECTOR
        self.top = self.table + tables * table * _SECTOR
        self.top_size = entries * _ENTRY
        self.heap = self.top + self.top_size
        self.count = (total * _SECTOR - self.heap) // self.size
        # As Linux does (fs/fat/inode.c): a FAT32 by its fields, the others by their clusters.
        self.bits = 32
        if small_table:
            self.bits = 16 if self.count > _LARGEST_12 else 12
        fits = (self.count + 2) * self.bits <= table * _SECTOR * 8
        if self.count < 1 or not fits or total * _SECTOR > data.size:
            raise DamageError("has sizes that cannot be")
        self.root = int.from_bytes(boot[44:48], "little") if self.bits == 32 else 0

    def next(self, cluster: int) -> int:
        """What the first table says comes after."""
        at = self.table + cluster * self.bits // 8
        if self.bits == 12:
            pair = int.from_bytes(self.data.take(at, 2), "little")
            return pair >> 4 if cluster % 2 else pair & 0xFFF
        return int.from_bytes(self.data.take(at, self.bits // 8), "little") & 0x0FFFFFFF

    def chain(self, cluster: int, most: int) -> bytes:
        """At most so many clusters of a chain; fewer where it ends."""
        parts: list[bytes] = []
        while len(parts) < most and 2 <= cluster < self.count + 2:
            parts.append(self.data.take(self.heap + (cluster - 2) * self.size, self.size))
            cluster = self.next(cluster)
        return b"".join(parts)

    def directory(self) -> bytes:
        """The entries of the top directory."""
        if self.bits == 32:
            return self.chain(self.root, -(-_MOST_ENTRIES * _ENTRY // self.size))
        return self.data.take(self.top, self.top_size)


def top_files(data: Artifact) -> dict[bytes, bytes]:
    """Content by short name (11 bytes). Raises DamageError where a firmware could not read it."""
    fat = _Fat(data)
    entries = fat.directory()
    found: dict[bytes, bytes] = {}
    for at in range(0, len(entries) - _ENTRY + 1, _ENTRY):
        name, kind = entries[at : at + 11], entries[at + 11]
        if name[0] == 0:
            break
        # Also parts of long names, which are marked as labels.
        if name[0] == 0xE5 or kind & (_DIRECTORY | _LABEL):
            continue
        high, low, size = struct.unpack_from("<H4xHI", entries, at + 20)
        if size > _LARGEST_FILE:
            raise DamageError("has a file that is too large")
        first = low | (high << 16 if fat.bits == 32 else 0)
        content = fat.chain(first, -(-size // fat.size))[:size]
        if len(content) != size or name in found:
            raise DamageError("has a damaged file")
        found[name] = content
    return found


def same_files(wanted: Artifact, found: Artifact) -> str:
    """What of the wanted file system's files is not in the other as it should be; empty: nothing.

    Other files do not matter, nor where the files lie: U-Boot keeps its EFI variables
    in a file of its own (ubootefi.var). Raises DamageError for wanted.
    """
    files = top_files(wanted)
    if found.take(0, _SECTOR) != wanted.take(0, _SECTOR):
        return "its boot sector is not the factory's"
    try:
        present = top_files(found)
    except DamageError as error:
        return f"its file system {error}"
    for name, content in files.items():
        if present.get(name) != content:
            text = name.decode("latin-1")
            short = f"{text[:8].strip()}.{text[8:].strip()}".lower().rstrip(".")
            return f"its file {short} is not the factory's"
    return ""
