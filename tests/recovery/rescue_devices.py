"""Small images with real hash trees, and what a slot holds after they were installed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from recovery.verity import BLOCK, SUPERBLOCK, build_levels, hash_blocks, root_hash

SALT = b"\x5a" * 32


@dataclass(frozen=True)
class Image:
    """root: all bytes of the slot. boot: the boot artifact. hash_offset: bytes of data."""

    root: bytes
    boot: bytes
    root_hash: str
    hash_offset: int


def make_image(seed: str, blocks: int = 20) -> Image:
    """An image of noise that is the same for the same seed."""
    data = hashlib.shake_128(seed.encode()).digest(blocks * BLOCK)
    levels = build_levels(hash_blocks(data, SALT), SALT)
    digest = root_hash(levels, SALT)
    head = SUPERBLOCK.pack(
        b"verity\0\0", 1, 1, digest[:16], b"sha256", BLOCK, BLOCK, blocks, len(SALT), SALT
    )
    root = data + head.ljust(BLOCK, b"\0") + b"".join(reversed(levels))
    words = f"orbital.roothash={digest.hex()} orbital.hashoffset={len(data)} ro"
    return Image(root, f"kernel {seed} {words}\0".encode(), digest.hex(), len(data))


def write_slot(path: Path, image: Image, size: int) -> None:
    """A slot of size bytes with the image at its beginning."""
    path.write_bytes(image.root.ljust(size, b"\0"))
