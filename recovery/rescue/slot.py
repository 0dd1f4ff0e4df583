"""Whether a slot is whole: its root image against the root hash that its boot artifact names.

The boot artifact has the kernel command line in plain text whatever its kind (a
UKI's section, GRUB's boot.cfg, a FIT's script, cmdline.txt), with the root hash and
where the hash tree begins. So what is verified is what would boot. The artifact
itself is held against the digests that it carries (`recovery.artifacts`). One that
carries none may be damaged: firmware or kernel find that, and the next visit knows it
by the count of starts.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from recovery.artifacts.check import check
from recovery.artifacts.content import Artifact, Checked, DamageError
from recovery.slots import Slot
from recovery.value import Value
from recovery.verity import (
    BLOCK,
    DIGEST,
    PER_BLOCK,
    SUPERBLOCK,
    build_levels,
    hash_blocks,
    root_hash,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.reporter import Reporter

_READ = 1 << 20
_LONGEST_WORD = 128
_ROOT_HASH = re.compile(rb"orbital\.roothash=([0-9a-f]{64})(?![0-9a-f])")
_HASH_OFFSET = re.compile(rb"orbital\.hashoffset=([0-9]{1,15})(?![0-9])")


class Named(Value):
    """What a boot artifact boots. root_hash: hex. hash_offset: bytes of data in the slot."""

    root_hash: str
    hash_offset: int


class Content(Value):
    """What a slot holds.

    root_hash: the one that its boot artifact names, hex; empty when it names none.
    damage: the first thing that is wrong; empty when the slot is whole.
    unchecked: why the boot artifact may be damaged all the same; empty when it cannot.
    """

    slot: Slot
    root_hash: str
    damage: str = ""
    unchecked: str = ""

    @property
    def whole(self) -> bool:
        """Whether it was verified completely."""
        return not self.damage


def inspect(
    slot: Slot,
    root: Path,
    artifact: Path,
    reporter: Reporter,
    *,
    kind: str = "",
    must_be_signed: bool = False,
) -> Content:
    """Reads all of the slot. root: its partition. artifact: the partition or file.

    kind, must_be_signed: of the artifact, as `recovery.artifacts.check` has them.
    """
    reporter.stage(f"verify slot {slot}")
    checked: Checked | None = None
    damage = ""
    try:
        try:
            checked = checked_artifact(artifact, kind, must_be_signed=must_be_signed)
        except DamageError as error:
            damage = f"its boot artifact {error}"
        named = named_image(artifact, checked.end if checked else None)
    except OSError as error:
        return Content(slot, "", f"its boot artifact cannot be read: {error.strerror}")
    if named is None:
        return Content(slot, "", "its boot artifact names no image")
    if checked is None:
        return Content(slot, named.root_hash, damage)
    try:
        damage = _damage(root, named, reporter)
    except OSError as error:
        damage = f"its root image cannot be read: {error.strerror}"
    return Content(slot, named.root_hash, damage, checked.unchecked)


def checked_artifact(path: Path, kind: str, *, must_be_signed: bool = False) -> Checked:
    """The artifact in a partition or file, by what it carries. Raises DamageError, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        artifact = Artifact(lambda offset, length: os.pread(fd, length, offset), size)
        return check(kind, artifact, must_be_signed=must_be_signed)
    finally:
        os.close(fd)


def named_image(artifact: Path, end: int | None = None) -> Named | None:
    """The image that the artifact's command line names; None when it names none.

    end: of the artifact, where it is known. The first words count: an artifact that was
    written over a longer one has the old one's end behind its own. Raises OSError.
    """
    hash_found, offset_found = "", -1
    kept = b""
    left = end if end is not None else sys.maxsize
    with artifact.open("rb", buffering=0) as file:
        while part := file.read(min(_READ, left)):
            left -= len(part)
            data = kept + part
            if not hash_found and (match := _ROOT_HASH.search(data)):
                hash_found = match[1].decode()
            if offset_found < 0 and (match := _HASH_OFFSET.search(data)):
                offset_found = int(match[1])
            if hash_found and offset_found >= 0:
                return Named(hash_found, offset_found)
            kept = data[-_LONGEST_WORD:]
    return None


def _damage(root: Path, named: Named, reporter: Reporter) -> str:
    """The first thing that is wrong with the root image. Raises OSError."""
    if named.hash_offset <= 0 or named.hash_offset % BLOCK:
        return f"its boot artifact names a hash tree at byte {named.hash_offset}"
    fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        salt = _salt(os.pread(fd, BLOCK, named.hash_offset), named)
        if salt is None:
            return "its verity superblock is not that of the image"
        leaves = bytearray(-(-named.hash_offset // BLOCK // PER_BLOCK) * BLOCK)
        at = 0
        while at < named.hash_offset:
            data = os.pread(fd, min(_READ, named.hash_offset - at), at)
            if not data or len(data) % BLOCK:
                return f"it ends at byte {at + len(data)}"
            first = at // BLOCK * DIGEST
            digests = hash_blocks(data, salt)
            leaves[first : first + len(digests)] = digests
            at += len(data)
            reporter.progress(at, named.hash_offset)
        levels = build_levels(leaves, salt)
        if root_hash(levels, salt).hex() != named.root_hash:
            return "its data are not those of the image"
        offset = named.hash_offset + BLOCK
        for level in reversed(levels):
            if os.pread(fd, len(level), offset) != level:
                return "its hash tree is damaged"
            offset += len(level)
    finally:
        os.close(fd)
    return ""


def _salt(block: bytes, named: Named) -> bytes | None:
    """The salt from the superblock; None when it is not one that the initramfs would take."""
    if len(block) < SUPERBLOCK.size:
        return None
    signature, version, kind, uuid, algorithm, data, tree, blocks, size, salt = SUPERBLOCK.unpack(
        block[: SUPERBLOCK.size]
    )
    wanted = (b"verity\0\0", 1, 1, bytes.fromhex(named.root_hash)[:16], BLOCK, BLOCK)
    if (signature, version, kind, uuid, data, tree) != wanted or size > len(salt):
        return None
    if algorithm.rstrip(b"\0") != b"sha256" or blocks * BLOCK != named.hash_offset:
        return None
    return bytes(salt[:size])
