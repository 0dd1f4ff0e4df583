"""The verbs: from what a person asks for to one transaction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from manifests.constraints import Constraint, parse_constraint
from recovery.errors import OrbitalError, RefusedError
from recovery.generations import Generation, PackageEntry
from recovery.reporter import Reporter
from recovery.state import StateRecord
from recovery.value import replace
from updater.packages import changes, edits, gc
from updater.packages.changes import Change, Moment, installed, kept_wants
from updater.packages.device import PackageDevice
from updater.packages.difference import Difference, differences
from updater.packages.known import Known, look
from updater.packages.outcome import audited
from updater.packages.resolve.model import Offers, Resolved, Want
from updater.packages.transaction import Asked, Outcome, Wanted, change, reconcile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.failed import Back
    from updater.packages.fetch import Arrival
    from updater.packages.resolve.model import Resolution


@dataclass(frozen=True)
class Download:
    """What a change would fetch, in bytes. full: what it would be without deltas."""

    size: int = 0
    full: int = 0


Confirm = Callable[[Sequence[Difference], Download], None]


def _agreed(_found: Sequence[Difference], _download: Download) -> None:
    """Asks nobody."""


@dataclass(frozen=True)
class Terms:
    """who asks. source: repository, None for the configured one. confirm: shown what would
    change and what would be fetched; raises RefusedError to stop it."""

    who: str
    source: str | None = None
    confirm: Confirm = _agreed
    now: Callable[[], float] = time.time


@dataclass(frozen=True)
class _Order:
    """A verb on packages. names: for people and the audit trail."""

    verb: str
    names: Sequence[str]
    terms: Terms
    reporter: Reporter

    @property
    def asked(self) -> Asked:
        """For the transaction."""
        return Asked(f"{self.verb} {' '.join(self.names)}".strip(), self.terms.who)

    @property
    def subject(self) -> str:
        """For the audit trail."""
        return ", ".join(self.names) or "all"


def install(
    device: PackageDevice,
    words: Sequence[str],
    terms: Terms,
    reporter: Reporter,
    *,
    start: bool = True,
) -> Outcome:
    """Installs NAME or NAME=VERSION, with what they need. start: enables what is new.

    Raises ConflictError, RefusedError, TrustError, FetchError, SpaceError: nothing has changed;
    PackageError: tried, and taken back.
    """
    asked_for = dict(map(_named, words))

    def decide(known: Known, offers: Offers) -> Change:
        wants = [
            *kept_wants(known.present, without=asked_for),
            *(Want(name, versions) for name, versions in asked_for.items()),
        ]
        found = _resolved(known, offers, wants, asked_for, upgrade=frozenset())
        change = changes.install(
            known.present, found, known.moment, frozenset(asked_for), start=start
        )
        return _repaired(device, change, offers, asked_for, known.moment)

    return _shopped(device, _Order("install", words, terms, reporter), decide)


def update(
    device: PackageDevice, words: Sequence[str], terms: Terms, reporter: Reporter
) -> Outcome:
    """Updates the named packages (NAME or NAME=VERSION), or all, to what is newest and fits.

    Raises as `install`.
    """
    asked_for = dict(map(_named, words))

    def decide(known: Known, offers: Offers) -> Change:
        for name in asked_for:
            if known.present.find(name) is None:
                raise _not_installed("update", name)
        wants = [
            *kept_wants(known.present, without=asked_for),
            *(Want(name, versions) for name, versions in asked_for.items()),
        ]
        upgrade = frozenset(asked_for) if asked_for else None
        found = _resolved(known, offers, wants, asked_for, upgrade=upgrade)
        return changes.install(known.present, found, known.moment)

    return _shopped(device, _Order("update", words, terms, reporter), decide)


def switch(
    device: PackageDevice,
    names: Sequence[str],
    terms: Terms,
    reporter: Reporter,
    *,
    enabled: bool,
) -> Outcome:
    """Starts or stops the services of packages for good. Raises RefusedError, PackageError."""
    act = edits.enable if enabled else edits.disable
    verb = "enable" if enabled else "disable"
    order = _Order(verb, names, terms, reporter)
    return _local(device, order, lambda known: act(known.present, names, known.moment))


def remove(
    device: PackageDevice,
    names: Sequence[str],
    terms: Terms,
    reporter: Reporter,
    *,
    with_dependents: bool = False,
) -> Outcome:
    """Removes packages and what only they needed. Raises RefusedError, PackageError."""
    return _local(
        device,
        _Order("remove", names, terms, reporter),
        lambda known: edits.remove(
            known.present, names, known.moment, with_dependents=with_dependents
        ),
    )


def rollback(device: PackageDevice, name: str | None, terms: Terms, reporter: Reporter) -> Outcome:
    """One package to its version before; without a name, the set before the last change.

    Raises RefusedError, PackageError.
    """
    if name is None:
        return rollback_set(device, terms, reporter)
    return _local(
        device,
        _Order("rollback", [name], terms, reporter),
        lambda known: edits.rollback(known.present, name, known.moment),
    )


def back_of(device: PackageDevice, now: Callable[[], float] = time.time) -> Back:
    """What `failed.contain` needs: one package back to its version before."""

    def back(old: Generation, record: StateRecord, number: int, name: str) -> Wanted:
        known = look(device, old, record, Moment(number, int(now())))
        return Wanted(edits.rollback(known.present, name, known.moment).packages)

    return back


def _resolved(
    known: Known,
    offers: Offers,
    wants: Sequence[Want],
    asked_for: Mapping[str, Constraint],
    *,
    upgrade: Collection[str] | None,
) -> Resolution:
    """The resolver's answer. A version that was said may be tried though it failed before."""
    # Imported late: most verbs need no resolver.
    from updater.packages.resolve.resolver import resolve

    environment = known.environment(retry=_exact(asked_for))
    return resolve(wants, offers, environment, installed(known.present), upgrade=upgrade)


