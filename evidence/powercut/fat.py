"""FAT as a firmware reads it: the first table, names long and short, nothing repaired.

Microsoft, "FAT: General Overview of On-Disk Format", 1.03. A file counts as long as its directory
entry says if its chain of clusters is that long, else not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_DIRECTORY, _LABEL, _LONG = 0x10, 0x08, 0x0F
_MOST_ENTRIES = 4096


class FatError(Exception):
    """This is no FAT, or what was looked for is not in it."""


@dataclass(frozen=True)
class Found:
    """One directory entry. size: bytes, as the entry says."""

    name: str
    directory: bool
    cluster: int
    size: int


class Fat:
    """A FAT32 or FAT16 file system."""

    def __init__(self, data: Bytes) -> None:
        """Raises FatError."""
        boot = data[:512].tobytes()
        sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", boot, 11)
        entries, small, small_table = struct.unpack_from("<HHxH", boot, 17)
        large, large_table = struct.unpack_from("<II", boot, 32)
        if boot[510:] != b"\x55\xaa" or sector != 512 or not per_cluster or not tables:
            raise FatError("no boot sector")
        table = (small_table or large_table) * sector
        start = reserved * sector
        self._data = data
        self._cluster = per_cluster * sector
        root_bytes = entries * 32
        self._heap = start + tables * table + root_bytes
        count = ((small or large) * sector - self._heap) // self._cluster
        wide = count >= 65525
        kind = np.dtype("<u4") if wide else np.dtype("<u2")
        if count <= 0 or start + table > data.size or table < (count + 2) * kind.itemsize:
            raise FatError("sizes that cannot be")
        self._table = data[start : start + table].view(kind)[: count + 2]
        self._mask = 0x0FFFFFFF if wide else 0xFFFF
        self._root = int.from_bytes(boot[44:48], "little") if wide else 0
        self._fixed_root = data[self._heap - root_bytes : self._heap] if not wide else None

    def listing(self, path: str) -> list[Found]:
        """What a directory holds. Raises FatError when it is not there."""
        content = self._directory(self._root) if self._fixed_root is None else self._fixed_root
        for part in path.strip("/").split("/"):
            if not part:
                continue
            found = self._find(content, part)
            if not found.directory:
                raise FatError(f"{path} is no directory")
            content = self._directory(found.cluster)
        return list(_entries(content.tobytes()))

    def read(self, path: str) -> Bytes:
        """The content of a file. Raises FatError when it is absent or its chain too short."""
        found = self._file(path)
        if not found.size:
            return np.zeros(0, dtype=np.uint8)
        runs = self._runs(found.cluster, -(-found.size // self._cluster))
        return np.concatenate([self._data[start:end] for start, end in runs])[: found.size]

    def where(self, path: str) -> list[tuple[int, int]]:
        """Where a file's clusters lie, in bytes. Raises FatError as `read`."""
        found = self._file(path)
        return self._runs(found.cluster, -(-found.size // self._cluster)) if found.size else []

    def _file(self, path: str) -> Found:
        directory, _, name = path.rpartition("/")
        found = next((e for e in self.listing(directory) if e.name.lower() == name.lower()), None)
        if found is None or found.directory:
            raise FatError(f"no file {path}")
        return found

    def _find(self, content: Bytes, name: str) -> Found:
        for found in _entries(content.tobytes()):
            if found.name.lower() == name.lower():
                return found
        raise FatError(f"no entry {name}")

    def _directory(self, cluster: int) -> Bytes:
        runs = self._runs(cluster, None)
        return np.concatenate([self._data[start:end] for start, end in runs])

    def _runs(self, cluster: int, count: int | None) -> list[tuple[int, int]]:
        """Where a chain lies: of count clusters, or to its end."""
        runs: list[tuple[int, int]] = []
        taken = 0
        limit = _MOST_ENTRIES if count is None else count
        while taken < limit:
            if not 2 <= cluster < self._table.size:
                if count is None and cluster > self._mask - 8 and runs:
                    return runs
                raise FatError("a chain that ends too early")
            # As many clusters as follow each other.
            window = self._table[cluster : cluster + limit - taken] & self._mask
            steps = window[:-1] != np.arange(cluster + 1, cluster + window.size, dtype=window.dtype)
            breaks = np.flatnonzero(steps)
            length = int(breaks[0]) + 1 if breaks.size else window.size
            start = self._heap + (cluster - 2) * self._cluster
            end = start + length * self._cluster
            if end > self._data.size:
                raise FatError("a chain that leaves the disk")
            runs.append((start, end))
            taken += length
            cluster = int(self._table[cluster + length - 1]) & self._mask
        if count is None:
            raise FatError("a directory without an end")
        return runs


def _entries(content: bytes) -> Iterator[Found]:
    """The entries of a directory; a long name counts if its parts are complete and fit."""
    parts: list[tuple[int, int, str]] = []
    for at in range(0, len(content), 32):
        entry = content[at : at + 32]
        if entry[0] == 0:
            return
        if entry[0] == 0xE5:
            parts = []
            continue
        if entry[11] & 0x3F == _LONG:
            text = entry[1:11] + entry[14:26] + entry[28:32]
            if entry[0] & 0x40:
                parts = []
            parts.append((entry[0], entry[13], text.decode("utf-16-le", "replace")))
            continue
        if not entry[11] & _LABEL:
            high, low, size = struct.unpack("<H4xHI", entry[20:32])
            yield Found(
                _long_name(parts, entry[:11]) or _short_name(entry),
                bool(entry[11] & _DIRECTORY),
                high << 16 | low,
                size,
            )
        parts = []


def _long_name(parts: list[tuple[int, int, str]], short: bytes) -> str:
    checksum = 0
    for byte in short:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    numbers = [order & 0x3F for order, _, _ in parts]
    if (
        not parts
        or not parts[0][0] & 0x40
        or numbers != list(range(len(parts), 0, -1))
        or any(mine != checksum for _, mine, _ in parts)
    ):
        return ""
    return "".join(text for _, _, text in reversed(parts)).split("\0")[0]


def _short_name(entry: bytes) -> str:
    base, extension = entry[:8].rstrip(b" "), entry[8:11].rstrip(b" ")
    name = (base + (b"." + extension if extension else b"")).decode("latin-1")
    return name.lower()
