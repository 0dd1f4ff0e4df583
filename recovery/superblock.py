"""The checksum of an ext4 superblock that a power cut tore, made right again.

The superblock is two sectors (1024 bytes at byte 1024), and Linux writes it whole at every mount:
after a cut the first may be of one write and the second, with the checksum of both, of
another. Each field by itself is then right, old or new, and which of the two does not matter:
what belongs together across fields is in the journal. But neither kernel nor e2fsck opens a file
system whose superblock fails its checksum; e2fsck looks for a copy, and a file system of one block
group (up to 128 MiB) has none. A larger one's copies are as old as its last growth.

Layout: Linux, Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from recovery import durable

OFFSET = 1024
SIZE = 1024
_MAGIC_AT, _MAGIC = 0x38, 0xEF53
_READ_ONLY_FEATURES, _METADATA_CHECKSUMS = 0x64, 0x400
_KIND_AT, _CRC32C = 0x175, 1
_CHECKSUM_AT = 0x3FC
_POLYNOMIAL = 0x82F63B78


def checksum(superblock: bytes) -> int:
    """What its checksum must be: CRC-32C of all before it, without the final inversion."""
    crc = 0xFFFFFFFF
    for byte in superblock[:_CHECKSUM_AT]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc


def torn(superblock: bytes) -> bool:
    """Whether it is an ext4 superblock with a checksum that is not its own."""
    return (
        len(superblock) == SIZE
        and struct.unpack_from("<H", superblock, _MAGIC_AT)[0] == _MAGIC
        and bool(struct.unpack_from("<I", superblock, _READ_ONLY_FEATURES)[0] & _METADATA_CHECKSUMS)
        and superblock[_KIND_AT] == _CRC32C
        and struct.unpack_from("<I", superblock, _CHECKSUM_AT)[0] != checksum(superblock)
    )


def reseal(device: Path) -> bool:
    """Makes a wrong checksum right; False when nothing was to be done.

    e2fsck must check the file system afterwards. Power cut: one sector is written, so before
    or after. Raises OSError.
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(fd, SIZE, OFFSET)
    finally:
        os.close(fd)
    if not torn(found):
        return False
    durable.overwrite(device, OFFSET + _CHECKSUM_AT, struct.pack("<I", checksum(found)))
    return True
