"""One entry of a disk's partition table, as firmware names a partition by it.

Format: UEFI specification, 5.3. Only the primary table: where it is damaged the kernel uses
the backup, and whoever asks here can do without an answer.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from recovery.errors import StateError
from recovery.partitions import find_partition, partition_number
from recovery.value import Value

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQ")
_LARGEST_TABLE = 128 << 10


class Entry(Value):
    """number: in the table, from 1. guid: the partition's own, in the table's byte order.
    first, blocks: in logical blocks of the disk."""

    number: int
    guid: bytes
    first: int
    blocks: int


def parse_entry(header: bytes, table: bytes, number: int) -> Entry:
    """The entry of that number. header: the disk's second block. table: all entries.

    Raises StateError.
    """
    if len(header) < _HEADER.size:
        raise StateError("cannot read the partition table: the disk ends before it")
    signature, _, size, checksum, *_, count, entry_size, entries = _HEADER.unpack_from(header)
    if signature != b"EFI PART" or not _HEADER.size <= size <= len(header):
        raise StateError("cannot read the partition table: the disk has no GPT")
    if zlib.crc32(header[:16] + bytes(4) + header[20:size]) != checksum:
        raise StateError("cannot read the partition table: its checksum is wrong")
    if not 1 <= number <= count or entry_size < 128 or count * entry_size > _LARGEST_TABLE:
        raise StateError(f"cannot find partition {number} in the partition table")
    table = table[: count * entry_size]
    if len(table) < count * entry_size or zlib.crc32(table) != entries:
        raise StateError("cannot read the partition table: the checksum of its entries is wrong")
    at = (number - 1) * entry_size
    kind, guid, first, last = _ENTRY.unpack_from(table, at)
    if kind == bytes(16) or last < first:
        raise StateError(f"cannot find partition {number} in the partition table")
    return Entry(number, guid, first, last - first + 1)


def find_entry(label: str, root: Path = Path("/")) -> Entry:
    """The entry of the partition with this label. Raises StateError, OSError, ValueError."""
    node = find_partition(label, root)
    number = partition_number(label, root)
    block = (root / "sys/class/block" / node.name).resolve()
    disk = block.parent
    size = int((disk / "queue/logical_block_size").read_text())
    fd = os.open(root / "dev" / disk.name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = os.pread(fd, size, size)
        table_at = int.from_bytes(header[72:80], "little") * size
        table = os.pread(fd, _LARGEST_TABLE, min(table_at, 1 << 40))
    finally:
        os.close(fd)
    found = parse_entry(header, table, number)
    # sysfs counts in 512 bytes.
    if found.first * size != int((block / "start").read_text()) * 512:
        raise StateError(f"cannot trust the partition table: {label!r} is elsewhere")
    return found
