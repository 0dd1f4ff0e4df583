"""What a change has to know of the packages it touches, read before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recovery.errors import OrbitalError, RefusedError, TrustError
from recovery.generations import PackageEntry
from recovery.packages.host import PackageHost
from recovery.packages.model import Package
from updater.packages.difference import Difference, changes_services, with_dependents


@dataclass(frozen=True)
class Step:
    """A migration of the state of `entry` (whose programs do it) between schema versions."""

    entry: PackageEntry
    source: int
    target: int


@dataclass(frozen=True)
class Study:
    """depends: names that each package needs, in both sets. affected: packages whose services
    stop. start, start_old: those of them that run in the new and in the old set.
    migrations: of state layers that the new generation copies."""

    depends: dict[str, frozenset[str]]
    affected: frozenset[str]
    start: frozenset[str]
    start_old: frozenset[str]
    migrations: tuple[Step, ...]


def study(
    host: PackageHost,
    old: Sequence[PackageEntry],
    new: Sequence[PackageEntry],
    found: Sequence[Difference],
    number: int,
    *,
    lenient: bool = False,
    alone: bool = False,
) -> Study:
    """Reads the manifests; verifies every image that is new.

    number: of the new generation. lenient: a manifest that cannot be read is not a
    reason to stop (going back). alone: what depends on them is not touched.
    Raises TrustError or StateError for a new image, RefusedError when its
    state cannot be taken over.
    """
    fresh = {
        item.after.digest
        for item in found
        if item.after is not None
        and (item.before is None or item.before.digest != item.after.digest)
    }
    manifests: dict[str, Package] = {}
    for entry in (*old, *new):
        if entry.digest in manifests:
            continue
        try:
            manifest = host.manifest(entry.digest)
        except OrbitalError:
            # An installed image that went bad harms its own package only.
            if entry.digest in fresh and not lenient:
                raise
            continue
        if entry.digest in fresh and not lenient:
            _require_same(entry, manifest)
        manifests[entry.digest] = manifest
    depends: dict[str, frozenset[str]] = {}
    for entry in (*old, *new):
        known = manifests.get(entry.digest)
        if known is not None:
            depends[entry.name] = depends.get(entry.name, frozenset()) | known.needs
    touched = [item.name for item in found if changes_services(item)]
    affected = frozenset(touched) if alone else with_dependents(touched, depends)
    return Study(
        depends=depends,
        affected=affected,
        start=frozenset(entry.name for entry in new if entry.enabled) & affected,
        start_old=frozenset(entry.name for entry in old if entry.enabled) & affected,
        migrations=() if lenient else tuple(_migrations(found, manifests, number)),
    )


def _require_same(entry: PackageEntry, manifest: Package) -> None:
    claimed = (manifest.name, manifest.version, manifest.kind)
    if claimed != (entry.name, entry.version, entry.kind):
        raise TrustError(
            f"cannot use the image of {entry.name} {entry.version}: it says that it is "
            f"{manifest.kind} {manifest.name} {manifest.version}",
            resolution="the repository offers a wrong image; tell the publisher",
        )


def _migrations(
    found: Sequence[Difference], manifests: dict[str, Package], number: int
) -> list[Step]:
    steps = []
    for item in found:
        before, after = item.before, item.after
        if before is None or after is None or before.digest == after.digest:
            continue
        if after.state != number:
            # A layer as an earlier version left it: its schema is right already.
            continue
        left, right = manifests.get(before.digest), manifests.get(after.digest)
        if left is None or right is None or left.state_version == right.state_version:
            continue
        source, target = left.state_version, right.state_version
        # Only the newer program knows both forms of the state.
        if target > source:
            doer, entry = right, after
        else:
            from recovery.value import replace

            doer, entry = left, replace(before, state=after.state)
        _require_path(item.name, doer, source, target)
        steps.append(Step(entry, source, target))
    return steps


def _require_path(name: str, package: Package, source: int, target: int) -> None:
    """Every service with state has a migration for each step. Raises RefusedError."""
    step = 1 if target > source else -1
    have = {(item.service, item.source, item.target) for item in package.migrations}
    for service in package.services:
        for version in range(source, target, step):
            if service.state and (service.name, version, version + step) not in have:
                raise RefusedError(
                    f"cannot take over the state of {name}: no migration of service "
                    f"{service.name} from schema {version} to {version + step}",
                    resolution=f"remove {name} first, which gives up its state, or choose "
                    "another version",
                )
