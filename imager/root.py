"""The root image of a slot: erofs, its verity superblock and its hash tree, in one file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from imager.layout import stable_uuid
from imager.tools import Tools
from recovery.errors import ToolError

BLOCK = 4096
# Options of mkfs.erofs for each value of image.compression. Large clusters
# compress better and cost memory on the device: 64 KiB is what Android uses.
_COMPRESSION: dict[str, tuple[str, ...]] = {
    "none": (),
    "lz4hc": ("-zlz4hc,12", "-C65536"),
    "zstd": ("-zzstd,15", "-C65536"),
}
# Where the UUID lies in the verity superblock: after magic (8), version (4) and
# hash type (4). https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity
_UUID_OFFSET = 16
_MAGIC = b"verity\0\0"


@dataclass(frozen=True)
class RootFacts:
    """What others have to know of a root image.

    root_hash: hex. hash_offset: bytes from its start to the verity superblock.
    salt: hex. size: of the whole in bytes.
    """

    root_hash: str
    hash_offset: int
    salt: str
    size: int


def make_root_image(
    archive: Path, output: Path, tools: Tools, *, identity: str, salt: str, built: int,
    compression: str,
) -> RootFacts:  # fmt: skip
    """Writes the root image of the tree in archive (an uncompressed tar).

    identity: gives the file system its UUID. salt: hex. built: time of all
    inodes, in seconds since the epoch. compression: a key of the manifest.
    The same arguments give the same bytes. Raises ToolError.
    """
    tools.run(
        "mkfs.erofs", "--quiet", "--tar=f", *_COMPRESSION[compression],
        f"-T{built}", "-U", stable_uuid("erofs", identity), "-x-1", output, archive,
    )  # fmt: skip
    hash_offset = -(-output.stat().st_size // BLOCK) * BLOCK
    os.truncate(output, hash_offset)
    done = tools.run(
        "veritysetup", "format", "--hash=sha256", f"--salt={salt}",
        f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}",
        f"--data-blocks={hash_offset // BLOCK}", f"--hash-offset={hash_offset}",
        # Replaced below: the real one needs the root hash.
        "--uuid=00000000-0000-0000-0000-000000000000", output, output,
    )  # fmt: skip
    found = re.search(r"^Root hash:\s+([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    if not found:
        raise ToolError(
            "cannot read the root hash that veritysetup printed",
            details=f"command: {done.pasteable}\n{done.stdout}",
        )
    _name_slot(output, hash_offset, found[1])
    return RootFacts(found[1], hash_offset, salt, output.stat().st_size)


def _name_slot(image: Path, hash_offset: int, root_hash: str) -> None:
    """Writes the first 16 bytes of the root hash over the superblock's UUID.

    That is how the initramfs finds the slot of its image; the superblock is not
    part of what the root hash covers.
    """
    with image.open("r+b") as stream:
        stream.seek(hash_offset)
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ToolError(f"cannot find the verity superblock of {image} at {hash_offset}")
        stream.seek(hash_offset + _UUID_OFFSET)
        stream.write(bytes.fromhex(root_hash)[:16])
