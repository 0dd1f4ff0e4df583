"""What a slot holds when it is whole: found on a disk, and verified from the root hash down.

A root image belongs to a boot artifact when the tree of dm-verity that follows it has the root
hash that the artifact's command line names. Then there is exactly one right content, and a slot
is whole when it equals that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu.errors import MachineError
from updater.verity import BLOCK, build_levels, hash_blocks, root_hash, tree_size

_NAMED = re.compile(rb"orbital\.roothash=([0-9a-f]{64}) .{0,400}?orbital\.hashoffset=([0-9]+)")
_SALT_SIZE, _SALT = 80, 88


@dataclass(frozen=True)
class Image:
    """A version of the OS. artifact: its boot artifact. root: slot's content with the tree."""

    version: str
    root_hash: str
    artifact: NDArray[np.uint8]
    root: NDArray[np.uint8]


def read_image(version: str, artifact: NDArray[np.uint8], slot: NDArray[np.uint8]) -> Image:
    """The image that the artifact starts, from the slot. Raises MachineError when it is not."""
    named = _NAMED.search(artifact.tobytes())
    if named is None:
        raise MachineError(f"cannot use the boot artifact of {version}: it names no root hash")
    offset = int(named[2])
    root = slot[: offset + tree_size(offset)].copy()
    if _root_hash(root, offset) != named[1].decode():
        raise MachineError(f"cannot use the slot with {version}: its root hash is another")
    return Image(version, named[1].decode(), artifact.copy(), root)


def _root_hash(root: NDArray[np.uint8], offset: int) -> str:
    """The root hash of what the slot holds, if superblock and tree are those of its data."""
    header = root[offset : offset + 512].tobytes()
    size = int.from_bytes(header[_SALT_SIZE : _SALT_SIZE + 2], "little")
    salt = header[_SALT : _SALT + size]
    levels = build_levels(hash_blocks(root[:offset].tobytes(), salt), salt)
    tree = b"".join(bytes(level) for level in reversed(levels))
    whole = root[offset + BLOCK : offset + BLOCK + len(tree)].tobytes() == tree
    return root_hash(levels, salt).hex() if whole else ""
