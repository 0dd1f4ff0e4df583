"""Publishing: build directories and package files in, a new repository state out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from imager.package.opk import SUFFIX
from imager.publishers import role_of
from imager.repository import images, metadata, releases
from imager.repository.chunks import store_chunks, stored_sizes
from imager.repository.delegations import (
    OS_ROLE,
    delegated_roles,
    may_sign_deltas,
    publisher_of,
    releases_path,
    require_publisher,
)
from imager.repository.deltas import DeltaMaker, PublishedDelta, add_deltas, require_named
from imager.repository.images import Build, read_build
from imager.repository.interfaces import refuse_broken_interfaces
from imager.repository.metadata import MetadataSet
from imager.repository.package_deltas import (
    PackageDeltas,
    PublishedPackageDelta,
    add_package_deltas,
    drop_package_deltas,
)
from imager.repository.packages import Incoming, Intake, take_in
from imager.repository.roles import Keyring, required_signers, utc_now
from imager.repository.slices import add_slices
from imager.repository.targets import add_target
from recovery.errors import ManifestError, RefusedError, SpaceError, TrustError
from recovery.reporter import Reporter

_NO_DELTAS = (
    "no deltas or slices are made: the repository does not let the role os sign them; run 'orbital "
    "repository refresh' with the key of targets"
)


@dataclass(frozen=True)
class Published:
    """One image that is now on offer. new_chunks and new_bytes: what was added to the store."""

    system: str
    board: str
    version: str
    new_chunks: int
    new_bytes: int


@dataclass(frozen=True)
class PublishedPackage:
    """One package that is now on offer. new_chunks and new_bytes: what was added to the store."""

    package: str
    version: str
    architecture: str
    publisher: str
    digest: str
    new_chunks: int
    new_bytes: int


@dataclass(frozen=True)
class Publication:
    """What a publication did. warnings: what is allowed and probably not meant, for people."""

    images: tuple[Published, ...] = ()
    packages: tuple[PublishedPackage, ...] = ()
    warnings: tuple[str, ...] = ()
    deltas: tuple[PublishedDelta, ...] = ()
    package_deltas: tuple[PublishedPackageDelta, ...] = ()


def publish(
    directory: Path,
    paths: Sequence[Path],
    keys: Keyring,
    *,
    reporter: Reporter,
    intake: Intake | None = None,
    deltas: DeltaMaker | None = None,
    summary: str = "",
    downgrade_from: Sequence[str] = (),
    now: datetime | None = None,
) -> Publication:
    """Offers images (build directories) and packages (*.opk) to devices, all in one step.

    intake: needed for packages. deltas: how those to images and packages are made; None: none are.
    summary, downgrade_from: of the images.
    Signs with the keys of snapshot, timestamp, and of os and the packages'
    publishers where there is something of theirs.

    Write order: chunks → targets (index, releases, deltas) → delegated roles →
    snapshot → timestamp. Nothing written before timestamp.json is referred to
    by the state before, so a power cut or an error at any point leaves the old
    state valid, and running the command again finishes the work.

    Raises ManifestError or RefusedError for what cannot be published,
    TrustError when keys are missing or do not fit, SpaceError on a full disk.
    """
    builds = [read_build(path) for path in paths if path.suffix != SUFFIX]
    files = [path for path in paths if path.suffix == SUFFIX]
    if files and intake is None:
        raise ManifestError(f"cannot publish {files[0]}: nothing is prepared for packages")
    packages = [take_in(path, intake) for path in files if intake is not None]

    def change(current: MetadataSet) -> Publication:
        offered = _plan_packages(directory, current, packages)
        for build in builds:
            images.refuse_changed(current.os.signed.targets, build)
        if deltas is not None:
            require_named(deltas.named, _versions(directory, current, builds, packages, offered))
        done = Publication(
            tuple(_store_build(directory, build, reporter) for build in builds),
            tuple(_store_package(directory, item, reporter) for item in packages),
        )
        made: list[PublishedDelta] = []
        with_deltas = deltas if may_sign_deltas(current.targets.signed) else None
        for build in builds:
            targets = current.os.signed.targets
            images.add_release(directory, targets, build, summary, tuple(downgrade_from))
            if with_deltas is not None:
                offers = images.read_releases(directory, targets, build.base)
                add_slices(directory, targets, build, cache=with_deltas.cache, reporter=reporter)
                maker = with_deltas.among(item.version for item in offers)
                made += add_deltas(
                    directory, targets, build, releases=offers, maker=maker, reporter=reporter
                )
        between = PackageDeltas()
        if deltas is not None:
            between = add_package_deltas(
                directory, current, packages, offered, maker=deltas, reporter=reporter
            )
        reporter.stage("sign")
        for item in packages:
            name, publisher = item.package.name, item.package.publisher
            document = releases.encode(name, publisher, offered[name])
            targets = current.delegated[role_of(publisher)].signed.targets
            add_target(directory, targets, releases_path(name), document)
            drop_package_deltas(targets, name, offered[name], between.made)
        no_deltas = builds and deltas is not None and with_deltas is None
        warnings = [_NO_DELTAS] if no_deltas else []
        warnings += between.warnings
        warnings += (
            releases.unsatisfied(
                {item.package.name for item in packages},
                offered,
                _inside(directory, current),
            )
            if packages
            else []
        )
        return Publication(done.images, done.packages, tuple(warnings), tuple(made), between.made)

    roles = [OS_ROLE] * bool(builds) + [role_of(item.package.publisher) for item in packages]
    return _transaction(directory, keys, roles, change, now)


def withdraw(
    directory: Path, name: str, version: str, keys: Keyring, *, now: datetime | None = None
) -> Publication:
    """Takes a version of a package off the offer, in all its architectures.

    Devices that have it keep it. Its chunks stay in the repository. warnings:
    packages that need it. Raises RefusedError when it is not on offer,
    TrustError when the keys of its publisher, snapshot or timestamp are missing.
    """
    publisher = publisher_of(metadata.load(directory).targets.signed, name)

    def change(current: MetadataSet) -> Publication:
        known = releases.read_all(directory, current)
        offered = {key: item.releases for key, item in known.items()}
        left = tuple(item for item in offered.get(name, ()) if item.version != version)
        if publisher is None or left == offered.get(name, ()):
            raise RefusedError(
                f"cannot withdraw {name} {version}: it is not on offer",
                resolution=f"see what is: orbital repository list {directory}",
            )
        before = set(releases.unsatisfied(offered, offered, _inside(directory, current)))
        offered[name] = left
        after = releases.unsatisfied(offered, offered, _inside(directory, current))
        targets = current.delegated[role_of(publisher)].signed.targets
        add_target(directory, targets, releases_path(name), releases.encode(name, publisher, left))
        drop_package_deltas(targets, name, left)
        return Publication(warnings=tuple(item for item in after if item not in before))

    return _transaction(directory, keys, [role_of(publisher)] if publisher else [], change, now)


def _transaction(
    directory: Path,
    keys: Keyring,
    roles: Iterable[str],
    change: Callable[[MetadataSet], Publication],
    now: datetime | None,
) -> Publication:
    """Runs change on the current state, signs roles anew, and makes the result current."""
    time = utc_now() if now is None else now
    with metadata.locked(directory):
        periods = metadata.load_config(directory)
        current = metadata.load(directory)
        wanted = sorted(set(roles))
        signers = {
            role: required_signers(keys, role) for role in (*wanted, "snapshot", "timestamp")
        }
        for role in wanted:
            if role in delegated_roles(current.targets.signed):
                # A publisher's first publication makes its role.
                empty = Metadata(Targets(expires=periods.expires(role, time)))
                current.delegated.setdefault(role, empty)
        try:
            done = change(current)
            for role in wanted:
                item = current.delegated[role]
                item.signed.version = current.next_version(role)
                item.signed.expires = periods.expires(role, time)
                metadata.sign(item, signers[role])
                _require_accepted(current, role)
                metadata.save_numbered(directory, role, item)
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


def _plan_packages(
    directory: Path, current: MetadataSet, packages: Sequence[Incoming]
) -> releases.Offered:
    """All that will be on offer with the packages. Raises RefusedError or TrustError."""
    if not packages:
        return {}
    known = releases.read_all(directory, current)
    offered = {name: item.releases for name, item in known.items()}
    for item in packages:
        name = item.package.name
        require_publisher(current.targets.signed, name, item.package.publisher)
        before = offered.get(name, ())
        if not releases.refuse_changed(before, name, item.release):
            refuse_broken_interfaces(directory, before, item)
            offered[name] = (*before, item.release)
    releases.refuse_cycles(offered)
    return offered


def _versions(
    directory: Path,
    current: MetadataSet,
    builds: Sequence[Build],
    packages: Sequence[Incoming],
    offered: releases.Offered,
) -> set[str]:
    """Versions from which there can be deltas to what is published now."""
    found: set[str] = set()
    for build in builds:
        known = images.read_releases(directory, current.os.signed.targets, build.base)
        found |= {item.version for item in known} - {build.index.version}
    for item in packages:
        found |= {known.version for known in offered[item.package.name]} - {item.release.version}
    return found


def _store_build(directory: Path, build: Build, reporter: Reporter) -> Published:
    reporter.stage(f"publish {build.name}")
    index = build.index
    wanted = stored_sizes(build.segments)
    added = store_chunks(directory, build.chunks, wanted, str(build.directory), reporter)
    return Published(index.system, index.board, index.version, *added)


def _store_package(directory: Path, item: Incoming, reporter: Reporter) -> PublishedPackage:
    reporter.stage(f"publish {item.name}")
    package, release = item.package, item.release
    segments = release.stream.segments
    added = store_chunks(directory, item.chunks, stored_sizes(segments), item.name, reporter)
    return PublishedPackage(
        package.name,
        package.version,
        package.architecture,
        package.publisher,
        release.digest,
        *added,
    )


def _inside(directory: Path, current: MetadataSet) -> dict[str, set[str]]:
    """Versions of the packages inside published images."""
    found: dict[str, set[str]] = {}
    for index, _ in images.read_indexes(directory, current.os.signed.targets):
        for name, version in index.packages.items():
            found.setdefault(name, set()).add(version)
    return found


def _require_accepted(current: MetadataSet, role: str) -> None:
    """Raises TrustError when devices would refuse the role."""
    try:
        current.targets.verify_delegate(role, current.delegated[role])
    except RepositoryError as error:
        raise TrustError(
            f"cannot publish: the key of role {role} is not the one this repository delegates to",
            details=str(error),
            resolution="use the repository's own keys (--keys), or rotate: refresh --rotate",
        ) from error
