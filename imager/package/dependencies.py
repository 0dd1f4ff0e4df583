"""The packages that a package is built against: which of those at hand it declares. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imager.package.findings import Finding
from imager.package.opk import OpkFile
from imager.package.view import plain
from imager.tree import Tree
from manifests.constraints import parse_constraint
from manifests.interface import OsInterface
from manifests.versions import version_key
from recovery.packages import model


@dataclass(frozen=True)
class Dependencies:
    """packages: what the manifest depends on. libraries: what is in its view,
    nearest first: its libraries and theirs. missing: what none at hand satisfies."""

    packages: tuple[OpkFile, ...]
    libraries: tuple[OpkFile, ...]
    missing: tuple[Finding, ...]


def resolve(
    manifest: model.Package, available: Sequence[OpkFile], architecture: str
) -> Dependencies:
    """The newest of those at hand that each declared dependency accepts."""
    packages: list[OpkFile] = []
    libraries: list[OpkFile] = []
    missing: list[Finding] = []
    todo = [(manifest.name, item, True) for item in manifest.depends]
    while todo:
        owner, wanted, direct = todo.pop(0)
        found = _newest(wanted, available, architecture)
        if found is None:
            missing.append(_absent(owner, manifest.name, wanted, available))
            continue
        if direct:
            packages.append(found)
        if found.manifest.kind == "library" and found not in libraries:
            libraries.append(found)
            # A library's own libraries are in the view, too; what features need is not.
            todo += [(found.manifest.name, item, False) for item in found.manifest.depends]
    return Dependencies(tuple(packages), tuple(libraries), tuple(missing))


def fit_findings(manifest: model.Package, interface: OsInterface) -> Iterator[Finding]:
    """Whether the package is made for the image it is built against."""
    if not manifest.systems:
        return
    for item in manifest.systems:
        if item.system == interface.system:
            if parse_constraint(item.versions).allows(interface.version):
                return
            yield Finding(
                "systems",
                f"is made for {item.system} {item.versions}, "
                f"and is built against {interface.version}",
            )
            return
    names = ", ".join(item.system for item in manifest.systems)
    yield Finding("systems", f"is made for {names}, and is built against {interface.system}")


def requirement_findings(manifest: model.Package, packages: Sequence[OpkFile]) -> Iterator[Finding]:
    """Whether the packages that are to provide interfaces do."""
    by_name = {item.manifest.name: item.manifest for item in packages}
    for wanted in manifest.requires:
        where = f"requires {wanted.interface}"
        provider = by_name.get(wanted.package)
        if provider is None:
            if not any(item.package == wanted.package for item in manifest.depends):
                yield Finding(where, f"{wanted.package} is not among the dependencies")
            continue
        offers = [i.version for i in provider.provides if i.interface == wanted.interface]
        if not offers:
            yield Finding(where, f"{provider.name} {provider.version} does not provide it")
        elif not parse_constraint(wanted.versions).allows(offers[0]):
            yield Finding(
                where,
                f"{provider.name} {provider.version} provides version {offers[0]}, "
                f"which is not {wanted.versions}",
            )


def collision_findings(
    tree: Tree, manifest: model.Package, interface: OsInterface, others: Sequence[OpkFile]
) -> Iterator[Finding]:
    """Files that would take the place of the image's, or of a dependency's.

    A system package is there to do just that with the image's.
    """
    if manifest.kind != "system":
        image = Tree()
        for path in interface.files:
            image.file(plain(path), b"")
        yield from _collisions(tree, image, f"the image {interface.system} {interface.version}")
    for other in others:
        label = f"the dependency {other.manifest.name} {other.manifest.version}"
        yield from _collisions(tree, other.tree, label)


def overlay_findings(tree: Tree, manifest: model.Package) -> Iterator[Finding]:
    """Whether what is to appear in the system's own /usr exists."""
    for path in manifest.overlay:
        if path not in tree:
            yield Finding(f"overlay {path}", "is not in the package")


def _collisions(tree: Tree, other: Tree, label: str) -> Iterator[Finding]:
    for path, entry in tree.items():
        present = other.get(path)
        if present is None or present.kind == entry.kind == "directory":
            continue
        if entry.kind == "directory":
            yield Finding(path, f"is a directory, and a {present.kind} in {label}")
        elif present.kind == "directory":
            yield Finding(path, f"is a {entry.kind}, and a directory in {label}")
        else:
            yield Finding(path, f"is also in {label}", "move it, or leave it out with exclude")


def _newest(
    wanted: model.Dependency, available: Sequence[OpkFile], architecture: str
) -> OpkFile | None:
    constraint = parse_constraint(wanted.versions)
    fitting = [
        item
        for item in available
        if item.manifest.name == wanted.package
        and item.manifest.architecture in ("all", architecture)
        and constraint.allows(item.manifest.version)
    ]
    return max(fitting, key=lambda item: version_key(item.manifest.version), default=None)


def _absent(
    owner: str, name: str, wanted: model.Dependency, available: Sequence[OpkFile]
) -> Finding:
    versions = sorted(
        (item.manifest.version for item in available if item.manifest.name == wanted.package),
        key=version_key,
    )
    at_hand = f"at hand: {', '.join(versions)}" if versions else "none is at hand"
    via = "" if owner == name else f" (of {owner})"
    return Finding(
        f"depends on {wanted.package} {wanted.versions}{via}",
        f"no package file for it; {at_hand}",
        "build it first, and name the folder with its .opk by --against",
    )
