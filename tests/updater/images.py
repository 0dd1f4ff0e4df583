"""Real, small build directories: an index, chunks, a verity root image with random-looking data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zstandard

from manifests.index import BootArtifact, OsIndex, RootImage, Segment, Stream
from updater import verity

SEGMENT = 64 * 1024
SALT = "5a" * 32


@dataclass(frozen=True)
class BuiltImage:
    """A build directory and what it was made from."""

    directory: Path
    index: OsIndex
    root: bytes
    boot: bytes


def build_image(
    directory: Path,
    version: str,
    *,
    data_blocks: int = 80,
    boot_size: int = 100_000,
    data: bytes | None = None,
    boot: bytes | None = None,
    system: str = "gateway",
    board: str = "testboard",
    architecture: str = "x86_64",
) -> BuiltImage:
    """Writes a build directory as `orbital image build` leaves it. data, boot: what is inside."""
    data = content(f"root {version}", data_blocks * verity.BLOCK) if data is None else data
    root, root_hash = root_image(data)
    boot = content(f"boot {version}", boot_size) if boot is None else boot
    sbom = b'{"bomFormat": "CycloneDX"}\n'
    index = OsIndex(
        format=1,
        system=system,
        version=version,
        board=board,
        architecture=architecture,
        built=1_700_000_000,
        root=RootImage(root_hash, len(data), SALT, cut_stream(directory, data)),
        boot=BootArtifact("uki", cut_stream(directory, boot)),
        packages={},
        sbom_sha256=hashlib.sha256(sbom).hexdigest(),
    )
    (directory / "index.json").write_bytes(msgspec.json.encode(index))
    (directory / "sbom.cdx.json").write_bytes(sbom)
    return BuiltImage(directory, index, root, boot)


def root_image(data: bytes) -> tuple[bytes, str]:
    """Data with its superblock and hash tree, and the root hash."""
    salt = bytes.fromhex(SALT)
    levels = verity.build_levels(verity.hash_blocks(data, salt), salt)
    root_hash = verity.root_hash(levels, salt).hex()
    described = RootImage(root_hash, len(data), SALT, Stream(0, "", 0, ()))
    head = verity.superblock(described).ljust(verity.BLOCK, b"\0")
    return data + head + b"".join(reversed(levels)), root_hash


def content(seed: str, size: int) -> bytes:
    """Bytes that compress a little: half noise, half zeros, in turns of 2 KiB."""
    noise = hashlib.shake_128(seed.encode()).digest(size)
    return b"".join(
        noise[at : at + 2048] if at % 4096 else bytes(min(2048, size - at))
        for at in range(0, size, 2048)
    )


def cut_stream(directory: Path, data: bytes) -> Stream:
    """Cuts data into segments, with their chunks in directory/chunks."""
    segments = []
    for at in range(0, len(data), SEGMENT):
        piece = data[at : at + SEGMENT]
        stored = zstandard.ZstdCompressor(level=1).compress(piece)
        name = hashlib.sha256(stored).hexdigest()
        path = directory / "chunks" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored)
        segments.append(Segment(len(piece), hashlib.sha256(piece).hexdigest(), len(stored), name))
    return Stream(len(data), hashlib.sha256(data).hexdigest(), SEGMENT, tuple(segments))
