"""What both updaters are offered: one new image, as Orbital's repository and as RAUC's bundles.

Both carry the same two files, root image (with its verity tree) and boot artifact. Bundles are
RAUC's format verity, compressed by zstd; "adaptive" in blocks of 64 KiB, as RAUC's manual
advises for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.delta.images import Image, Pair
from imager.cache import Cache, Input
from imager.keys import make_development_keys
from imager.repository.create import create
from imager.repository.deltas import DeltaMaker
from imager.repository.keyring import KeyDirectory
from imager.repository.publish import publish
from imager.repository.roles import Periods
from imager.segments import cut
from imager.tools import Tools
from manifests.index import BootArtifact, OsIndex, RootImage, Stream
from recovery import process
from recovery.reporter import Reporter
from updater import verity

SYSTEM = "benchmark"
VERSIONS = ("1.0", "2.0")
BUNDLES = FULL, ADAPTIVE, ADAPTIVE_OLD = "full.raucb", "adaptive.raucb", "old.raucb"
CERTIFICATE = "certificate.pem"
# Level 19: what a publisher who counts bytes takes; unpacking costs the same at any level.
_SQUASHFS = "-comp zstd -Xcompression-level 19 -processors 1"
# The verity superblock (cryptsetup wiki, DMVerity, "superblock"): size and start of the salt.
_SALT_SIZE, _SALT = 80, 88
# A bill of materials has to be there.
_SBOM = b"{}\n"

_MANIFEST = """\
[update]
compatible={system}
version={version}

[bundle]
format=verity

[image.rootfs]
filename=root.img
{adaptive}
[image.boot]
filename=boot.img
{adaptive}"""


@dataclass(frozen=True)
class Version:
    """One of the two images. root: with its verity tree. boot: the boot artifact."""

    name: str
    root: Path
    boot: Path
    root_hash: str


@dataclass(frozen=True)
class Offer:
    """What the web server has and the device knows. www: the server's folder, with repository/
    and bundles. anchor: root of trust of Orbital's device; certificate: of RAUC's."""

    old: Version
    new: Version
    www: Path
    anchor: bytes
    certificate: Path

    @property
    def facts(self) -> dict[str, str]:
        """For `benchmarks.install.device`."""
        return {
            "system": SYSTEM,
            "board": SYSTEM,
            "old": self.old.name,
            "old_root_hash": self.old.root_hash,
        }


def make(
    pair: Pair,
    kernel: Path,
    work: Path,
    *,
    cache: Cache,
    tools: Tools,
    rauc: Path,
    reporter: Reporter,
) -> Offer:
    """Makes all of it in work. kernel: what the boot artifacts consist of, beside the root hash
    that each names. rauc: the tree with Debian's rauc."""
    www = work / "www"
    www.mkdir()
    versions: list[Version] = []
    builds: list[Path] = []
    for name, image in zip(VERSIONS, (pair.old, pair.new), strict=True):
        folder = work / name
        folder.mkdir()
        _, version = build_version(name, image, kernel, folder, cache=cache, tools=tools)
        versions.append(version)
        builds.append(folder)
    make_development_keys(work / "keys")
    keys = KeyDirectory(work / "keys")
    anchor = create(www / "repository", keys, periods=Periods())
    deltas = DeltaMaker(cache, workers=1)
    for build in builds:
        publish(www / "repository", [build], keys, reporter=reporter, deltas=deltas)
    old, new = versions
    reporter.stage("make bundles")
    bundles = _bundles(old, new, cache, tools, rauc)
    for name in BUNDLES:
        (www / name).symlink_to(bundles / name)
    return Offer(old, new, www, anchor, bundles / CERTIFICATE)


