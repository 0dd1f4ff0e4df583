"""The dm-verity hash tree of a root image, computed from what the slot really holds.

The tree is not fetched: it is 0.8 % of an image, cannot be compressed, and shares
nothing between two versions, while its digests are needed here anyway to judge
the data against the signed root hash.

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
from collections.abc import Iterator, Sequence

from manifests.index import RootImage
from recovery.errors import TrustError

BLOCK = 4096
DIGEST = 32
_PER_BLOCK = BLOCK // DIGEST

# signature, version, hash type, UUID, algorithm, data block size, hash block
# size, number of data blocks, salt size, padding, salt.
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")


class HashTree:
    """The tree over the data blocks of a slot, from their digests as they are read back.

    Blocks may come in any order and from several threads. In memory are the
    digests of all blocks: 8 MiB for a GiB of data.
    """

    def __init__(self, root: RootImage) -> None:
        """root: what the signed index says (see `updater.index` for its validity)."""
        self._root = root
        self._salt = bytes.fromhex(root.salt)
        self._blocks = root.hash_offset // BLOCK
        self._leaves = bytearray(-(-self._blocks // _PER_BLOCK) * BLOCK)
        self._missing = self._blocks
        self._lock = threading.Lock()

    def add(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Takes in data blocks read back at offset; both are multiples of the block size."""
        first = offset // BLOCK
        count = len(data) // BLOCK
        digests = hash_blocks(data, self._salt)
        with self._lock:
            self._leaves[first * DIGEST : (first + count) * DIGEST] = digests
            self._missing -= count

    def parts(self) -> Iterator[tuple[int, bytes | bytearray]]:
        """What belongs behind the data: offset in the slot and content, whole blocks each.

        Raises TrustError, before the first part, when data blocks were not taken
        in or are not those that were signed.
        """
        if self._missing:
            raise _wrong(f"{self._missing} data blocks were not read back")
        levels = build_levels(self._leaves, self._salt)
        if root_hash(levels, self._salt) != bytes.fromhex(self._root.root_hash):
            raise _wrong("the root hash of the data is not the signed one")
        offset = self._root.hash_offset
        for part in (_padded(superblock(self._root)), *reversed(levels)):
            yield offset, part
            offset += len(part)


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
    levels: list[bytes | bytearray] = [_padded(leaves)]
    while len(levels[-1]) > BLOCK:
        levels.append(_padded(hash_blocks(levels[-1], salt)))
    return levels


def root_hash(levels: Sequence[bytes | bytearray], salt: bytes) -> bytes:
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


def _padded(content: bytes | bytearray) -> bytes | bytearray:
    missing = -len(content) % BLOCK
    return content + bytes(missing) if missing else content


def _wrong(details: str) -> TrustError:
    return TrustError(
        "cannot use the written slot: it does not hold the signed image",
        details=details,
        resolution="run the update again; if this repeats, the disk or the published image is bad",
    )
