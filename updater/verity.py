"""The dm-verity hash tree of a root image, computed from what the slot really holds.

The tree is not fetched: it is 0.8 % of an image, cannot be compressed, and shares
nothing between two versions, while its digests are needed here anyway to judge
the data against the signed root hash.

The tree itself, its format and its digests: `recovery.verity`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from manifests.index import RootImage
from recovery.errors import TrustError
from recovery.verity import (
    BLOCK,
    DIGEST,
    PER_BLOCK,
    SUPERBLOCK,
    build_levels,
    hash_blocks,
    padded,
    root_hash,
    tree_size,
)

__all__ = [
    "BLOCK",
    "DIGEST",
    "HashTree",
    "build_levels",
    "hash_blocks",
    "root_hash",
    "superblock",
    "tree_size",
]


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
        self._leaves = bytearray(-(-self._blocks // PER_BLOCK) * BLOCK)
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
        for part in (padded(superblock(self._root)), *reversed(levels)):
            yield offset, part
            offset += len(part)


def superblock(root: RootImage) -> bytes:
    """The superblock that belongs to the image.

    Its UUID is the first half of the root hash, by which the initramfs finds
    the slot (ARCHITECTURE.md, Disk).
    """
    salt = bytes.fromhex(root.salt)
    return SUPERBLOCK.pack(
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


def _wrong(details: str) -> TrustError:
    return TrustError(
        "cannot use the written slot: it does not hold the signed image",
        details=details,
        resolution="run the update again; if this repeats, the disk or the published image is bad",
    )