def build_version(
    name: str, image: Image, kernel: Path, folder: Path, *, cache: Cache, tools: Tools
) -> tuple[OsIndex, Version]:
    """Makes folder a build directory of one version."""
    stream, chunks = cut(image.path, cache, tools, size=image.size)
    shutil.copytree(chunks, folder / "chunks")
    root = root_image(image, folder / "root.img", stream)
    # The root hash is in what the loader verifies, so the artifact changes with every image.
    boot = folder / "boot.img"
    content = kernel.read_bytes() + f"roothash={root.root_hash}\n".encode()
    boot.write_bytes(content.ljust(-(-len(content) // verity.BLOCK) * verity.BLOCK, b"\0"))
    stream, chunks = cut(boot, cache, tools)
    shutil.copytree(chunks, folder / "chunks", dirs_exist_ok=True)
    index = OsIndex(
        format=1,
        system=SYSTEM,
        version=name,
        board=SYSTEM,
        architecture="x86_64",
        built=0,
        root=root,
        boot=BootArtifact("fit", stream),
        packages={},
        sbom_sha256=hashlib.sha256(_SBOM).hexdigest(),
    )
    (folder / "index.json").write_bytes(msgspec.json.encode(index))
    (folder / "sbom.cdx.json").write_bytes(_SBOM)
    return index, Version(name, folder / "root.img", boot, root.root_hash)


def root_image(image: Image, copy: Path, stream: Stream) -> RootImage:
    """What the index says of the image, by its verity superblock. copy: padded to whole blocks."""
    shutil.copyfile(image.path, copy)
    os.truncate(copy, -(-copy.stat().st_size // verity.BLOCK) * verity.BLOCK)
    with image.path.open("rb") as file:
        data = file.read(image.size)
        head = file.read(verity.BLOCK)
    (size,) = struct.unpack_from("<H", head, _SALT_SIZE)
    salt = head[_SALT : _SALT + size]
    levels = verity.build_levels(verity.hash_blocks(data, salt), salt)
    root_hash = verity.root_hash(levels, salt).hex()
    return RootImage(root_hash, image.size, salt.hex(), stream)


def _bundles(old: Version, new: Version, cache: Cache, tools: Tools, rauc: Path) -> Path:
    """A folder with all bundles and the certificate."""

    def build(directory: Path) -> None:
        tools.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=benchmark",
            "-days", "3650", "-keyout", directory / "key.pem", "-out", directory / CERTIFICATE,
        )  # fmt: skip
        bundler = Bundler(directory, rauc)
        bundler.make(new, directory / FULL, adaptive=False)
        bundler.make(new, directory / ADAPTIVE, adaptive=True)
        # Only prepares the device.
        bundler.make(old, directory / ADAPTIVE_OLD, adaptive=True)

    inputs: dict[str, Input] = {
        "images": [old.root, old.boot, new.root, new.boot],
        "versions": [old.name, new.name],
        "rauc": str(rauc),
        "code": Path(__file__),
    }
    return cache.stage("benchmark-bundles", inputs, build)


class Bundler:
    """Runs `rauc bundle` of an unpacked Debian tree, through the tree's own loader.

    work: folder with key.pem and the certificate.
    """

    def __init__(self, work: Path, tree: Path) -> None:
        self._work = work
        programs = work / "programs"
        programs.mkdir()
        for name in ("rauc", "mksquashfs"):
            wrapper = programs / name
            wrapper.write_text(
                f'#!/bin/sh\nexec "{tree}/usr/lib64/ld-linux-x86-64.so.2" --library-path'
                f' "{tree}/usr/lib/x86_64-linux-gnu" --argv0 {name} "{tree}/usr/bin/{name}" "$@"\n'
            )
            wrapper.chmod(0o755)
        self._path = f"{programs}:{os.environ['PATH']}"

    def make(self, version: Version, output: Path, *, adaptive: bool) -> None:
        """Makes a bundle of the version."""
        content = self._work / f"{output.name}.content"
        content.mkdir()
        for source in (version.root, version.boot):
            shutil.copyfile(source, content / source.name)
        method = "adaptive=block-hash-index\n" if adaptive else ""
        (content / "manifest.raucm").write_text(
            _MANIFEST.format(system=SYSTEM, version=version.name, adaptive=method)
        )
        squashfs = f"{_SQUASHFS} -b 64k" if adaptive else _SQUASHFS
        command: Sequence[str | Path] = [
            self._work / "programs" / "rauc",
            "bundle",
            f"--cert={self._work / CERTIFICATE}",
            f"--key={self._work / 'key.pem'}",
            f"--mksquashfs-args={squashfs}",
            content,
            output,
        ]
        process.run(command, env={"PATH": self._path})
        shutil.rmtree(content)
