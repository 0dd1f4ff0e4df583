"""Publishing images: build directories in, a new repository state out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TargetFile

from imager.repository import metadata
from imager.repository.delegations import OS_ROLE
from imager.repository.roles import Keyring, required_signers, utc_now
from manifests.index import FORMAT, OsIndex, Release, Releases, Segment
from manifests.versions import version_key
from recovery import durable
from recovery.errors import ManifestError, RefusedError, SpaceError, TrustError
from recovery.reporter import Reporter

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Build:
    """A build directory that was read and checked for completeness.

    index_bytes is what devices will verify; chunks are not read yet.
    """

    directory: Path
    index: OsIndex
    index_bytes: bytes
    sbom: bytes

    @property
    def base(self) -> str:
        """Target path of everything of this system and board."""
        return f"os/{self.index.system}/{self.index.board}"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, of the root image and the boot artifact."""
        return self.index.root.stream.segments + self.index.boot.stream.segments


@dataclass(frozen=True)
class Published:
    """One image that is now on offer. new_chunks and new_bytes: what was added to the store."""

    system: str
    board: str
    version: str
    new_chunks: int
    new_bytes: int


def publish(
    directory: Path,
    builds: Sequence[Path],
    keys: Keyring,
    *,
    reporter: Reporter,
    summary: str = "",
    downgrade_from: Sequence[str] = (),
    now: datetime | None = None,
) -> list[Published]:
    """Offers the images of the build directories to devices, all in one step.

    Write order: chunks → targets (index, releases) → os → snapshot →
    timestamp. Nothing written before timestamp.json is referred to by the
    state before, so a power cut or an error at any point leaves the old state
    valid, and running the command again finishes the work.

    Raises ManifestError or RefusedError for a build that cannot be published,
    TrustError when keys are missing or do not fit, SpaceError on a full disk.
    """
    time = utc_now() if now is None else now
    read = [read_build(build) for build in builds]
    with metadata.locked(directory):
        periods = metadata.load_config(directory)
        current = metadata.load(directory)
        signers = {
            role: required_signers(keys, role) for role in (OS_ROLE, "snapshot", "timestamp")
        }
        targets = current.os.signed.targets
        for build in read:
            _refuse_changed(targets, build)
        try:
            done = [_store_chunks(directory, build, reporter) for build in read]
            reporter.stage("sign")
            for build in read:
                _add_release(directory, targets, build, summary, tuple(downgrade_from))
            current.os.signed.version += 1
            current.os.signed.expires = periods.expires(OS_ROLE, time)
            metadata.sign(current.os, signers[OS_ROLE])
            _require_accepted(current)
            metadata.save_numbered(directory, OS_ROLE, current.os)
            metadata.commit(
                directory,
                current,
                periods=periods,
                now=time,
                snapshot_signers=signers["snapshot"],
                timestamp_signers=signers["timestamp"],
            )
        except OSError as error:
            raise SpaceError(
                f"cannot write the repository {directory}: {error.strerror}",
                details=f"{error.filename or ''}; devices still see the state before",
                resolution="make room or repair the disk, then publish again",
            ) from error
        return done


def read_build(directory: Path) -> Build:
    """Reads index and SBOM of a build directory. Raises ManifestError when it is not complete."""
    try:
        index_bytes = (directory / "index.json").read_bytes()
        sbom = (directory / "sbom.cdx.json").read_bytes()
        index = msgspec.json.decode(index_bytes, type=OsIndex)
    except (OSError, msgspec.MsgspecError) as error:
        raise ManifestError(
            f"cannot publish {directory}: not a complete build directory",
            details=str(error),
            resolution="build it: orbital image build",
        ) from error
    if index.format != FORMAT or hashlib.sha256(sbom).hexdigest() != index.sbom_sha256:
        raise ManifestError(
            f"cannot publish {directory}: its files do not belong together",
            details=f"index format {index.format}; SBOM digest must be {index.sbom_sha256}",
            resolution="build it again: orbital image build",
        )
    return Build(directory, index, index_bytes, sbom)


def chunk_path(sha256: str) -> str:
    """Where the repository keeps a chunk, relative to its top."""
    return f"chunks/{sha256[:2]}/{sha256}"


