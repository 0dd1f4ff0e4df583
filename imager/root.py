"""The root image: erofs and dm-verity in one file, as a slot holds it.

::

    0             erofs, padded to 4 KiB
    hash_offset   verity superblock (4 KiB; UUID = first 16 bytes of the root hash)
    + 4 KiB       hash tree

The superblock is not covered by the root hash, which is why it can carry it:
the initramfs finds its slot by that UUID. Layout of the superblock: cryptsetup's
"DMVerity" page, `struct verity_sb` (signature, version, hash type, UUID at 16).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from imager.archive import write_tar
from imager.tools import Tools
from imager.tree import Tree
from recovery.errors import ToolError

BLOCK = 4096
_UUID_OFFSET = 16
_SUPERBLOCK_MAGIC = b"verity\0\0"
_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})\s*$", re.MULTILINE)

Compression = Literal["none", "lz4hc", "zstd"]
_COMPRESSION_OPTIONS: dict[Compression, list[str]] = {
    "none": [],
    "lz4hc": ["-zlz4hc,level=12", "-C65536"],
    "zstd": ["-zzstd,level=15", "-C65536"],
}


@dataclass(frozen=True)
class RootFacts:
    """What the signed boot artifact has to know of a root image.

    root_hash, salt: hex. hash_offset: bytes from the start to the verity
    superblock. size: bytes of the whole, a multiple of 4096.
    """

    root_hash: str
    hash_offset: int
    salt: str
    size: int

    def as_dict(self) -> dict[str, str | int]:
        """The facts for JSON."""
        return asdict(self)


def build_root(
    tree: Tree,
    output: Path,
    tools: Tools,
    *,
    name: str,
    built: int,
    compression: Compression = "none",
) -> RootFacts:
    """Writes the root image of the tree; the same tree, name and time give the same bytes.

    name: SYSTEM_VERSION_BOARD, from which salt and UUID are made. built: the
    time of all files, seconds since the epoch.

    Raises ToolError when a tool fails or what it made does not verify.
    """
    archive = output.with_suffix(".tar")
    write_tar(tree, archive, built)
    identifier = uuid.UUID(bytes=hashlib.sha256(f"orbital erofs {name}".encode()).digest()[:16])
    tools.run(
        "mkfs.erofs", "--quiet", f"-T{built}", f"-U{identifier}",
        # No extended attributes: file capabilities are given by units, not by files.
        "-x-1",
        # Workers would compress in an order of their own.
        "--workers=1", *_COMPRESSION_OPTIONS[compression],
        "--tar=f", output, archive,
    )  # fmt: skip
    archive.unlink()
    hash_offset = _pad(output)
    salt = hashlib.sha256(f"orbital root {name}".encode()).hexdigest()
    root_hash = _append_verity(output, tools, hash_offset, salt)
    _write_uuid(output, hash_offset, bytes.fromhex(root_hash)[:16])
    facts = RootFacts(root_hash, hash_offset, salt, output.stat().st_size)
    verify_root(output, facts, tools)
    return facts


def verify_root(path: Path, facts: RootFacts, tools: Tools) -> None:
    """Checks every block of a root image against its root hash, as the kernel would.

    Raises ToolError when it does not hold.
    """
    tools.run(
        "veritysetup", "verify", f"--hash-offset={facts.hash_offset}", path, path, facts.root_hash
    )  # fmt: skip


def _pad(path: Path) -> int:
    """Extends the file to whole blocks; returns its size."""
    size = path.stat().st_size
    padded = -(-size // BLOCK) * BLOCK
    with path.open("r+b") as out:
        out.truncate(padded)
    return padded


def _append_verity(path: Path, tools: Tools, hash_offset: int, salt: str) -> str:
    done = tools.run(
        "veritysetup", "format", "--hash=sha256",
        f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}",
        f"--data-blocks={hash_offset // BLOCK}", f"--hash-offset={hash_offset}",
        f"--salt={salt}", f"--uuid={uuid.UUID(int=0)}", path, path,
    )  # fmt: skip
    found = _ROOT_HASH.search(done.stdout)
    if found is None:
        raise ToolError("cannot read the root hash from veritysetup's output", details=done.stdout)
    return found[1]


def _write_uuid(path: Path, hash_offset: int, identifier: bytes) -> None:
    with path.open("r+b") as out:
        out.seek(hash_offset)
        magic = out.read(len(_SUPERBLOCK_MAGIC))
        if magic != _SUPERBLOCK_MAGIC:
            raise ToolError(f"cannot find the verity superblock of {path}", details=repr(magic))
        out.seek(hash_offset + _UUID_OFFSET)
        out.write(identifier)
