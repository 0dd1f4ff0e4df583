"""The verbs: from what a person asks for to one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from recovery.errors import RefusedError, SpaceError
from recovery.generations import Generation, PackageEntry
from recovery.reporter import Reporter
from recovery.state import StateRecord
from recovery.value import replace
from updater.packages import gc
from updater.packages.device import PackageDevice
from updater.packages.difference import Difference, differences
from updater.packages.outcome import audited
from updater.packages.transaction import Asked, Outcome, Wanted, change, reconcile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.offers import Offers
    from updater.source import Source


def _agreed(_found: Sequence[Difference], _fetch_bytes: int) -> None:
    """Asks nobody."""


@dataclass(frozen=True)
class Terms:
    """who asks. source: repository, None for the configured one. confirm: shown what would
    change and how many bytes would be fetched; raises RefusedError to stop it."""

    who: str
    source: str | None = None
    confirm: Callable[[Sequence[Difference], int], None] = _agreed
    now: Callable[[], float] = time.time


@dataclass(frozen=True)
class Market:
    """An opened repository: what it offers, and where images come from."""

    offers: Offers
    source: Source


@contextmanager
def market(device: PackageDevice, terms: Terms) -> Iterator[Market]:
    """The repository, refreshed and verified. Raises TrustError, FetchError; the caller holds
    the lock, for what was seen is remembered."""
    from recovery.packages import trust
    from updater.device import ANCHOR
    from updater.packages.offers import Offers
    from updater.policy import load_policy
    from updater.trust import TrustedRepository
    from updater.update import open_source

    source = open_source(terms.source or load_policy(device.config).source)
    try:
        try:
            repository = TrustedRepository(
                source,
                anchor=device.root / ANCHOR,
                directory=device.store.root / "tuf",
                built=device.config.built,
                now=terms.now(),
            )
        except OSError as error:
            raise SpaceError(
                f"cannot keep metadata: {error.strerror}", details=str(error.filename or "")
            ) from error
        with repository:
            repository.refresh()
            publishers = trust.load(device.root)
            yield Market(
                Offers(repository, architecture=architecture(device), publishers=publishers),
                source,
            )
    finally:
        source.close()


def architecture(device: PackageDevice) -> str:
    """Debian's name of the device's architecture."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return names.get(device.config.architecture, device.config.architecture)


def switch(
    device: PackageDevice,
    names: Sequence[str],
    terms: Terms,
    reporter: Reporter,
    *,
    enabled: bool,
) -> Outcome:
    """Starts or stops the services of packages for good. Raises RefusedError, PackageError."""
    verb = "enable" if enabled else "disable"

    def plan(old: Generation, _record: StateRecord, _number: int) -> Wanted:
        require_installed(old, names)
        return Wanted(
            tuple(
                replace(entry, enabled=enabled) if entry.name in names else entry
                for entry in old.packages
            )
        )

    asked = Asked(f"{verb} {' '.join(names)}", terms.who)
    with audited(device, f"package.{verb}", ", ".join(names), terms.who):
        return change(device, plan, asked, reporter, now=terms.now)


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
        terms.confirm(found, 0)
        left = {
            (item.name, item.before.version): f"rolled back by {terms.who}"
            for item in found
            if item.before and item.after and item.before.version != item.after.version
        }
        return Wanted(before.packages, quarantine=left)

    asked = Asked("roll back to the set before", terms.who)
    with audited(device, "package.rollback", "the set before", terms.who):
        return change(device, plan, asked, reporter, now=terms.now)


def collect(device: PackageDevice, *, dry_run: bool) -> tuple[gc.Garbage, str]:
    """Garbage, and what of an interrupted change was finished first ("" for nothing)."""
    with device.store.lock("orbital package gc"):
        finished = "" if dry_run else reconcile(device)
        return gc.collect(device, dry_run=dry_run), finished


def require_installed(generation: Generation, names: Sequence[str]) -> list[PackageEntry]:
    """Their entries. Raises RefusedError for one that is not installed."""
    found = []
    for name in names:
        entry = generation.package(name)
        if entry is None:
            raise RefusedError(
                f"cannot change package {name}: it is not installed",
                resolution="'orbital package list' shows what is",
            )
        found.append(entry)
    return found
