"""OS images in a repository: targets below os/SYSTEM/BOARD/, signed by the role "os"."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imager.repository.targets import Targets, add_target, read_target
from manifests.index import FORMAT, OsIndex, Release, Releases, Segment
from manifests.interface import OsInterface
from manifests.versions import version_key
from recovery.errors import ManifestError, RefusedError


@dataclass(frozen=True)
class Build:
    """A build directory that was read and checked for completeness.

    index_bytes is what devices will verify; chunks are not read yet.
    interface: what the image promises to packages; None for a build without.
    """

    directory: Path
    index: OsIndex
    index_bytes: bytes
    sbom: bytes
    interface: bytes | None

    @property
    def base(self) -> str:
        """Target path of everything of this system and board."""
        return f"os/{self.index.system}/{self.index.board}"

    @property
    def name(self) -> str:
        """System and version, for people."""
        return f"{self.index.system} {self.index.version}"

    @property
    def chunks(self) -> Path:
        """The folder with its chunks."""
        return self.directory / "chunks"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, of the root image and the boot artifact."""
        return self.index.root.stream.segments + self.index.boot.stream.segments


def read_build(directory: Path) -> Build:
    """Reads the documents of a build directory. Raises ManifestError when it is not complete."""
    try:
        index_bytes = (directory / "index.json").read_bytes()
        sbom = (directory / "sbom.cdx.json").read_bytes()
        index = msgspec.json.decode(index_bytes, type=OsIndex)
        interface_file = directory / "interface.json"
        interface = interface_file.read_bytes() if interface_file.exists() else None
        promised = msgspec.json.decode(interface, type=OsInterface) if interface else None
    except (OSError, msgspec.MsgspecError) as error:
        raise ManifestError(
            f"cannot publish {directory}: not a complete build directory",
            details=str(error),
            resolution="build it: orbital image build",
        ) from error
    named = (index.system, index.version, index.board)
    if (
        index.format != FORMAT
        or hashlib.sha256(sbom).hexdigest() != index.sbom_sha256
        or (promised and (promised.system, promised.version, promised.board) != named)
    ):
        raise ManifestError(
            f"cannot publish {directory}: its files do not belong together",
            details=f"index format {index.format} of {' '.join(named)}; SBOM digest must be "
            f"{index.sbom_sha256}",
            resolution="build it again: orbital image build",
        )
    return Build(directory, index, index_bytes, sbom, interface)


def refuse_changed(targets: Targets, build: Build) -> None:
    """A version is published once; other bytes need another version. Raises RefusedError."""
    known = targets.get(f"{build.base}/{build.index.version}/index.json")
    digest = hashlib.sha256(build.index_bytes).hexdigest()
    if known is not None and known.hashes.get("sha256") != digest:
        raise RefusedError(
            f"cannot publish {build.name}: this version is published with other contents",
            details=f"published index {known.hashes.get('sha256')}, this one {digest}",
            resolution="raise the version in the system manifest and build again",
        )


def add_release(
    directory: Path,
    targets: Targets,
    build: Build,
    summary: str,
    downgrade_from: tuple[str, ...],
) -> None:
    """Adds the image's documents and the extended releases.json to the os role's targets."""
    base, index = build.base, build.index
    old = read_releases(directory, targets, base)
    known = {release.version: release for release in old}
    before = known.get(index.version, Release(index.version))
    known[index.version] = Release(
        index.version,
        summary=summary or before.summary,
        downgrade_from=tuple(sorted({*before.downgrade_from, *downgrade_from})),
    )
    ordered = tuple(sorted(known.values(), key=lambda release: version_key(release.version)))
    releases = Releases(FORMAT, index.system, index.board, ordered)
    document = msgspec.json.format(msgspec.json.encode(releases), indent=1) + b"\n"
    place = f"{base}/{index.version}"
    add_target(directory, targets, f"{place}/index.json", build.index_bytes)
    add_target(directory, targets, f"{place}/sbom.cdx.json", build.sbom)
    if build.interface is not None:
        add_target(directory, targets, f"{place}/interface.json", build.interface)
    add_target(directory, targets, f"{base}/releases.json", document)


def read_releases(directory: Path, targets: Targets, base: str) -> tuple[Release, ...]:
    """What is on offer under base, oldest first. Raises TrustError when the file is damaged."""
    target = targets.get(f"{base}/releases.json")
    if target is None:
        return ()
    data = read_target(directory, target)
    return msgspec.json.decode(data, type=Releases).releases


def read_indexes(directory: Path, targets: Targets) -> list[tuple[OsIndex, Release]]:
    """Every image on offer, by system and board, oldest first. Raises TrustError."""
    found = []
    for path in sorted(targets):
        base, _, name = path.rpartition("/")
        if name == "releases.json":
            for release in read_releases(directory, targets, base):
                data = read_target(directory, targets[f"{base}/{release.version}/index.json"])
                found.append((msgspec.json.decode(data, type=OsIndex), release))
    return found
