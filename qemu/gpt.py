"""Reads a GUID partition table (UEFI Specification 2.10, chapter 5.3)."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from qemu.errors import MachineError

SECTOR = 512
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True)
class Partition:
    """One partition. offset and size in bytes; type and id are GUIDs in lower case."""

    number: int
    label: str
    type: str
    id: str
    offset: int
    size: int


def read_partitions(read: Callable[[int, int], bytes]) -> tuple[Partition, ...]:
    """The partitions of a disk, in table order, from its primary table.

    read: gives `length` bytes at `offset`. Raises MachineError when there is
    no table or its checksums do not match.
    """
    header = read(SECTOR, SECTOR)
    fields = _HEADER.unpack_from(header)
    signature, _, header_size, header_crc = fields[:4]
    if signature != b"EFI PART":
        raise MachineError("cannot read the partition table: the disk has no GPT")
    zeroed = header[:16] + bytes(4) + header[20:header_size]
    if zlib.crc32(zeroed) != header_crc:
        raise MachineError("cannot read the partition table: the GPT header's checksum is wrong")
    entries_lba, count, entry_size, entries_crc = fields[10:14]
    table = read(entries_lba * SECTOR, count * entry_size)
    if zlib.crc32(table) != entries_crc:
        raise MachineError("cannot read the partition table: the GPT entries' checksum is wrong")
    found = []
    for index in range(count):
        kind, name_id, first, last, _, label = _ENTRY.unpack_from(table, index * entry_size)
        if kind == bytes(16):
            continue
        found.append(
            Partition(
                number=index + 1,
                label=label.decode("utf-16-le").split("\0")[0],
                type=str(uuid.UUID(bytes_le=kind)),
                id=str(uuid.UUID(bytes_le=name_id)),
                offset=first * SECTOR,
                size=(last - first + 1) * SECTOR,
            )
        )
    return tuple(found)


def by_label(partitions: tuple[Partition, ...], label: str) -> Partition:
    """The partition with that label. Raises MachineError when there is none or several."""
    found = [partition for partition in partitions if partition.label == label]
    if len(found) != 1:
        raise MachineError(
            f"cannot use partition {label!r}: the disk has {len(found)} of that label",
            details="labels: " + ", ".join(partition.label for partition in partitions),
        )
    return found[0]
