"""Requests that need no resolver: enable, disable, remove, roll back. Pure.

Each returns the whole new set, or refuses and names who stands against it.
The rules for all changes are in `changes`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from manifests.constraints import parse_constraint
from recovery.errors import RefusedError
from recovery.generations import Earlier, PackageEntry
from recovery.value import replace
from updater.packages.changes import (
    Change,
    Moment,
    Present,
    as_earlier,
    finished,
    needed_by,
    replace_entries,
)


def enable(present: Present, names: Collection[str], moment: Moment) -> Change:
    """Their services run, and those of all they need; of a suite, its members'."""
    on = set(_with_members(present, _known(present, names, "enable")))
    on |= needed_by(present, on)
    entries = [
        replace(entry, enabled=True, state=moment.number)
        if entry.name in on and not entry.enabled
        else entry
        for entry in present.entries
    ]
    notes = [
        f"{entry.name} is enabled too: it is needed"
        for entry in present.entries
        if not entry.enabled and entry.name in on - _with_members(present, names)
    ]
    return finished(present, replace_entries(present, entries), moment, notes=notes)


def disable(present: Present, names: Collection[str], moment: Moment) -> Change:
    """Their services do not run; of a suite, its members'. State and files stay."""
    off = _with_members(present, _known(present, names, "disable"))
    for name in sorted(names):
        entry = present.find(name)
        if entry is not None and entry.kind in ("library", "system"):
            raise RefusedError(
                f"cannot disable {name}: it is a {entry.kind} package and has no services",
                resolution=f"remove it: orbital package remove {name}",
            )
    against = {
        entry.name: sorted(off & needed_by(present, [entry.name]))
        for entry in present.entries
        if entry.enabled and entry.name not in off and entry.kind not in ("suite", "library")
    }
    if any(against.values()):
        raise RefusedError(
            f"cannot disable {', '.join(sorted(names))}: it is needed",
            details=_lines(
                f"{name} is enabled and needs {', '.join(needs)}"
                for name, needs in against.items()
                if needs
            ),
            resolution="disable "
            + ", ".join(sorted(name for name, needs in against.items() if needs))
            + " first",
        )
    entries = [
        replace(entry, enabled=False)
        if entry.name in off and entry.kind in ("feature", "suite")
        else entry
        for entry in present.entries
    ]
    return finished(present, replace_entries(present, entries), moment)


def remove(
    present: Present, names: Collection[str], moment: Moment, *, with_dependents: bool = False
) -> Change:
    """They go, with what was only there for them; their state goes with them.

    Refused while an enabled package needs one of them. with_dependents:
    consent that packages that are not enabled and need them go along.
    """
    gone = set(_known(present, names, "remove"))
    broken: set[str] = set()
    while True:
        users = [
            entry
            for entry in present.entries
            if entry.name not in gone and _loses(present, entry, gone)
        ]
        broken |= {entry.name for entry in users if entry.kind == "suite"}
        features = [entry for entry in users if entry.kind != "suite"]
        active = [entry for entry in features if entry.enabled]
        if active or (features and not with_dependents):
            raise _needed(present, names, gone, active, features)
        if not users:
            break
        gone |= {entry.name for entry in users}
    members = {
        member for name in broken for member in _members(present, name) if member not in gone
    }
    entries = [
        replace(entry, requested=True) if entry.name in members and not entry.requested else entry
        for entry in present.entries
        if entry.name not in gone
    ]
    notes = [f"suite {name} is no longer whole: its other members stay" for name in sorted(broken)]
    return finished(present, replace_entries(present, entries), moment, notes=notes)


def rollback(present: Present, name: str, moment: Moment) -> Change:
    """Back to the version before, with the libraries and the state that it had."""
    (found,) = _known(present, [name], "roll back")
    entry = present.find(found)
    assert entry is not None
    earlier = entry.earlier
    if earlier is None:
        raise RefusedError(
            f"cannot roll back {name}: no version before {entry.version} is kept",
            resolution="a library goes back with the package that uses it"
            if entry.kind == "library"
            else f"ask for a version: orbital package install {name}=VERSION",
        )
    if not earlier.fits:
        raise RefusedError(
            f"cannot roll back {name} to {earlier.version}: it does not fit this system",
            resolution="go back to the system before with 'orbital system rollback'",
        )
    back = replace(
        entry,
        version=earlier.version,
        digest=earlier.digest,
        uses=earlier.uses,
        state=earlier.state,
        updated=moment.now,
        earlier=as_earlier(entry),
    )
    entries = [back if item is entry else item for item in present.entries]
    entries += _libraries(present, name, earlier, moment)
    world = replace_entries(present, entries)
    problems = _problems(world)
    if problems:
        raise RefusedError(
            f"cannot roll back {name} to {earlier.version}: it does not go with the others",
            details=_lines(problems),
            resolution="roll back or remove these first",
        )
    return finished(present, world, moment)