def _local(device: PackageDevice, order: _Order, decide: Callable[[Known], Change]) -> Outcome:
    """A change that needs no repository."""
    terms = order.terms

    def plan(old: Generation, record: StateRecord, number: int) -> Wanted:
        made = decide(look(device, old, record, Moment(number, int(terms.now()))))
        found = differences(old.packages, made.packages)
        _tell(order, made, found, Download())
        left = _left(found, terms.who) if order.verb == "rollback" else {}
        return Wanted(made.packages, quarantine=left)

    with audited(device, f"package.{order.verb}", order.subject, terms.who):
        return change(device, plan, order.asked, order.reporter, now=terms.now)


def _shopped(
    device: PackageDevice, order: _Order, decide: Callable[[Known, Offers], Change]
) -> Outcome:
    """A change that takes what a repository offers."""
    store = device.store.root / "store"
    arrived: list[Arrival] = []
    terms, reporter = order.terms, order.reporter

    def plan(old: Generation, record: StateRecord, number: int) -> Wanted:
        # Imported late: python-tuf and cryptography are slow to start, and most verbs need neither.
        from updater.packages.market import market
        from updater.packages.parcels import pack

        known = look(device, old, record, Moment(number, int(terms.now())))
        reporter.stage("check for packages")
        shop = opened.enter_context(market(device, terms.source, terms.now()))
        reporter.stage("resolve")
        made = decide(known, shop.offers)
        parcels = pack(made.fetch, shop.offers, known, store)
        for note in parcels.notes:
            reporter.message(note)
        download = Download(parcels.fetch_bytes, parcels.full_bytes)
        _tell(order, made, differences(old.packages, made.packages), download)

        def fetch() -> None:
            from updater.packages.fetch import fetch_all

            reporter.stage("download")
            arrived.extend(
                fetch_all(parcels.all, shop.source, store, reporter, verity=device.verity)
            )

        return Wanted(made.packages, fetch)

    with (
        audited(device, f"package.{order.verb}", order.subject, terms.who),
        ExitStack() as opened,
    ):
        done = change(device, plan, order.asked, reporter, now=terms.now)
        return dataclasses.replace(done, arrivals=tuple(arrived))


