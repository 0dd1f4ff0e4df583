"""The OS index: what one image consists of, with sizes and digests. Signed as a TUF target.

Segments cut a stream (root image or boot artifact) into pieces of
``segment_size`` bytes (the last may be shorter). Each is stored as one zstd
frame in the repository under ``chunks/XX/SHA256`` where SHA256 is the digest
of the stored (compressed) bytes.
"""

from __future__ import annotations

import msgspec

FORMAT = 1


def chunk_name(sha256: str) -> str:
    """A chunk's place below ``chunks/``."""
    return f"{sha256[:2]}/{sha256}"


def chunk_path(sha256: str) -> str:
    """A chunk's path in a repository."""
    return f"chunks/{chunk_name(sha256)}"


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One piece of a stream.

    size: bytes of the piece. sha256: digest of the piece, hex.
    stored_size, stored_sha256: the same of its compressed form as published.
    """

    size: int
    sha256: str
    stored_size: int
    stored_sha256: str


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file cut into segments. size in bytes, sha256 of the whole, hex."""

    size: int
    sha256: str
    segment_size: int
    segments: tuple[Segment, ...]

    @property
    def stored_size(self) -> int:
        """Bytes to fetch when nothing is present."""
        return sum(segment.stored_size for segment in self.segments)


class RootImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The root image: erofs, which a slot holds followed by its verity superblock and tree.

    root_hash: dm-verity root hash, hex (sha256, 4 KiB blocks, hash format 1).
    hash_offset: bytes from the start to the verity superblock, all of them data.
    salt: hex. stream: the data; superblock and tree follow from it and are computed.
    """

    root_hash: str
    hash_offset: int
    salt: str
    stream: Stream


class BootArtifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the boot loader starts: kind "uki" (one signed PE file), "cpio" (GRUB), "fit"
    (U-Boot) or "fat" (Raspberry Pi); see ARCHITECTURE.md, Boards."""

    kind: str
    stream: Stream


class OsIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image. built is in seconds since the epoch.

    packages: system packages inside, with versions. capabilities: names that
    the image can grant to feature packages; refused: those that it does not.
    """

    format: int
    system: str
    version: str
    board: str
    architecture: str
    built: int
    root: RootImage
    boot: BootArtifact
    packages: dict[str, str]
    sbom_sha256: str
    capabilities: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def stored_size(self) -> int:
        """Bytes to fetch when nothing is present."""
        return self.root.stream.stored_size + self.boot.stream.stored_size


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published version.

    downgrade_from: versions from which a device may go down to this one.
    summary: for people.
    """

    version: str
    summary: str = ""
    downgrade_from: tuple[str, ...] = ()


class Releases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Target ``os/SYSTEM/BOARD/releases.json``: what is on offer, newest last."""

    format: int
    system: str
    board: str
    releases: tuple[Release, ...]
