"""releases.json of packages: what is on offer, and what a new release must not break. Pure
but for reading targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imager.publishers import role_of
from imager.repository.delegations import publisher_of, releases_path
from imager.repository.metadata import MetadataSet
from imager.repository.targets import Targets, read_target
from manifests.constraints import parse_constraint
from manifests.package_index import FORMAT, PackageRelease, PackageReleases
from manifests.versions import version_key
from recovery.errors import RefusedError, TrustError

Offered = dict[str, tuple[PackageRelease, ...]]
"""What is on offer, oldest first, by the package's name."""


@dataclass(frozen=True)
class PackageFile:
    """releases.json of one package as published."""

    publisher: str
    releases: tuple[PackageRelease, ...]


def encode(name: str, publisher: str, releases: Sequence[PackageRelease]) -> bytes:
    """The document, oldest release first. Compact: devices fetch one for each package they
    consider."""
    ordered = sorted(releases, key=lambda item: (version_key(item.version), item.architecture))
    return msgspec.json.encode(PackageReleases(FORMAT, name, publisher, tuple(ordered))) + b"\n"


def read_package(directory: Path, targets: Targets, name: str) -> tuple[PackageRelease, ...]:
    """What a role's targets offer of a package. Raises TrustError when the file is damaged."""
    target = targets.get(releases_path(name))
    if target is None:
        return ()
    try:
        document = msgspec.json.decode(read_target(directory, target), type=PackageReleases)
    except msgspec.MsgspecError as error:
        raise TrustError(
            f"cannot read what is offered of {name}: {error}",
            resolution="use a version of Orbital that is as new as the one that published it",
        ) from error
    return document.releases


def read_all(directory: Path, current: MetadataSet) -> dict[str, PackageFile]:
    """Every package that devices find, by name. Raises TrustError when a file is damaged."""
    return {
        name: PackageFile(publisher, read_package(directory, targets, name))
        for name, publisher, targets in sorted(_owned(current), key=lambda item: item[0])
    }


def _owned(current: MetadataSet) -> Iterator[tuple[str, str, Targets]]:
    """Name, publisher and the targets that name it, for what its role may offer."""
    for role, metadata in current.delegated.items():
        for path in metadata.signed.targets:
            name = path.removeprefix("packages/").removesuffix("/releases.json")
            publisher = publisher_of(current.targets.signed, name)
            if path == releases_path(name) and publisher and role == role_of(publisher):
                yield name, publisher, metadata.signed.targets


def refuse_changed(known: Sequence[PackageRelease], name: str, new: PackageRelease) -> bool:
    """Whether the release is published already; raises RefusedError when it has another image."""
    for release in known:
        if (release.version, release.architecture) != (new.version, new.architecture):
            continue
        if release.digest != new.digest:
            raise RefusedError(
                f"cannot publish {name} {new.version} ({new.architecture}): this version is "
                "published with another image",
                details=f"published digest {release.digest}, this one {new.digest}",
                resolution="raise the version in package.yaml and build again",
            )
        return True
    return False


def refuse_cycles(offered: Mapping[str, Sequence[PackageRelease]]) -> None:
    """The newest versions must not depend on themselves, however far around.

    Raises RefusedError that names the way.
    """
    newest = {name: _newest(releases) for name, releases in offered.items() if releases}
    needs = {
        name: sorted({item.package for release in releases for item in release.depends})
        for name, releases in newest.items()
    }
    done: set[str] = set()
    for start in sorted(needs):
        # Depth first without recursion: the way from start is a stack.
        way, todo = [start], [iter(needs[start])]
        while way:
            following = next((item for item in todo[-1] if item in needs and item not in done), "")
            if not following:
                done.add(way.pop())
                todo.pop()
            elif following in way:
                circle = " → ".join([*way[way.index(following) :], following])
                raise RefusedError(
                    f"cannot publish: {following} would depend on itself",
                    details=f"newest versions: {circle}",
                    resolution="move what they share into a library that both depend on",
                )
            else:
                way.append(following)
                todo.append(iter(needs[following]))


def unsatisfied(
    names: Iterable[str],
    offered: Mapping[str, Sequence[PackageRelease]],
    inside: Mapping[str, set[str]],
) -> list[str]:
    """What the newest releases of these names depend on and nothing provides, in words.

    inside: versions of the packages inside published OS images.
    """
    problems = []
    for name in sorted(names):
        releases = offered[name]
        for release in _newest(releases):
            for item in release.depends:
                constraint = parse_constraint(item.versions)
                there = {known.version for known in offered.get(item.package, ())}
                if not any(map(constraint.allows, there | inside.get(item.package, set()))):
                    problems.append(
                        f"{name} {release.version} needs {item.package} {constraint}, which "
                        "nothing published satisfies: no device can install it yet"
                    )
    return sorted(set(problems))


def _newest(releases: Sequence[PackageRelease]) -> list[PackageRelease]:
    """The newest version, in all its architectures."""
    version = max((item.version for item in releases), key=version_key, default="")
    return [item for item in releases if item.version == version]