def _refuse_changed(targets: dict[str, TargetFile], build: Build) -> None:
    """A version is published once; other bytes need another version."""
    known = targets.get(f"{build.base}/{build.index.version}/index.json")
    digest = hashlib.sha256(build.index_bytes).hexdigest()
    if known is not None and known.hashes.get("sha256") != digest:
        raise RefusedError(
            f"cannot publish {build.index.system} {build.index.version}: "
            "this version is published with other contents",
            details=f"published index {known.hashes.get('sha256')}, this one {digest}",
            resolution="raise the version in the system manifest and build again",
        )


def _store_chunks(directory: Path, build: Build, reporter: Reporter) -> Published:
    """Copies the chunks that the repository lacks, each verified as it is copied."""
    reporter.stage(f"publish {build.index.system} {build.index.version}")
    segments = list({segment.stored_sha256: segment for segment in build.segments}.values())
    total = sum(segment.stored_size for segment in segments)
    done = new_chunks = new_bytes = 0
    for segment in segments:
        destination = directory / chunk_path(segment.stored_sha256)
        # Chunks arrive by rename, whole: an existing name has its content.
        if not destination.is_file() or destination.stat().st_size != segment.stored_size:
            source = build.directory / chunk_path(segment.stored_sha256)
            durable.make_directory(destination.parent)
            staged = durable.stage_file(destination, _verified(source, segment))
            durable.publish_file(staged, destination)
            new_chunks += 1
            new_bytes += segment.stored_size
        done += segment.stored_size
        reporter.progress(done, total)
    index = build.index
    return Published(index.system, index.board, index.version, new_chunks, new_bytes)


def _verified(source: Path, segment: Segment) -> Iterator[bytes]:
    """The bytes of a chunk; the last block comes only when all of them are right."""
    digest = hashlib.sha256()
    size = 0
    try:
        with source.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                yield block
    except FileNotFoundError as error:
        raise ManifestError(
            f"cannot publish {source.parents[2]}: chunk {source.name} is missing",
            resolution="build it again: orbital image build",
        ) from error
    if size != segment.stored_size or digest.hexdigest() != segment.stored_sha256:
        # Raised inside stage_file, which deletes the temporary file.
        raise ManifestError(
            f"cannot publish {source.parents[2]}: chunk {source.name} is damaged",
            details=f"{size} bytes, sha256 {digest.hexdigest()}",
            resolution="build it again: orbital image build",
        )


def _add_release(
    directory: Path,
    targets: dict[str, TargetFile],
    build: Build,
    summary: str,
    downgrade_from: tuple[str, ...],
) -> None:
    """Adds index, SBOM and the extended releases.json to the os role's targets."""
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
    _add_target(directory, targets, f"{base}/{index.version}/index.json", build.index_bytes)
    _add_target(directory, targets, f"{base}/{index.version}/sbom.cdx.json", build.sbom)
    _add_target(directory, targets, f"{base}/releases.json", document)


def read_releases(
    directory: Path, targets: dict[str, TargetFile], base: str
) -> tuple[Release, ...]:
    """What is on offer under base, oldest first. Raises TrustError when the file is damaged."""
    target = targets.get(f"{base}/releases.json")
    if target is None:
        return ()
    data = read_target(directory, target)
    return msgspec.json.decode(data, type=Releases).releases


def read_target(directory: Path, target: TargetFile) -> bytes:
    """A target's bytes, verified. Raises TrustError when they are damaged or missing."""
    path = _target_path(directory, target)
    try:
        data = path.read_bytes()
        target.verify_length_and_hashes(data)
    except (OSError, RepositoryError) as error:
        raise TrustError(
            f"cannot use {path}: missing or damaged",
            details=str(error),
            resolution="restore the repository from a mirror or a backup",
        ) from error
    return data


def _add_target(directory: Path, targets: dict[str, TargetFile], path: str, data: bytes) -> None:
    target = TargetFile.from_data(path, data, ["sha256"])
    file = _target_path(directory, target)
    durable.make_directory(file.parent)
    durable.replace_file(file, data)
    targets[path] = target


def _target_path(directory: Path, target: TargetFile) -> Path:
    parent, _, name = target.path.rpartition("/")
    return directory / "targets" / parent / f"{target.hashes['sha256']}.{name}"


def _require_accepted(current: metadata.MetadataSet) -> None:
    """Raises TrustError when devices would refuse the new os role."""
    try:
        current.targets.verify_delegate(OS_ROLE, current.os)
    except RepositoryError as error:
        raise TrustError(
            "cannot publish: the key of role os is not the one this repository delegates to",
            details=str(error),
            resolution="use the repository's own keys (--keys), or rotate: refresh --rotate",
        ) from error