def _tell(order: _Order, made: Change, found: Sequence[Difference], download: Download) -> None:
    for note in made.notes:
        order.reporter.message(note)
    if found:
        order.terms.confirm(found, download)


def _left(found: Sequence[Difference], who: str) -> dict[tuple[str, str], str]:
    """Versions that somebody leaves by hand: not offered again by themselves."""
    return {
        (item.name, item.before.version): f"rolled back by {who}"
        for item in found
        if item.before and item.after and item.before.version != item.after.version
    }


def _repaired(
    device: PackageDevice,
    made: Change,
    offers: Offers,
    names: Collection[str],
    moment: Moment,
) -> Change:
    """Fetches images of the named packages again that cannot be trusted any more where they lie."""
    entries, fetch = [], list(made.fetch)
    fetched = {item.release.digest for item in fetch}
    for entry in made.packages:
        again = entry.name in names and entry.digest not in fetched and _damaged(device, entry)
        offered = offers.releases(entry.name) if again else ()
        release = next((item for item in offered if item.digest == entry.digest), None)
        if release is not None:
            fetch.append(Resolved(entry.name, release))
            entry = replace(entry, state=moment.number)  # noqa: PLW2901
        entries.append(entry)
    return Change(tuple(entries), tuple(fetch), made.notes)


def _damaged(device: PackageDevice, entry: PackageEntry) -> bool:
    try:
        device.host.manifest(entry.digest)
    except OrbitalError:
        return True
    return False


def _named(word: str) -> tuple[str, Constraint]:
    """NAME or NAME=VERSION. Raises ManifestError."""
    name, sign, version = word.partition("=")
    return name, parse_constraint(f"={version}" if sign else "*")


def _exact(asked_for: Mapping[str, Constraint]) -> frozenset[str]:
    """Names whose version was said: a version that failed before may be tried again."""
    return frozenset(name for name, versions in asked_for.items() if versions.parts)


def _not_installed(verb: str, name: str) -> RefusedError:
    return RefusedError(
        f"cannot {verb} {name}: it is not installed",
        resolution=f"install it: 'orbital package install {name}'",
    )


def rollback_set(device: PackageDevice, terms: Terms, reporter: Reporter) -> Outcome:
    """The whole set before the last change, with its state. Raises RefusedError, PackageError."""

    def plan(old: Generation, record: StateRecord, _number: int) -> Wanted:
        before = device.store.generations.load(record.undo) if record.undo is not None else None
        if before is None:
            raise RefusedError(
                "cannot roll back: no earlier set is kept",
                resolution="'orbital package rollback NAME' goes back with one package",
            )
        if (before.slot, before.root_hash) != (old.slot, old.root_hash):
            raise RefusedError(
                "cannot roll back: the set before the last change belongs to another OS image",
                resolution="'orbital system rollback' goes back with the OS and its packages",
            )
        found = differences(old.packages, before.packages)
        terms.confirm(found, Download())
        return Wanted(before.packages, quarantine=_left(found, terms.who))

    asked = Asked("roll back to the set before", terms.who)
    with audited(device, "package.rollback", "the set before", terms.who):
        return change(device, plan, asked, reporter, now=terms.now)


def collect(device: PackageDevice, *, dry_run: bool) -> tuple[gc.Garbage, str]:
    """Garbage, and what of an interrupted change was finished first ("" for nothing)."""
    with device.store.lock("orbital package gc"):
        finished = "" if dry_run else reconcile(device)
        return gc.collect(device, dry_run=dry_run), finished
