"""The build directory: what `orbital image build` leaves, whole or not at all.

::

    OUT/SYSTEM_VERSION_BOARD/
      index.json         the OS index
      root.img           root image of a slot
      boot.img           boot artifact of a slot
      sbom.cdx.json      bill of materials
      chunks/XX/SHA256   segments as published
      interface.json     what it promises to feature packages (`manifests.interface`)
      device.json        for the factory: what the device is,
      loader/            and what its firmware starts before the slots
      rescue.img         its partition rescue, if the board has one, unless --no-rescue
    OUT/.SYSTEM_VERSION_BOARD.PID.partial   being written by process PID, or left by a kill
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imager.cache import space_error
from imager.root import RootFacts
from manifests.capabilities import known_capabilities
from manifests.catalogue import Product
from manifests.decoding import decode_json
from manifests.index import FORMAT, BootArtifact, OsIndex, RootImage, Stream
from recovery.errors import ManifestError, ToolError

_FILES = (
    "index.json", "root.img", "boot.img", "sbom.cdx.json", "interface.json", "device.json",
)  # fmt: skip


@dataclass(frozen=True)
class BuildDirectory:
    """A complete build directory."""

    path: Path
    index: OsIndex

    @property
    def root_image(self) -> Path:
        """The root image."""
        return self.path / "root.img"

    @property
    def boot_artifact(self) -> Path:
        """The boot artifact."""
        return self.path / "boot.img"


def open_build(path: Path) -> BuildDirectory:
    """Reads a build directory. Raises ManifestError when it is not complete."""
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise ManifestError(
            f"cannot use {path}: not a complete build directory",
            details=f"missing: {', '.join(missing)}",
            resolution="make it with 'orbital image build'",
        )
    try:
        index = decode_json((path / "index.json").read_bytes(), OsIndex)
    except msgspec.MsgspecError as error:
        raise ManifestError(
            f"cannot use {path}: its index.json is not valid",
            details=str(error),
            resolution="make it again with 'orbital image build'",
        ) from error
    return BuildDirectory(path, index)


@dataclass(frozen=True)
class Published:
    """What an index is made of. root, boot: segments of root image and boot artifact.

    boot_kind: of the boot artifact (`imager.firmware.kind`).
    """

    product: Product
    boot_kind: str
    facts: RootFacts
    root: Stream
    boot: Stream
    sbom: bytes
    built: int

    def index(self) -> OsIndex:
        """The index: what devices verify and fetch by."""
        product, facts = self.product, self.facts
        return OsIndex(
            format=FORMAT,
            system=product.manifest.system,
            version=product.manifest.version,
            board=product.board.board,
            architecture=product.board.architecture,
            built=self.built,
            root=RootImage(facts.root_hash, facts.hash_offset, facts.salt, self.root),
            boot=BootArtifact(self.boot_kind, self.boot),
            packages={item.manifest.package: item.manifest.version for item in product.packages},
            capabilities=tuple(item.name for item in known_capabilities().capabilities),
            refused=tuple(sorted(product.manifest.packages.refuse)),
            sbom_sha256=hashlib.sha256(self.sbom).hexdigest(),
        )


def encode_index(index: OsIndex) -> bytes:
    """The document as deterministic JSON."""
    return msgspec.json.format(msgspec.json.encode(index, order="sorted"), indent=1) + b"\n"


def write_build(
    output: Path,
    name: str,
    *,
    published: Published,
    files: Mapping[str, Path],
    chunks: Sequence[Path],
) -> BuildDirectory:
    """Writes OUT/NAME in one step, replacing an earlier build of that name.

    files: sources by name. chunks: folders with chunks, placed by `manifests.index.chunk_name`.
    Everything is copied, never linked: what users do to a build must not
    reach the cache.

    Raises SpaceError when the disk is full and ToolError when the folder
    cannot be written; then OUT/NAME is as it was before.
    """
    final = output / name
    partial = output / f".{name}.{os.getpid()}.partial"
    replaced = output / f".{name}.{os.getpid()}.replaced.partial"
    try:
        output.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(output, name)
        (partial / "loader").mkdir(parents=True)
        for relative, source in files.items():
            (partial / relative).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, partial / relative)
        for folder in chunks:
            shutil.copytree(
                folder, partial / "chunks", copy_function=shutil.copyfile, dirs_exist_ok=True
            )
        (partial / "sbom.cdx.json").write_bytes(published.sbom)
        (partial / "index.json").write_bytes(encode_index(published.index()))
        if final.exists():
            # A kill between the two renames leaves no OUT/NAME; building again restores it.
            final.rename(replaced)
        partial.rename(final)
    except OSError as error:
        raise space_error(error, f"write {final}", output) or ToolError(
            f"cannot write {final}: {error.strerror}",
            details=str(error),
            resolution="choose a folder you can write to with --output",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return open_build(final)


def _remove_abandoned(output: Path, name: str) -> None:
    """Deletes what killed builds of this name left."""
    for path in output.glob(f".{name}.*.partial"):
        owner = path.name.removeprefix(f".{name}.").partition(".")[0]
        if not (owner.isdigit() and Path("/proc", owner).exists()):
            shutil.rmtree(path, ignore_errors=True)
