"""The next package set: present entries and a request in, entries of the new generation out. Pure.

Rules, whatever the request:

* Entries are complete: what an entry needs and uses is there; what nobody
  requested and nothing needs any more goes.
* A package that is enabled has what it needs enabled.
* State. A package whose version, libraries or image changes, or which starts
  after having been disabled, works on a copy: its `state` is the number of the
  new generation. All others keep their layer. A rollback takes the earlier
  version's layer itself, as that version left it: instantaneous, no migration,
  and nothing else runs on it. The price: if the rollback fails its checks, that
  layer has seen a few seconds more of the version that owns it.
* `earlier` is the one version before, of features and system packages. A change
  of libraries alone leaves it: it is the way back to another *version*.
* A user id block belongs to a name as long as any kept generation has it.
* A suite that loses a member is no longer that suite: its entry goes, and the
  members that stay count as requested.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from manifests.versions import version_key
from recovery.errors import SpaceError
from recovery.generations import Earlier, Generation, PackageEntry
from recovery.value import replace
from updater.packages.resolve.model import (
    ANY,
    INSTALLED,
    USER,
    Installed,
    Resolution,
    Resolved,
    Want,
)

UID_FIRST, UID_LAST, UID_BLOCK = 50_000, 59_999, 16


@dataclass(frozen=True)
class Present:
    """What there is. facts: by digest, of all entries and of what they may roll back to
    (`installed_from`); what is missing is taken to need nothing. image: packages inside the
    image, with versions. uids: of names in the other kept generations, see `uids_of`."""

    entries: tuple[PackageEntry, ...]
    facts: Mapping[str, Installed]
    image: Mapping[str, str] = field(default_factory=dict)
    uids: Mapping[str, int] = field(default_factory=dict)

    def find(self, name: str) -> PackageEntry | None:
        """The entry of that name (of a library: its newest), or None."""
        return next((entry for entry in reversed(self.entries) if entry.name == name), None)

    def needs(self, entry: PackageEntry) -> dict[str, str]:
        """What its manifest depends on, libraries included: name → constraint."""
        facts = self.facts.get(entry.digest)
        if facts is None:
            return {}
        found = {item.package: item.versions for item in facts.release.depends}
        return {**dict.fromkeys(facts.release.members, "*"), **found}


@dataclass(frozen=True)
class Moment:
    """When: number of the generation that is being made, seconds since the epoch."""

    number: int
    now: int


@dataclass(frozen=True)
class Change:
    """packages: entries of the new generation, sorted by name and version. fetch: images that
    neither an entry nor a way back has had so far. notes: for the user, what goes along."""

    packages: tuple[PackageEntry, ...]
    fetch: tuple[Resolved, ...] = ()
    notes: tuple[str, ...] = ()


def uids_of(generations: Iterable[Generation]) -> dict[str, int]:
    """User id blocks that are taken, by name."""
    return {
        entry.name: entry.uid
        for generation in generations
        for entry in generation.packages
        if entry.uid
    }


def installed(present: Present) -> tuple[Installed, ...]:
    """The entries as the resolver takes them, each with the libraries of its view."""
    found = []
    for entry in present.entries:
        facts = present.facts.get(entry.digest)
        if facts is not None:
            used = [present.facts[digest] for digest in entry.uses if digest in present.facts]
            uses = tuple((item.name, item.release.version) for item in used)
            found.append(Installed(entry.name, facts.release, uses, facts.migrates_to))
    return tuple(found)


def kept_wants(present: Present, without: Collection[str] = ()) -> list[Want]:
    """What somebody requested and has: it is wanted in every resolution."""
    names = {entry.name for entry in present.entries if entry.requested}
    return [Want(name, ANY, INSTALLED) for name in sorted(names - set(without))]


def install(
    present: Present,
    resolution: Resolution,
    moment: Moment,
    requested: Collection[str] = (),
    *,
    start: bool = True,
) -> Change:
    """Makes the set what the resolution says: for install and update alike.

    requested: names that somebody asked for now. start: what is new is enabled.
    """
    digests = {(item.name, item.version): item.release.digest for item in resolution.packages}
    uids = _Uids(present)
    notes: list[str] = []
    entries = []
    for item in resolution.packages:
        uses = tuple(digests[pair] for pair in item.uses)
        old = _same(present, item)
        if old is None:
            entry = _new(present, item, uses=uses, moment=moment, uids=uids, start=start)
        else:
            entry = _changed(old, item, uses, moment)
        asked = item.name in requested or entry.requested
        if item.release.kind == "library":
            # Of several versions the one that the want got, not those in views of others.
            asked = asked and not {USER, INSTALLED}.isdisjoint(item.wanted_by)
        if asked != entry.requested:
            entry = replace(entry, requested=asked)
        entries.append(entry)
    for name, version in resolution.from_image:
        if name in requested or present.find(name) is not None:
            notes.append(f"{name} {version} is in the image")
    wanted = {entry.name for entry in present.entries if entry.requested}
    lost = wanted - {item.name for item in resolution.packages} - dict(resolution.from_image).keys()
    if lost:
        raise ValueError(f"the resolution has no {min(lost)}, which is requested")
    known = _held(present)
    fetch = tuple(item for item in resolution.packages if item.release.digest not in known)
    facts = {
        **present.facts,
        **{item.release.digest: Installed(item.name, item.release) for item in fetch},
    }
    world = Present(tuple(entries), facts, present.image, present.uids)
    return finished(present, world, moment, fetch, notes)


def for_image(
    present: Present, resolution: Resolution, moment: Moment, fits: Collection[str]
) -> Change:
    """The set for a trial of another image: as `install`, and every feature works on a copy.

    resolution: made for that image. fits: digests of present and earlier
    images that may run on it; a way back to one that may not is kept for the
    record, but not taken.
    """
    change = install(present, resolution, moment)
    entries = []
    for entry in change.packages:
        if entry.earlier is not None:
            able = entry.earlier.digest in fits and all(use in fits for use in entry.earlier.uses)
            entry = replace(entry, earlier=replace(entry.earlier, fits=able))  # noqa: PLW2901
        entries.append(replace(entry, state=moment.number))
    return Change(tuple(entries), change.fetch, change.notes)


def _same(present: Present, item: Resolved) -> PackageEntry | None:
    """The entry that the package continues. Versions of a library are packages by themselves."""
    if item.release.kind != "library":
        return present.find(item.name)
    pair = (item.name, item.version)
    return next((entry for entry in present.entries if (entry.name, entry.version) == pair), None)


def _new(
    present: Present,
    item: Resolved,
    *,
    uses: tuple[str, ...],
    moment: Moment,
    uids: _Uids,
    start: bool,
) -> PackageEntry:
    # A library's new version beside its old one: the library was installed back then.
    before = [entry for entry in present.entries if entry.name == item.name]
    runs = item.release.kind == "feature"
    return PackageEntry(
        name=item.name,
        version=item.version,
        kind=item.release.kind,
        digest=item.release.digest,
        uid=uids.block(item.name) if runs else 0,
        state=moment.number,
        installed=min((entry.installed for entry in before), default=moment.now),
        updated=moment.now,
        enabled=start or item.release.kind in ("library", "system"),
        requested=any(entry.requested for entry in before),
        uses=uses,
    )


def _changed(
    old: PackageEntry, item: Resolved, uses: tuple[str, ...], moment: Moment
) -> PackageEntry:
    if old.digest == item.release.digest:
        if old.uses == uses:
            return old
        return replace(old, uses=uses, state=moment.number)
    return replace(
        old,
        version=item.version,
        digest=item.release.digest,
        uses=uses,
        state=moment.number,
        updated=moment.now,
        earlier=as_earlier(old) if old.kind in ("feature", "system") else None,
    )


def as_earlier(entry: PackageEntry) -> Earlier:
    """What a later rollback of the entry's successor goes back to."""
    return Earlier(entry.version, entry.digest, entry.state, entry.uses)


