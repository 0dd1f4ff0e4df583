"""Checks of the IPC interfaces that a package provides, against its own version before. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from imager.package.findings import Finding
from imager.package.introspection import Changes, Interface, compare, parse_definitions
from imager.package.opk import OpkFile
from imager.tree import Tree
from recovery.packages import model


def interface_findings(
    manifest: model.Package, tree: Tree, previous: OpkFile | None
) -> Iterator[Finding]:
    """What is wrong with the provided interfaces.

    A definition must define its interface. Against the previous version: what
    breaks callers needs a new MAJOR, what is added a new MINOR, and a version
    never goes back.
    """
    for provided in manifest.provides:
        where = f"provides {provided.interface} {provided.version}"
        try:
            new = _definition(tree, provided)
        except ValueError as error:
            yield Finding(where, str(error))
            continue
        before = _before(previous, provided.interface)
        if previous is None or before is None:
            continue
        try:
            old = _definition(previous.tree, before)
        except ValueError as error:
            yield Finding(where, f"in version {previous.manifest.version}: {error}")
            continue
        label = f"version {before.version} (in {previous.manifest.version})"
        changes = compare(old, new)
        yield from (
            Finding(where, problem, advice)
            for problem, advice in _version_problems(
                provided.version, before.version, changes, label
            )
        )


def _version_problems(
    version: str, old_version: str, changes: Changes, label: str
) -> Iterator[tuple[str, str]]:
    """What is wrong with the new version's number, and what to do."""
    major, minor = _numbers(version)
    old_major, old_minor = _numbers(old_version)
    if (major, minor) < (old_major, old_minor):
        yield f"goes back behind {label}", ""
    elif major == old_major:
        for change in changes.breaking:
            yield (
                f"breaks callers of {label}: {change}",
                f"make it {old_major + 1}.0, or undo it",
            )
        if minor == old_minor:
            for change in changes.added:
                yield f"adds to {label}: {change}", f"make it {major}.{minor + 1}"


def _definition(tree: Tree, provided: model.Provided) -> Interface:
    """The interface as its file in the package defines it. Raises ValueError."""
    entry = tree.get(provided.definition)
    if entry is None or entry.kind != "file":
        raise ValueError(f"its definition {provided.definition} is not in the package")
    defined = parse_definitions(entry.read())
    if provided.interface not in defined:
        names = ", ".join(sorted(defined)) or "nothing"
        raise ValueError(f"its definition defines {names}, not it")
    return defined[provided.interface]


def _before(previous: OpkFile | None, interface: str) -> model.Provided | None:
    provides = previous.manifest.provides if previous is not None else ()
    return next((item for item in provides if item.interface == interface), None)


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)