def _libraries(present: Present, name: str, earlier: Earlier, moment: Moment) -> list[PackageEntry]:
    """Entries of the earlier version's libraries that have gone since; the store has kept them."""
    here = {entry.digest for entry in present.entries}
    found = []
    for digest in (earlier.digest, *earlier.uses):
        facts = present.facts.get(digest)
        if facts is None:
            raise RefusedError(
                f"cannot roll back {name} to {earlier.version}: its image is damaged or gone",
                details=digest,
                resolution=f"fetch it: orbital package install {name}={earlier.version}",
            )
        if digest not in here and digest != earlier.digest:
            same = [entry for entry in present.entries if entry.name == facts.name]
            found.append(
                PackageEntry(
                    name=facts.name,
                    version=facts.release.version,
                    kind="library",
                    digest=digest,
                    uid=0,
                    state=moment.number,
                    installed=min((entry.installed for entry in same), default=moment.now),
                    updated=moment.now,
                    requested=False,
                )
            )
    return found


def _problems(present: Present) -> list[str]:
    """What no longer holds among the entries, one line each."""
    found = []
    for entry in present.entries:
        facts = present.facts.get(entry.digest)
        if facts is None or entry.kind == "library":
            continue
        for name, versions in present.needs(entry).items():
            other = present.find(name)
            if other is not None and other.kind == "library":
                continue
            version = other.version if other is not None else present.image.get(name)
            words = f"{entry.name} {entry.version} needs {name} {versions}".removesuffix(" *")
            if version is None:
                # A library that only other views have is not the package's own business here.
                if not _has_library(present, entry, name):
                    found.append(f"{words}, which is not installed")
            elif not parse_constraint(versions).allows(version):
                found.append(f"{words}, not {version}")
        for need in facts.release.requires:
            other = present.find(need.package)
            offers = present.facts.get(other.digest) if other is not None else None
            if offers is not None and not any(
                item.interface == need.interface
                and parse_constraint(need.versions).allows(item.version)
                for item in offers.release.provides
            ):
                found.append(
                    f"{entry.name} {entry.version} calls {need.interface} {need.versions} of "
                    f"{need.package}"
                )
    return found


def _has_library(present: Present, entry: PackageEntry, name: str) -> bool:
    used = (present.facts.get(digest) for digest in entry.uses)
    return any(facts is not None and facts.name == name for facts in used)


def _known(present: Present, names: Collection[str], verb: str) -> list[str]:
    """The names. Raises RefusedError when one is not installed."""
    for name in sorted(names):
        if present.find(name) is None:
            inside = present.image.get(name)
            raise RefusedError(
                f"cannot {verb} {name}: it is "
                + (f"part of the image ({inside})" if inside else "not installed"),
                resolution="" if inside else "see 'orbital package list'",
            )
    return sorted(names)


def _members(present: Present, name: str) -> tuple[str, ...]:
    entry = present.find(name)
    facts = present.facts.get(entry.digest) if entry is not None else None
    return facts.release.members if facts is not None else ()


def _with_members(present: Present, names: Iterable[str]) -> frozenset[str]:
    """The names, and of suites all that belongs to them."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found and present.find(name) is not None:
            found.add(name)
            todo += _members(present, name)
    return frozenset(found)


def _loses(present: Present, entry: PackageEntry, gone: Collection[str]) -> bool:
    """Whether the entry needs something that goes."""
    removed = {item.digest for item in present.entries if item.name in gone}
    if removed & set(entry.uses):
        return True
    if entry.kind == "library":
        return False
    for name, versions in present.needs(entry).items():
        other = present.find(name)
        if name in gone and other is not None and other.kind != "library":
            inside = present.image.get(name)
            # A layered system package leaves the image's own version behind.
            if inside is None or not parse_constraint(versions).allows(inside):
                return True
    return False


def _needed(
    present: Present,
    names: Collection[str],
    gone: Collection[str],
    active: Collection[PackageEntry],
    users: Collection[PackageEntry],
) -> RefusedError:
    """Says who needs what is to go."""
    told = []
    for entry in active or users:
        removed = [
            item.name
            for item in present.entries
            if item.name in gone
            and (item.digest in entry.uses or item.name in present.needs(entry))
        ]
        state = "is enabled" if entry.enabled else "is installed, not enabled,"
        told.append(f"{entry.name} {state} and needs {', '.join(sorted(set(removed)))}")
    who = ", ".join(sorted(entry.name for entry in (active or users)))
    return RefusedError(
        f"cannot remove {', '.join(sorted(names))}: it is needed",
        details=_lines(told),
        resolution=f"remove or disable {who} first"
        if active
        else f"with --with-dependents these go along: {who}",
    )


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
