"""The dm-verity hash tree of a root image, computed from what the slot really holds.

Format (kernel, Documentation/admin-guide/device-mapper/verity.rst, and
cryptsetup's verity superblock, version 1): at hash_offset one block with the
superblock, then the levels of the tree from the top (one block) down to the
digests of the data blocks. A digest is sha256(salt + block); a block holds 128
digests and is padded with zeros. The root hash is the digest of the top block.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable

from manifests.index import RootImage
from recovery.errors import TrustError

BLOCK = 4096
DIGEST = 32
_PER_BLOCK = BLOCK // DIGEST

# signature, version, hash type, UUID, algorithm, data block size, hash block
# size, number of data blocks, salt size, padding, salt.
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")

ReadAt = Callable[[int, int], bytes]


class TreeCheck:
    """Collects the digests of the data blocks as they are read back, then judges the whole.

    Blocks may come in any order and from several threads.
    """

    def __init__(self, root: RootImage) -> None:
        """root: what the signed index says (see `updater.index` for its validity)."""
        self._root = root
        self._salt = bytes.fromhex(root.salt)
        self._blocks = root.hash_offset // BLOCK
        self._leaves = bytearray(self._blocks * DIGEST)
        self._missing = self._blocks
        self._lock = threading.Lock()

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """Takes in data read back at offset; both are multiples of the block size.

        What lies beyond the data area is left to `verify`.
        """
        first = offset // BLOCK
        count = min(len(data) // BLOCK, self._blocks - first)
        if count <= 0:
            return
        digests = hash_blocks(data[: count * BLOCK], self._salt)
        with self._lock:
            self._leaves[first * DIGEST : (first + count) * DIGEST] = digests
            self._missing -= count

    def verify(self, read_at: ReadAt) -> None:
        """Compares superblock and every level of the tree with what the slot holds.

        read_at(offset, size) reads the slot. Raises TrustError when anything
        differs, or when data blocks were not taken in.
        """
        if self._missing:
            raise _wrong(f"{self._missing} data blocks were not read back")
        self._verify_superblock(read_at(self._root.hash_offset, _SUPERBLOCK.size))
        levels = build_levels(bytes(self._leaves), self._salt)
        if root_hash(levels, self._salt) != bytes.fromhex(self._root.root_hash):
            raise _wrong("the root hash of the data is not the signed one")
        offset = self._root.hash_offset + BLOCK
        for level in reversed(levels):
            if read_at(offset, len(level)) != level:
                raise _wrong(f"the hash tree differs at byte {offset}")
            offset += len(level)

    def _verify_superblock(self, data: bytes) -> None:
        if data != superblock(self._root):
            raise _wrong("the superblock does not describe the signed image")


def superblock(root: RootImage) -> bytes:
    """The superblock that belongs to the image.

    Its UUID is the first half of the root hash, by which the initramfs finds
    the slot (ARCHITECTURE.md, Disk).
    """
    salt = bytes.fromhex(root.salt)
    return _SUPERBLOCK.pack(
        b"verity\0\0",
        1,
        1,
        bytes.fromhex(root.root_hash)[:16],
        b"sha256",
        BLOCK,
        BLOCK,
        root.hash_offset // BLOCK,
        len(salt),
        salt,
    )


def hash_blocks(data: bytes | memoryview, salt: bytes) -> bytes:
    """The digests of the blocks of data, one after the other. 1.1 GB/s on one core with SHA-NI."""
    sha256 = hashlib.sha256
    return b"".join(
        [sha256(salt + data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    )


def build_levels(leaves: bytes, salt: bytes) -> list[bytes]:
    """The levels of the tree above the data, lowest first, each padded to whole blocks."""
    levels = [_padded(leaves)]
    while len(levels[-1]) > BLOCK:
        levels.append(_padded(hash_blocks(levels[-1], salt)))
    return levels


def root_hash(levels: list[bytes], salt: bytes) -> bytes:
    """The digest of the top block."""
    return hash_blocks(levels[-1], salt)


def tree_size(hash_offset: int) -> int:
    """Bytes of superblock and tree for data of hash_offset bytes."""
    blocks = 1
    count = hash_offset // BLOCK
    while True:
        count = -(-count // _PER_BLOCK)
        blocks += count
        if count <= 1:
            return blocks * BLOCK


def _padded(digests: bytes) -> bytes:
    return digests + bytes(-len(digests) % BLOCK)


def _wrong(details: str) -> TrustError:
    return TrustError(
        "cannot use the written slot: it does not hold the signed image",
        details=details,
        resolution="run the update again; if this repeats, the disk or the published image is bad",
    )
