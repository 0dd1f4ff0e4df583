"""Small universes of packages, written in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from manifests.constraints import parse_constraint
from manifests.index import Stream
from manifests.package_index import (
    Dependency,
    Fit,
    Interface,
    PackageRelease,
    RequiredInterface,
)
from updater.packages.resolve.model import USER, Environment, Installed, Want

Kind = Literal["system", "feature", "library", "suite"]
STREAM = Stream(size=0, sha256="", segment_size=0, segments=())
GATEWAY = Environment(
    system="gateway",
    version="2.0",
    architecture="amd64",
    capabilities=frozenset({"net.client", "net.configure"}),
    refused=frozenset({"net.raw"}),
    packages={"openssl": "3.1"},
)


def release(
    name: str,
    version: str,
    *depends: str,
    kind: Kind = "feature",
    systems: Sequence[str] = (),
    provides: Sequence[str] = (),
    requires: Sequence[str] = (),
    capabilities: Sequence[str] = (),
    architecture: str = "all",
    state: int = 1,
    takes: Sequence[int] = (),
    members: Sequence[str] = (),
) -> PackageRelease:
    """depends: "radio >=2"; provides: "org.Radio 1.2"; requires: "org.Radio radio >=1.1"."""
    return PackageRelease(
        version=version,
        kind=kind,
        architecture=architecture,
        summary="",
        digest=f"digest-of-{name}-{version}",
        signature="",
        stream=STREAM,
        built=0,
        depends=tuple(Dependency(*_pair(text)) for text in depends),
        systems=tuple(Fit(*_pair(text)) for text in systems),
        provides=tuple(Interface(*_pair(text)) for text in provides),
        requires=tuple(RequiredInterface(*text.split(" ", 2)) for text in requires),
        capabilities=tuple(capabilities),
        state_version=state,
        migrates_from=(*takes, state),
        members=tuple(members),
    )


def _pair(text: str) -> tuple[str, str]:
    name, _, rest = text.partition(" ")
    return name, rest or "*"


class Table:
    """Offers out of a dictionary; it also tells which names were asked for."""

    def __init__(self, **packages: Sequence[PackageRelease]) -> None:
        self.packages: Mapping[str, Sequence[PackageRelease]] = {
            name.replace("_", "-"): releases for name, releases in packages.items()
        }
        self.asked: list[str] = []

    def releases(self, name: str) -> tuple[PackageRelease, ...]:
        """See `updater.packages.resolve.model.Offers`."""
        self.asked.append(name)
        return tuple(self.packages.get(name, ()))


def versions(
    name: str, kind: Kind = "feature", /, **by_version: Sequence[str]
) -> list[PackageRelease]:
    """versions("radio", v1=["libnl >=3"], v2_1=[]): oldest first."""
    return [
        release(name, version[1:].replace("_", "."), *depends, kind=kind)
        for version, depends in by_version.items()
    ]


def want(text: str, by: str = USER) -> Want:
    """want("radio >=2")."""
    name, constraint = _pair(text)
    return Want(name, parse_constraint(constraint), by)


def present(
    name: str, made: PackageRelease, *uses: str, migrates_to: Sequence[int] = ()
) -> Installed:
    """present("vpn", release(...), "libnl 3"): uses as "NAME VERSION"."""
    return Installed(name, made, tuple(_pair(text) for text in uses), tuple(migrates_to))
