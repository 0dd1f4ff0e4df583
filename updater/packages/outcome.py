"""What is written down of a change: history and audit trail.

Every change has one audit entry "package.change" with result "started" and
one with its outcome; between them one for each package. `complete` writes what
a power cut after the commit point left out, from the durable records alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from recovery.audit import Entry
from recovery.errors import OrbitalError, PackageError, RefusedError, TrustError
from recovery.generations import Generation
from recovery.history import Event, EventKind
from recovery.value import replace
from updater.packages.device import PackageDevice
from updater.packages.difference import Difference, differences

CHANGE = "package.change"


def started(device: PackageDevice, new: Generation, what: str) -> None:
    """A change begins. Raises OSError: what cannot be audited is not begun."""
    device.audit.record(
        CHANGE, _subject(new.number), "started", who=new.requested_by, detail=what,
        boot_id=device.boot_id,
    )  # fmt: skip


def complete(device: PackageDevice, now: Callable[[], float]) -> None:
    """Writes what the committed generation and the last audit entries do not say yet."""
    record = device.store.load()
    generation = device.store.generations.load(record.committed)
    if generation is not None and generation.origin == "package":
        _event(device, "committed", generation, _words(device, generation), now)
    open_change = _open_change(device.audit.entries())
    if open_change is None:
        return
    number = int(open_change.subject.rpartition(" ")[2])
    if generation is not None and generation.number == number:
        for item in _found(device, generation):
            _package(device, item, "done", generation.requested_by, "")
        device.audit.note(
            CHANGE, open_change.subject, "done", who=open_change.who,
            detail=open_change.detail, boot_id=device.boot_id,
        )  # fmt: skip
    else:
        device.audit.note(
            CHANGE, open_change.subject, "failed", who=open_change.who,
            detail="interrupted before its commit point", boot_id=device.boot_id,
        )  # fmt: skip


def interrupted(
    device: PackageDevice,
    old: Generation,
    number: int,
    reason: str,
    now: Callable[[], float],
) -> None:
    """A change was cut before its commit point."""
    new = device.store.generations.load(number) or replace(old, number=number)
    _event(device, "interrupted", new, reason, now)


def rolled_back(
    device: PackageDevice,
    old: Generation,
    new: Generation,
    *,
    reason: str,
    now: Callable[[], float],
) -> None:
    """A change was tried and taken back."""
    who = new.requested_by
    _event(device, "rolled-back", new, f"packages: {reason.splitlines()[0]}", now)
    for item in differences(old.packages, new.packages):
        _package(device, item, "failed", who, reason)
    device.audit.note(
        CHANGE, _subject(new.number), "failed", who=who, detail=reason, boot_id=device.boot_id
    )


@contextlib.contextmanager
def audited(device: PackageDevice, what: str, subject: str, who: str) -> Iterator[None]:
    """Writes down errors of the body that no transaction has written down, and passes them on."""
    try:
        yield
    except PackageError:
        raise
    except OrbitalError as error:
        refused = isinstance(error, TrustError | RefusedError)
        device.audit.note(
            what,
            subject,
            "refused" if refused else "failed",
            who=who,
            detail=f"{error.kind}: {error}",
            boot_id=device.boot_id,
        )
        raise


def _open_change(entries: tuple[Entry, ...]) -> Entry | None:
    """The newest "started" without an outcome. Only the newest can be without one."""
    last = next((entry for entry in reversed(entries) if entry.what == CHANGE), None)
    return last if last is not None and last.result == "started" else None


def _event(
    device: PackageDevice,
    event: EventKind,
    generation: Generation,
    reason: str,
    now: Callable[[], float],
) -> None:
    device.store.history.record_once(
        Event(
            event=event,
            generation=generation.number,
            from_version=generation.version,
            to_version=generation.version,
            slot=generation.slot,
            reason=reason,
            requested_by=generation.requested_by,
            time=int(now()),
            boot_id=device.boot_id,
        )
    )


def _found(device: PackageDevice, generation: Generation) -> tuple[Difference, ...]:
    parent = device.store.generations.load(generation.parent) if generation.parent else None
    return differences(parent.packages, generation.packages) if parent else ()


def _words(device: PackageDevice, generation: Generation) -> str:
    return "packages: " + (", ".join(str(item) for item in _found(device, generation)) or "changed")


def _package(device: PackageDevice, item: Difference, result: str, who: str, reason: str) -> None:
    device.audit.note(
        f"package.{item.verb}",
        item.name,
        "done" if result == "done" else "failed",
        who=who,
        detail=f"{item.versions}: {reason}" if reason else item.versions,
        boot_id=device.boot_id,
    )


def _subject(number: int) -> str:
    return f"generation {number}"
