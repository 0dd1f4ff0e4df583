"""Deltas between published images of a package: which, and which of them stay on offer.

They are made like those between OS images (`imager.repository.encode`), and signed by the
package's publisher. What it costs decides: each is an entry in the metadata of the
publisher's role, about 200 bytes that every device with a package of that publisher fetches
after every publication; and a document of 400 bytes and more for the device that uses it.
So only large packages get any, a delta has to save something, and only those to the
newest versions stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imager.cache import Input
from imager.publishers import role_of
from imager.repository.chunks import store_chunks
from imager.repository.delegations import may_sign_package_deltas
from imager.repository.deltas import DeltaMaker
from imager.repository.encode import code, encode, identity, write_parts
from imager.repository.metadata import MetadataSet
from imager.repository.packages import Incoming
from imager.repository.targets import Targets, add_target
from manifests.package_delta import (
    FORMAT,
    PackageDelta,
    fetch_bytes,
    makes,
    package_delta_target,
    package_deltas,
    useful,
)
from manifests.package_index import PackageRelease
from manifests.versions import compare_versions, version_key
from recovery.reporter import Reporter

LARGE = 512 << 10
"""Bytes to fetch in full from which on a package gets deltas: there 2 % of it, what a device
risks for a delta, are 10 KiB. Smaller ones are fetched in the time that a few requests take."""
SAVES = 64 << 10
"""Bytes that a delta saves at least."""
WORTH = 0.8
"""What it costs at most, as a share of the full download."""
KEPT = 3
"""Versions, the newest of a package, to which deltas stay on offer."""

_DOCUMENT = "delta.json"
# A segment: what is tried first risks less, and packages are small.
_PIECES = 1
_SMALLEST_PART = 4 << 10


@dataclass(frozen=True)
class PublishedPackageDelta:
    """A delta that is now on offer. fetch_bytes: what a device fetches with it; full_bytes:
    without it."""

    package: str
    version: str
    architecture: str
    from_version: str
    fetch_bytes: int
    full_bytes: int


@dataclass(frozen=True)
class PackageDeltas:
    """What was made, and what was not and why, for people."""

    made: tuple[PublishedPackageDelta, ...] = ()
    warnings: tuple[str, ...] = ()


def bases(
    new: PackageRelease, releases: Sequence[PackageRelease], last: int, named: Sequence[str]
) -> list[PackageRelease]:
    """The releases from which deltas to a release are made, newest first. Pure.

    The newest older ones of its architecture, and the named. None to a small package, nor,
    unless they are named, to a version that is not among the newest.
    """
    if new.stream.stored_size < LARGE:
        return []
    same = [
        item
        for item in releases
        if item.architecture == new.architecture and item.digest != new.digest
    ]
    same.sort(key=lambda item: version_key(item.version), reverse=True)
    newer = [item for item in same if compare_versions(item.version, new.version) > 0]
    older = [item for item in same if compare_versions(item.version, new.version) < 0]
    wanted = older[:last] if len(newer) < KEPT else []
    return [item for item in same if item in wanted or item.version in named]


def add_package_deltas(
    directory: Path,
    current: MetadataSet,
    packages: Sequence[Incoming],
    offered: Mapping[str, Sequence[PackageRelease]],
    *,
    maker: DeltaMaker,
    reporter: Reporter,
) -> PackageDeltas:
    """Makes the deltas to packages whose chunks are in the repository, and adds them to the
    targets of the publishers' roles.

    offered: all that will be on offer. Raises TrustError for damaged chunks, ToolError.
    """
    made: list[PublishedPackageDelta] = []
    warnings: list[str] = []
    for item in packages:
        name, publisher = item.package.name, item.package.publisher
        releases = offered[name]
        own = maker.among(release.version for release in releases)
        old = bases(item.release, releases, own.last, own.named)
        if old and not may_sign_package_deltas(current.targets.signed, name, publisher):
            warnings.append(
                f"no deltas are made to {name}: the repository does not let the role "
                f"{role_of(publisher)} sign them; run 'orbital repository refresh' with the key of "
                "targets"
            )
            continue
        targets = current.delegated[role_of(publisher)].signed.targets
        for base in old:
            found = _offer(directory, targets, item, base, maker=maker, reporter=reporter)
            made += [found] if found is not None else []
    return PackageDeltas(tuple(made), tuple(warnings))


def _offer(
    directory: Path,
    targets: Targets,
    item: Incoming,
    old: PackageRelease,
    *,
    maker: DeltaMaker,
    reporter: Reporter,
) -> PublishedPackageDelta | None:
    """Makes a delta and adds it to targets; None when it is not worth it."""
    name, new = item.package.name, item.release
    result = _make(directory, item, old, maker, reporter)
    document = (result / _DOCUMENT).read_bytes()
    delta = msgspec.json.decode(document, type=PackageDelta)
    needed, full = fetch_bytes(delta.frames, delta.parts, new.stream), new.stream.stored_size
    if needed > WORTH * full or full - needed < SAVES:
        return None
    sizes = {part.sha256: part.size for part in delta.parts}
    store_chunks(directory, result / "chunks", sizes, f"a delta to {item.name}", reporter)
    add_target(directory, targets, package_delta_target(name, new.digest, old.digest), document)
    return PublishedPackageDelta(name, new.version, new.architecture, old.version, needed, full)


def drop_package_deltas(
    targets: Targets,
    package: str,
    releases: Sequence[PackageRelease],
    made: Sequence[PublishedPackageDelta] = (),
) -> None:
    """Takes from targets the deltas to all but the newest releases and those just made to.

    The files stay, for devices that have seen the state before.
    """
    keep = {(item.version, item.architecture) for item in made}
    for architecture in {item.architecture for item in releases}:
        versions = {item.version for item in releases if item.architecture == architecture}
        newest = sorted(versions, key=version_key, reverse=True)[:KEPT]
        keep |= {(version, architecture) for version in newest}
    digests = [item.digest for item in releases if (item.version, item.architecture) in keep]
    prefix = package_deltas(package).partition("*")[0]
    for path in [path for path in targets if path.startswith(prefix)]:
        if not any(makes(path, digest) for digest in digests):
            del targets[path]


def _make(
    directory: Path, item: Incoming, old: PackageRelease, maker: DeltaMaker, reporter: Reporter
) -> Path:
    """Stage "package-delta": the document, and the chunks with its parts."""
    new = item.release

    def build(result: Path) -> None:
        from imager.delta.parts import Packer, part_size

        reporter.stage(f"delta {item.package.name} {old.version} to {new.version}")
        packer = Packer(part_size(new.stream.stored_size, _SMALLEST_PART))
        frames = encode(
            directory,
            old.stream,
            new.stream,
            packer,
            result,
            pieces=_PIECES,
            workers=maker.workers,
            reporter=reporter,
        )
        parts = write_parts(packer, result)
        frames, parts = useful(frames, parts, new.stream)
        delta = PackageDelta(FORMAT, new.digest, old.version, old.digest, frames, parts)
        (result / _DOCUMENT).write_bytes(msgspec.json.encode(delta) + b"\n")

    inputs: dict[str, Input] = {
        "old": f"{old.version} {old.digest} {identity(old.stream)}",
        "new": f"{new.digest} {identity(new.stream)} "
        + " ".join(str(segment.stored_size) for segment in new.stream.segments),
        "code": [Path(__file__), *code()],
    }
    return maker.cache.stage("package-delta", inputs, build)
