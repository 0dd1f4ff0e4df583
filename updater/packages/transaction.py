"""The one transaction that changes a device's package set without a reboot.

The order of what is durable, and what a power cut after each arrow means; the
committed generation C has the old set, N the new one:

    images in the store        nobody names them: the next `gc` takes them
    → generations/N.json       as above
    → audit "started"          the next change finds no outcome, and writes "interrupted"
    → state.json: change = N   the next boot runs C, whose state layers nobody has touched
      services stop; N is activated, its state layers are copied and migrated;
      services start and are checked; what they wrote is made durable
    → **state.json: committed = N, undo = C, change = none**
    → history, audit "done"    the next change writes what is missing

The bold line is the commit point, one rename. Whatever fails before it is
taken back: services stop, C is activated, services start; then state.json
without the change (and with the version that failed in quarantine) → history →
audit "failed". A process that is killed half-way leaves state.json with the
change, and the next one in the same boot takes it back (`reconcile`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from recovery import durable
from recovery.change import abandoned, begun, committed
from recovery.errors import OrbitalError, PackageError
from recovery.generations import Generation, PackageEntry
from recovery.packages.host import Activation
from recovery.reporter import Reporter
from recovery.state import Quarantine, StateRecord
from recovery.trial import next_number, require_idle
from recovery.value import replace
from updater.packages import gc, outcome
from updater.packages.device import PackageDevice
from updater.packages.difference import Difference, differences, to_blame
from updater.packages.interrupt import Interrupted, deferred, raised
from updater.packages.study import Study, study
from updater.packages.switch import Unhealthy, restore, switch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.fetch import Arrival


def _nothing() -> None:
    """Nothing to fetch."""


def _as_it_is(_generation: Generation) -> None:
    """Nothing to prepare."""


@dataclass(frozen=True)
class Wanted:
    """What the set shall be.

    fetch: brings the images that are missing into the store, verified; called
    before anything changes. prepare: called when services have stopped and
    before the new set is activated. quarantine: versions, by package, that are
    left for good and not offered again by themselves, and why. contains: a
    package that has failed is put out of action: what depends on it is left
    alone, and no check can prevent it.
    """

    packages: tuple[PackageEntry, ...]
    fetch: Callable[[], None] = _nothing
    prepare: Callable[[Generation], None] = _as_it_is
    quarantine: dict[tuple[str, str], str] = field(default_factory=dict)
    contains: bool = False


Planner = Callable[[Generation, StateRecord, int], Wanted]
"""From the committed generation, the state record and the number of the next generation."""


@dataclass(frozen=True)
class Outcome:
    """What was changed. generation: None when there was nothing to do. arrivals: images that
    it brought into the store, or found there."""

    generation: Generation | None
    differences: tuple[Difference, ...]
    activation: Activation | None = None
    seconds: float = 0.0
    arrivals: tuple[Arrival, ...] = ()


@dataclass(frozen=True)
class Asked:
    """Who asked for what, for the records. what: in words, e.g. "update hello"."""

    what: str
    who: str


def change(
    device: PackageDevice,
    plan: Planner,
    asked: Asked,
    reporter: Reporter,
    *,
    now: Callable[[], float] = time.time,
    lock_seconds: float = 0,
    in_probation: bool = False,
) -> Outcome:
    """Makes the set what plan wants, or leaves it as it is.

    Raises whatever plan and its fetch raise, RefusedError (somebody else
    changes the device, a trial or probation is open), TrustError or
    StateError: nothing has changed then. Raises PackageError when the new set
    was tried and taken back. in_probation: the probation of the OS goes on
    with the new set (containment cannot wait).
    """
    with device.store.lock(f"orbital package ({asked.what})", lock_seconds):
        reconcile(device, now)
        record = device.store.load()
        require_idle(replace(record, probation=None) if in_probation else record)
        old = device.committed(record)
        number = next_number(record, device.store)
        wanted = plan(old, record, number)
        found = differences(old.packages, wanted.packages)
        if not found:
            return Outcome(None, ())
        wanted.fetch()
        known = study(
            device.host, old.packages, wanted.packages, found, number, alone=wanted.contains
        )
        new = Generation(
            number=number,
            slot=old.slot,
            system=old.system,
            version=old.version,
            root_hash=old.root_hash,
            parent=old.number,
            created=int(now()),
            origin="package",
            requested_by=asked.who,
            packages=tuple(sorted(wanted.packages, key=lambda e: (e.name, e.version))),
            etc=old.etc_layer,
        )
        attempt = _Attempt(device, old, new, found, known, asked, now)
        done = _try(attempt, wanted, reporter)
        gc.after_change(device)
        return done


def reconcile(device: PackageDevice, now: Callable[[], float] = time.time) -> str:
    """Finishes what a cut or a killed process left of an earlier change; the caller holds the lock.

    Returns what was done, for people; "" normally. Raises PackageError when
    the running system cannot be brought back.
    """
    record = device.store.load()
    said = ""
    if record.change is not None:
        old = device.committed(record)
        new = device.store.generations.load(record.change.generation)
        said = f"generation {record.change.generation} was interrupted before its commit point"
        if record.change.boot_id == device.boot_id and new is not None:
            # The process was killed in this boot: the system may run either set.
            found = differences(old.packages, new.packages)
            known = study(device.host, old.packages, new.packages, found, new.number, lenient=True)
            problem = restore(device.host, old, known)
            if problem:
                raise _stuck(said, problem)
        outcome.interrupted(device, old, record.change.generation, said, now)
        device.store.save(abandoned(record))
    outcome.complete(device, now)
    return said


@dataclass(frozen=True)
class _Attempt:
    """One change while it is under way."""

    device: PackageDevice
    old: Generation
    new: Generation
    found: tuple[Difference, ...]
    known: Study
    asked: Asked
    now: Callable[[], float]


def _try(attempt: _Attempt, wanted: Wanted, reporter: Reporter) -> Outcome:
    """From the record of the new generation to its commit point, or back."""
    device, new, store = attempt.device, attempt.new, attempt.device.store
    began = time.monotonic()
    store.generations.write(new)
    outcome.started(device, new, attempt.asked.what)
    record = begun(store.load(), new, device.boot_id)
    # From here on a reboot runs the committed set, as before, and the number is never used again.
    store.save(record)
    with deferred():
        try:
            with raised():
                activation = switch(
                    device.host,
                    new,
                    attempt.known,
                    reporter,
                    prepare=wanted.prepare,
                    judge=not wanted.contains,
                )
                # A cut after the commit point must not bring back less of what the services wrote
                # than was checked: with a file that is empty then, a package fails for ever.
                durable.sync_filesystem(store.root)
        except (OrbitalError, OSError, Unhealthy, Interrupted) as error:
            raise _taken_back(attempt, error) from error
        left = tuple(
            Quarantine(version, why, int(attempt.now()), attempt.old.number, package)
            for (package, version), why in sorted(wanted.quarantine.items())
        )
        # The commit point: before it the old set boots, after it the new one.
        store.save(committed(record, new, left))
        outcome.complete(device, attempt.now)
    return Outcome(new, attempt.found, activation, round(time.monotonic() - began, 3))


def _taken_back(attempt: _Attempt, error: BaseException) -> PackageError:
    """Brings the old set back, writes down why, and returns the error to raise."""
    device, old, new, what = attempt.device, attempt.old, attempt.new, attempt.asked.what
    failed = error.failures if isinstance(error, Unhealthy) else {}
    reason = str(error).strip() or "interrupted"
    problem = restore(device.host, old, attempt.known)
    if problem:
        return _stuck(f"cannot {what}: {reason}", problem)
    blamed: tuple[PackageEntry, ...] = ()
    if isinstance(error, Unhealthy) and error.judged:
        blamed = to_blame(tuple(failed), attempt.found, attempt.known.depends)
    bad = tuple(
        Quarantine(
            entry.version, reason.splitlines()[0], int(attempt.now()), new.number, entry.name
        )
        for entry in blamed
    )
    # Cut before this: the next boot runs the old set all the same, without the quarantine.
    device.store.save(abandoned(device.store.load(), bad))
    outcome.rolled_back(device, old, new, reason=reason, now=attempt.now)
    gc.after_change(device)
    held = ", ".join(f"{entry.name} {entry.version}" for entry in blamed)
    return PackageError(
        f"cannot {what}: {_brief(reason)}",
        details="\n".join(reason.splitlines()[1:]),
        resolution="the packages of before run again, with their state"
        + (f"; {held} will not be taken again unless asked for by version" if held else "")
        + (f"; see 'orbital package logs {min(failed)}'" if failed else ""),
    )


def _stuck(what: str, problem: str) -> PackageError:
    return PackageError(
        what if what.startswith("cannot ") else f"cannot change the packages: {what}",
        details=f"and the set of before could not be started again: {problem}",
        resolution="reboot: the set of before runs then",
    )


def _brief(reason: str) -> str:
    first = reason.splitlines()[0]
    return first.removeprefix("cannot ") if first.startswith("cannot ") else first