def _held(present: Present) -> frozenset[str]:
    """Digests that the store holds for the present set."""
    found: set[str] = set()
    for entry in present.entries:
        found.update((entry.digest, *entry.uses))
        if entry.earlier is not None:
            found.update((entry.earlier.digest, *entry.earlier.uses))
    return frozenset(found)


class _Uids:
    """Hands out user id blocks: a name's own, else the lowest free one."""

    def __init__(self, present: Present) -> None:
        self._own = {**present.uids, **{e.name: e.uid for e in present.entries if e.uid}}
        self._taken = set(self._own.values())

    def block(self, name: str) -> int:
        """Raises SpaceError when all are taken."""
        if name not in self._own:
            ends = range(UID_FIRST, UID_LAST - UID_BLOCK + 2, UID_BLOCK)
            free = next((uid for uid in ends if uid not in self._taken), None)
            if free is None:
                raise SpaceError(
                    f"cannot install {name}: all user ids for packages are taken",
                    details=f"there are {len(ends)} blocks of {UID_BLOCK}",
                    resolution="remove a package",
                )
            self._own[name] = free
            self._taken.add(free)
        return self._own[name]


def finished(
    present: Present,
    world: Present,
    moment: Moment,
    fetch: Sequence[Resolved] = (),
    notes: Sequence[str] = (),
) -> Change:
    """The change, with what follows for other entries. world: the new entries, facts of all."""
    told = list(notes)
    entries = list(world.entries)
    on = needed_by(world, [entry.name for entry in entries if entry.enabled])
    for place, entry in enumerate(entries):
        if entry.name in on and not entry.enabled:
            entries[place] = replace(entry, enabled=True, state=moment.number)
            told.append(f"{entry.name} is enabled too: it is needed")
    kept = _swept(replace_entries(world, entries))
    before = {(entry.name, entry.version) for entry in present.entries}
    names = {entry.name for entry in kept}
    for entry in entries:
        if entry not in kept and (entry.name, entry.version) in before:
            told.append(f"{entry.name} {entry.version} goes: nothing needs it any more")
    for entry in present.entries:
        if entry.name not in names and all(entry.name != item.name for item in entries):
            told.append(f"{entry.name} {entry.version} goes")
    ordered = tuple(sorted(kept, key=lambda entry: (entry.name, version_key(entry.version))))
    return Change(ordered, tuple(fetch), tuple(told))


