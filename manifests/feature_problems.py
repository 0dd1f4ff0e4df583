"""What is wrong with a feature package, library or suite beyond the types of its manifest.

Services and programs: `manifests.service_problems`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifests.constraints import EXPECTED, is_constraint
from manifests.feature import (
    Dependency,
    FeaturePackage,
    Fit,
    LibraryPackage,
    Provided,
    SuitePackage,
)
from manifests.problem import Path as Place
from manifests.problem import Problem, repeated, unknown
from manifests.service_problems import command_problems, service_problems
from recovery.packages.slices import Issue, schema_issues, value_issues


def feature_problems(manifest: FeaturePackage, folder: Path) -> Iterator[Problem]:
    """What is wrong with a feature package. folder: where its files are looked for."""
    yield from _packaged_problems(manifest, folder)
    yield from service_problems(manifest)
    yield from _interface_problems(manifest, folder)
    yield from _configuration_problems(manifest)
    yield from _association_problems(manifest)
    yield from _migration_problems(manifest)
    for number, path in enumerate(manifest.overlay):
        yield from _overlay_problems(path, manifest.package, ("overlay", number))


def library_problems(manifest: LibraryPackage, folder: Path) -> Iterator[Problem]:
    """What is wrong with a library. folder: where its files are looked for."""
    yield from _packaged_problems(manifest, folder)
    named = manifest.content
    if not (named.debian or named.tars or named.wheels or named.directories) and not (
        (folder / "tree").is_dir()
    ):
        yield Problem(("content",), "files", "none", f"name them, or put them into {folder}/tree")


def suite_problems(manifest: SuitePackage) -> Iterator[Problem]:
    """What is wrong with a suite."""
    yield from _fit_problems(manifest.systems)
    yield from _dependency_problems(manifest.members, manifest.package, "members")


def _packaged_problems(
    manifest: FeaturePackage | LibraryPackage, folder: Path
) -> Iterator[Problem]:
    yield from _fit_problems(manifest.systems)
    yield from _dependency_problems(manifest.depends, manifest.package, "depends")
    for key in ("directories", "tars", "wheels"):
        for number, name in enumerate(getattr(manifest.content, key)):
            path = folder / name
            right = path.is_dir() if key == "directories" else path.is_file()
            if not right:
                yield Problem(
                    ("content", key, number),
                    f"a {'folder' if key == 'directories' else 'file'} {path}",
                    "no such one",
                    "create it, or remove it from content",
                )


def _dependency_problems(items: Sequence[Dependency], package: str, key: str) -> Iterator[Problem]:
    names = [item.package for item in items]
    yield from repeated(names, (key,), "package", "package")
    for number, item in enumerate(items):
        yield from _version_problems(item.versions, (key, number, "versions"))
        if item.package == package:
            yield Problem(
                (key, number, "package"), "another package", f'"{package}" itself', "remove it"
            )


def _fit_problems(systems: Sequence[Fit]) -> Iterator[Problem]:
    yield from repeated([item.system for item in systems], ("systems",), "system", "system")
    for number, item in enumerate(systems):
        yield from _version_problems(item.versions, ("systems", number, "versions"))


def _version_problems(text: str, place: Place) -> Iterator[Problem]:
    if not is_constraint(text):
        yield Problem(
            place, EXPECTED, f'"{text}"', "operators are =, !=, <, <=, > and >=, joined by commas"
        )


def _interface_problems(manifest: FeaturePackage, folder: Path) -> Iterator[Problem]:
    services = [service.name for service in manifest.services]
    provided = [item.interface for item in manifest.provides]
    yield from repeated(provided, ("provides",), "interface", "interface")
    owners: dict[str, str] = {}
    for number, item in enumerate(manifest.provides):
        place: Place = ("provides", number)
        yield from unknown(item.service, services, (*place, "service"), "one of the services")
        owner = owners.setdefault(item.bus_name, item.service)
        if owner != item.service:
            yield Problem(
                (*place, "bus_name"),
                "a bus name that no other service owns",
                f'"{item.bus_name}", which {owner} owns',
                "only one program can own a name on the bus; choose another",
            )
        yield from _definition_problems(item, folder, (*place, "definition"))
    depends = [item.package for item in manifest.depends]
    required = [item.interface for item in manifest.requires]
    yield from repeated(required, ("requires",), "interface", "interface")
    for number, needed in enumerate(manifest.requires):
        place = ("requires", number)
        yield from unknown(needed.package, depends, (*place, "package"), "one of depends")
        yield from _version_problems(needed.versions, (*place, "versions"))
        if needed.interface in provided:
            yield Problem(
                (*place, "interface"),
                "an interface of another package",
                f'"{needed.interface}", which this one provides',
                "services of one package may call each other anyway; remove it",
            )


def _definition_problems(item: Provided, folder: Path, place: Place) -> Iterator[Problem]:
    """The definition is introspection XML that has the interface."""
    from xml.etree import ElementTree

    path = folder / item.definition
    example = 'write introspection XML: <node><interface name="...">...</interface></node>'
    try:
        found = [node.get("name") for node in ElementTree.parse(path).getroot().iter("interface")]
    except OSError as error:
        yield Problem(place, f"a file {path}", error.strerror or "an error", example)
    except ElementTree.ParseError as error:
        yield Problem(place, f"well-formed XML in {path}", f"an error ({error})", example)
    else:
        if item.interface not in found:
            has = ", ".join(str(name) for name in found) or "none"
            yield Problem(place, f'the interface "{item.interface}" in {path}', has, example)


def _configuration_problems(manifest: FeaturePackage) -> Iterator[Problem]:
    names = [item.name for item in manifest.configuration]
    yield from repeated(names, ("configuration",), "slice", "name")
    for number, item in enumerate(manifest.configuration):
        wrong = schema_issues(item.schema)
        yield from _issues(wrong, ("configuration", number, "schema"))
        if not wrong:
            found = value_issues(item.schema, item.defaults)
            yield from _issues(found, ("configuration", number, "defaults"))
    waiting = [number for number, item in enumerate(manifest.services) if item.configure_first]
    if manifest.configure is not None:
        programs = [item.name for item in manifest.programs]
        yield from unknown(manifest.configure, programs, ("configure",), "one of the programs")
    elif waiting:
        yield Problem(
            ("services", waiting[0], "configure_first"),
            "a program that configures the package",
            "none",
            'add "configure" with the name of one of the programs',
        )


def _issues(found: Sequence[Issue], place: Place) -> Iterator[Problem]:
    for issue in found:
        yield Problem((*place, *issue.path), issue.expected, issue.got)


def _association_problems(manifest: FeaturePackage) -> Iterator[Problem]:
    programs = [item.name for item in manifest.programs]
    pairs = [f"{item.kind} {item.match}" for item in manifest.associations]
    yield from repeated(pairs, ("associations",), "association", "match")
    for number, item in enumerate(manifest.associations):
        place: Place = ("associations", number)
        yield from unknown(item.program, programs, (*place, "program"), "one of the programs")
        if item.match.startswith(".") != (item.kind == "file"):
            expected = (
                'a suffix such as ".conf"' if item.kind == "file" else 'a scheme such as "wg"'
            )
            yield Problem(
                (*place, "match"), expected, f'"{item.match}"', "only a file's suffix has a dot"
            )


def _migration_problems(manifest: FeaturePackage) -> Iterator[Problem]:
    """Neighbouring steps without a gap, up to state_version, each with its way back."""
    stateful = [service.name for service in manifest.services if service.state]
    last = manifest.state_version
    steps: set[tuple[str, int, int]] = set()
    for number, item in enumerate(manifest.migrations):
        place: Place = ("migrations", number)
        expected = "one of the services with state: true"
        yield from unknown(item.service, stateful, (*place, "service"), expected)
        yield from command_problems(item.command, (*place, "command"))
        if abs(item.source - item.target) != 1 or not 1 <= min(item.source, item.target) < last:
            yield Problem(
                (*place, "target"),
                f"neighbouring schema versions from 1 to {last}, state_version",
                f"{item.source} to {item.target}",
                "declare one migration for each step, or raise state_version",
            )
        elif (item.service, item.source, item.target) in steps:
            yield Problem(place, "each step of a service once", "it again", "remove one")
        steps.add((item.service, item.source, item.target))
    for number, item in enumerate(manifest.migrations):
        if (item.service, item.target, item.source) not in steps:
            yield Problem(
                ("migrations", number),
                f"the way back too, from {item.target} to {item.source}",
                "only this direction",
                "a rollback that keeps the state needs it; declare a second migration",
            )
    ups = {source for _, source, target in steps if target == source + 1}
    if ups:
        for step in range(min(ups), last):
            if step not in ups:
                yield Problem(
                    ("state_version",),
                    f"a migration from {step} to {step + 1}",
                    "none",
                    "declare one, so that state can come all the way",
                )


# Where a file in the system's own /usr is a command or belongs to the package. Elsewhere
# (units, bus policy, Python's start-up files, name services) it would change the system.
_OVERLAY = (
    r"usr/(bin|sbin|libexec)/.+|usr/(lib|share|libexec)/{name}(/.+)?"
    r"|usr/lib/[a-z0-9_]+-linux-gnu[a-z0-9]*/.+"
)


def _overlay_problems(path: str, package: str, place: Place) -> Iterator[Problem]:
    parts = path.split("/")
    plain = not any(part in ("", ".", "..") for part in parts)
    allowed = re.fullmatch(_OVERLAY.replace("{name}", re.escape(package)), path)
    if not plain or not allowed or parts[-1].startswith("libnss_"):
        yield Problem(
            place,
            f"a command (usr/bin/..., usr/sbin/...), a library it needs, or usr/lib/{package} or "
            f"usr/share/{package}",
            f'"{path}"',
            "a package adds commands to the system, nothing that changes it",
        )
