"""What the resolver is asked and what it answers.

Words: a *want* is what somebody asked for; an *offer* is a published release;
a *view* is the set of libraries that one package sees; the *image's* packages
are the ones inside the OS image, each with its one version.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from manifests.constraints import Constraint
from manifests.index import Stream
from manifests.package_index import (
    Dependency,
    Fit,
    Interface,
    PackageRelease,
    RequiredInterface,
)
from recovery.errors import RefusedError
from recovery.packages.model import Package

USER = "you"
INSTALLED = "installed"
ANY = Constraint()


class Offers(Protocol):
    """What can be had: published releases, or a table in a test."""

    def releases(self, name: str) -> tuple[PackageRelease, ...]:
        """Every release of the package, in any order; empty when nobody offers it."""


@dataclass(frozen=True)
class Want:
    """A package that must be in the result. by: USER, INSTALLED, or the name of a suite."""

    name: str
    constraint: Constraint = ANY
    by: str = USER


@dataclass(frozen=True)
class Environment:
    """The image that the packages are to run on, and what this device knows of versions.

    system, version: of the image. architecture: Debian's name, "amd64".
    capabilities: names that the system knows; refused: those it grants to no
    package. packages: what is inside the image, with versions; interfaces: the
    IPC interfaces that these offer. quarantined: (name, version) pairs that
    failed on this device; retry: names whose quarantined versions may be used
    all the same, because somebody named them.
    """

    system: str
    version: str
    architecture: str
    capabilities: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    packages: Mapping[str, str] = field(default_factory=dict)
    interfaces: Mapping[str, tuple[Interface, ...]] = field(default_factory=dict)
    quarantined: frozenset[tuple[str, str]] = frozenset()
    retry: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Installed:
    """A package that is there. release: what its manifest says, see `installed_from`.

    uses: (name, version) of the libraries in its view, nearest first.
    migrates_to: lower state schema versions that its own migrations lead down to.
    """

    name: str
    release: PackageRelease
    uses: tuple[tuple[str, str], ...] = ()
    migrates_to: tuple[int, ...] = ()


@dataclass(frozen=True)
class Question:
    """The arguments of `resolve`, which says what they mean."""

    wants: Sequence[Want]
    offers: Offers
    environment: Environment
    installed: Sequence[Installed]
    upgrade: Collection[str] | None


@dataclass(frozen=True)
class Resolved:
    """One package of the answer.

    uses: (name, version) of the libraries in its view, nearest first.
    needs: the features, suites and layered system packages it depends on.
    wanted_by: who wants it: USER, INSTALLED, suites, packages; sorted.
    """

    name: str
    release: PackageRelease
    uses: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
    wanted_by: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Of the release."""
        return self.release.version


@dataclass(frozen=True)
class Resolution:
    """A consistent set: sorted by name and version; only libraries have several versions.

    from_image: wanted packages that the image itself satisfies, with versions.
    """

    packages: tuple[Resolved, ...]
    from_image: tuple[tuple[str, str], ...] = ()

    def find(self, name: str) -> Resolved | None:
        """The package of that name (of a library: its newest), or None."""
        return next((item for item in reversed(self.packages) if item.name == name), None)


class ConflictError(RefusedError):
    """No set of packages satisfies all wants. The text says who wants what, and what would help."""


def installed_from(
    package: Package, digest: str, uses: tuple[tuple[str, str], ...] = ()
) -> Installed:
    """What the resolver and the planner need of an installed package's manifest."""
    release = PackageRelease(
        version=package.version,
        kind=package.kind,
        architecture=package.architecture,
        summary=package.summary,
        digest=digest,
        signature="",
        stream=Stream(size=0, sha256="", segment_size=0, segments=()),
        built=0,
        depends=tuple(Dependency(item.package, item.versions) for item in package.depends),
        systems=tuple(Fit(item.system, item.versions) for item in package.systems),
        provides=tuple(Interface(item.interface, item.version) for item in package.provides),
        requires=tuple(
            RequiredInterface(item.interface, item.package, item.versions)
            for item in package.requires
        ),
        capabilities=package.capabilities,
        state_version=package.state_version,
        migrates_from=(package.state_version,),
        members=package.members,
    )
    return Installed(package.name, release, uses, _downwards(package))


def _downwards(package: Package) -> tuple[int, ...]:
    """Schema versions below the package's own that its migrations lead to, step by step."""
    steps = {(item.source, item.target) for item in package.migrations}
    found = []
    version = package.state_version
    while (version, version - 1) in steps:
        version -= 1
        found.append(version)
    return tuple(found)