def replace_entries(present: Present, entries: Iterable[PackageEntry]) -> Present:
    """The same with other entries."""
    return Present(tuple(entries), present.facts, present.image, present.uids)


def needed_by(present: Present, names: Iterable[str]) -> frozenset[str]:
    """The features and system packages that these packages need, however indirectly.

    A suite needs its members to be there, not to be enabled.
    """
    found: set[str] = set()
    todo = sorted(names)
    while todo:
        entry = present.find(todo.pop())
        if entry is None or entry.kind == "suite":
            continue
        for name in present.needs(entry):
            other = present.find(name)
            if other is not None and other.kind != "library" and name not in found:
                found.add(name)
                todo.append(name)
    return frozenset(found)


def _swept(present: Present) -> list[PackageEntry]:
    """The entries without what nobody requested and nothing needs."""
    names: set[str] = set()
    digests: set[str] = set()
    todo = [entry for entry in present.entries if entry.requested]
    while todo:
        entry = todo.pop()
        if entry.digest in digests:
            continue
        digests.add(entry.digest)
        names.add(entry.name)
        needs = present.needs(entry) if entry.kind != "library" else {}
        todo += [
            other
            for other in present.entries
            if other.digest in entry.uses or (other.kind != "library" and other.name in needs)
        ]
    return [entry for entry in present.entries if entry.digest in digests]
