"""What differs between two package sets, and which services that concerns. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recovery.generations import PackageEntry

Verb = Literal["install", "update", "downgrade", "remove", "enable", "disable", "adjust"]


@dataclass(frozen=True)
class Difference:
    """One package that is not the same in both sets.

    verb: adjust is a change of what lies below it (libraries, state,
    configuration) or of a note about it. before, after: None where it is absent.
    """

    verb: Verb
    name: str
    before: PackageEntry | None
    after: PackageEntry | None

    @property
    def versions(self) -> str:
        """For people: "1.0 → 1.1", or the one version."""
        old = self.before.version if self.before else ""
        new = self.after.version if self.after else ""
        return f"{old} → {new}" if old and new and old != new else new or old

    def __str__(self) -> str:
        """For people: "update hello 1.0 → 1.1"."""
        return f"{self.verb} {self.name} {self.versions}"


def differences(old: Sequence[PackageEntry], new: Sequence[PackageEntry]) -> tuple[Difference, ...]:
    """Every package that differs, sorted by name. Versions of a library differ one by one."""
    before, after = _keyed(old), _keyed(new)
    found = []
    for key in sorted(before.keys() | after.keys()):
        left, right = before.get(key), after.get(key)
        if left != right:
            found.append(Difference(_verb(left, right), key[0], left, right))
    return tuple(found)


def changes_services(difference: Difference) -> bool:
    """Whether programs of the package have to be stopped and started for it."""
    left, right = difference.before, difference.after
    if left is None or right is None:
        return True
    return _running(left) != _running(right)


def with_dependents(names: Iterable[str], depends: Mapping[str, Collection[str]]) -> frozenset[str]:
    """The names and all that need them, however indirectly. depends: what each package needs."""
    found = set(names)
    while True:
        more = {name for name, needs in depends.items() if name not in found and found & set(needs)}
        if not more:
            return frozenset(found)
        found |= more


def with_dependencies(
    names: Iterable[str], depends: Mapping[str, Collection[str]]
) -> frozenset[str]:
    """The names and all that they need, however indirectly."""
    found = set(names)
    todo = list(found)
    while todo:
        fresh = set(depends.get(todo.pop(), ())) - found
        found |= fresh
        todo.extend(sorted(fresh))
    return frozenset(found)


def to_blame(
    failed: Collection[str],
    found: Sequence[Difference],
    depends: Mapping[str, Collection[str]],
) -> tuple[PackageEntry, ...]:
    """The new versions that a failure speaks against, to be quarantined.

    Those of the packages that failed; if none of these is new, the new ones
    among what they need.
    """
    fresh = {
        item.name: item.after
        for item in found
        if item.after is not None
        and (item.before is None or item.before.digest != item.after.digest)
    }
    own = [fresh[name] for name in sorted(failed) if name in fresh]
    if own:
        return tuple(own)
    needed = with_dependencies(failed, depends)
    return tuple(fresh[name] for name in sorted(needed) if name in fresh)


def _keyed(entries: Sequence[PackageEntry]) -> dict[tuple[str, str], PackageEntry]:
    return {
        (entry.name, entry.version if entry.kind == "library" else ""): entry for entry in entries
    }


def _verb(left: PackageEntry | None, right: PackageEntry | None) -> Verb:
    if left is None:
        return "install"
    if right is None:
        return "remove"
    if left.version != right.version:
        from manifests.versions import version_key

        return "update" if version_key(right.version) > version_key(left.version) else "downgrade"
    if left.enabled != right.enabled:
        return "enable" if right.enabled else "disable"
    return "adjust"


def _running(entry: PackageEntry) -> tuple[object, ...]:
    return entry.digest, entry.uses, entry.state, entry.uid, entry.enabled
