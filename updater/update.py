"""One update from request to trial: trust → choose → plan → install."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from manifests.delta import Delta, delta_target
from manifests.index import OsIndex, Release
from recovery import trial
from recovery.device import Preference
from recovery.errors import OrbitalError, RefusedError, SpaceError, StateError
from recovery.reporter import Reporter
from recovery.state import StateRecord
from updater import install, journal
from updater.budget import UNLIMITED, Budget, Metered
from updater.device import Device
from updater.index import decode_delta, decode_releases, published_index
from updater.plan import Plan, choose, plan
from updater.repository import opened_source, refreshed
from updater.runs import cheapest
from updater.source import DirectorySource, Source
from updater.trust import TrustedRepository
from updater.ways import Search, cheaper, quicker, serves, slice_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.changes import Change
    from updater.packages.fetch import Arrival
    from updater.packages.parcels import Parcels

_LOCK = "orbital system update"
# What is not known before an update looks through the running image.
_CHEAPER = "the running image may have parts of it: then less is fetched"
_QUICKER = "the running image may have parts of it: on a quick link more is fetched, to save time"


@dataclass(frozen=True)
class Request:
    """What was asked for. source: URL or directory. to: a version by name, or None for the
    newest. requested_by: who asked, for the history. budget: what may be fetched from a URL.
    prefer: time counts only without a budget."""

    source: str
    to: str | None
    requested_by: str
    budget: Budget = UNLIMITED
    prefer: Preference = "bytes"


@dataclass(frozen=True)
class Offer:
    """What an update would do. release is None when the device is up to date.

    packages: the package set that goes with the image, None when there are no packages;
    parcels: what of it is fetched, and how.
    notes: what was not as it should be and does not stop the update, for people.
    """

    release: Release | None
    plan: Plan | None
    packages: Change | None = None
    parcels: Parcels | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What an update did. installed is None when the device was up to date. packages: images
    of packages that it brought along."""

    installed: install.Installed | None
    summary: str
    packages: tuple[Arrival, ...] = ()


def check(device: Device, request: Request, now: Callable[[], float] = time.time) -> Offer:
    """What an update would do now; changes nothing but the remembered metadata.

    Raises TrustError, FetchError, or RefusedError with the reason against it.
    """
    with (
        _disk_errors("look for updates"),
        device.store.lock(_LOCK),
        _opened(device, request, now()) as source,
    ):
        return _offer(device, request, source, now(), None)[0]


def update(
    device: Device,
    request: Request,
    reporter: Reporter,
    now: Callable[[], float] = time.time,
) -> Outcome:
    """Installs the newest, or the named, version and puts it on trial for the next boot.

    Raises RefusedError with nothing changed: another update runs, a trial or
    probation is open, or there is a reason against the version. Raises
    TrustError, FetchError, SpaceError or StateError; the running system is
    untouched then and stays the one that boots.
    """
    with _disk_errors("update"), device.store.lock(_LOCK):
        install.drop_unarmed_trial(device)
        trial.require_idle(device.store.load())
        reporter.stage("check for updates")
        with _opened(device, request, now()) as source:
            offer, summary = _offer(device, request, source, now(), reporter)
            for note in offer.notes:
                reporter.message(note)
            if offer.plan is None:
                return Outcome(None, "")
            if isinstance(source, Metered):
                wanted = offer.plan
                source.begin(wanted.index_sha256, wanted.fetch_bytes, wanted.version)
            # Before the slot is touched: nobody names these images yet.
            arrived = _fetch_packages(offer.parcels, device, source, reporter)
            with _disk_errors(f"install {offer.plan.version}"):
                done = install.install(
                    offer.plan,
                    device,
                    source,
                    requested_by=request.requested_by,
                    reporter=reporter,
                    packages=offer.packages.packages if offer.packages is not None else (),
                )
            return Outcome(done, summary, arrived)


@contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """Says what could not be done when the operating system refuses a file."""
    try:
        yield
    except OSError as error:
        kind = SpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateError
        raise kind(
            f"cannot {what}: {error.strerror or error}",
            details=str(error.filename or ""),
            resolution="the running system is not affected; check the disk, then run the "
            "update again",
        ) from error


@contextmanager
def _opened(device: Device, request: Request, now: float) -> Iterator[Source]:
    """The source; what comes over a network counts against the budget."""
    with opened_source(request.source) as source:
        if isinstance(source, DirectorySource) or request.budget == UNLIMITED:
            yield source
            return
        metered = Metered(source, request.budget, device.store.root / "usage.json", now)
        try:
            yield metered
        finally:
            metered.close()


def _offer(
    device: Device, request: Request, source: Source, now: float, reporter: Reporter | None
) -> tuple[Offer, str]:
    """The verified offer, and its summary for people.

    reporter: of an update; None when it is only asked what one would do.
    """
    config = device.config
    record = device.store.load()
    with refreshed(
        source, anchor=device.anchor, state=device.store.root, built=config.built, now=now
    ) as repository:
        data = repository.target(f"os/{config.system}/{config.board}/releases.json")
        if data is None:
            raise RefusedError(
                f"cannot update: {source.name} has nothing for system {config.system} on board "
                f"{config.board}",
                resolution="check that the source is the one for this device",
            )
        release = choose(decode_releases(data), config, record, request.to)
        if release is None:
            return Offer(None, None), ""
        index, index_sha256 = published_index(repository, config, release.version)
        delta, notes = _delta(device, repository, index)
        way, looked_up = cheapest(index, delta), 0
        slices = slice_map(repository, index)
        hurry = request.prefer == "time" and request.budget == UNLIMITED
        served = serves(way, index)
        if slices is not None and (hurry or not served):
            compare, hint = (quicker, _QUICKER) if served else (cheaper, _CHEAPER)
            if reporter is None:
                notes += (hint,)
            else:
                search = Search(device, source, index, slices)
                way, more = compare(way, search, reporter)
                looked_up = search.fetched
                notes += more
        packages, parcels = _packages(device, repository, index, record, int(now))
    chosen = plan(
        index,
        index_sha256=index_sha256,
        version=release.version,
        config=config,
        facts=device.facts(),
        journal=journal.load(device.store.root),
        way=way,
        slices=slices,
        looked_up=looked_up,
    )
    notes += parcels.notes if parcels is not None else ()
    return Offer(release, chosen, packages, parcels, notes), release.summary


def _delta(
    device: Device, repository: TrustedRepository, index: OsIndex
) -> tuple[Delta | None, tuple[str, ...]]:
    """The delta from the running image; or None, and why it cannot be used if there is one."""
    running = device.store.generations.load(device.generation)
    if running is None:
        return None, ()
    path = delta_target(index.system, index.board, index.version, running.root_hash)
    try:
        data = repository.target(path)
        return (None if data is None else decode_delta(data, index)), ()
    except OrbitalError as error:
        # Without it the update costs more and is as good.
        return None, (f"{error.brief}: more has to be fetched",)


def _packages(
    device: Device, repository: TrustedRepository, index: OsIndex, record: StateRecord, now: int
) -> tuple[Change | None, Parcels | None]:
    """The package set for the image and what is fetched for it, or None when no packages are
    installed.

    Raises RefusedError when an installed package has no version that fits.
    """
    committed = device.store.generations.load(record.committed)
    if committed is None or not committed.packages:
        return None, None
    # Most devices that update have no packages: the resolver costs a second to import there.
    from updater.packages.changes import Moment
    from updater.packages.for_image import bring_along
    from updater.packages.known import look
    from updater.packages.market import offers_of
    from updater.packages.parcels import pack

    packages = device.packages
    moment = Moment(trial.next_number(record, device.store), now)
    known = look(packages, committed, record, moment)
    offers = offers_of(repository, packages)
    change = bring_along(known, offers, index)
    return change, pack(change.fetch, offers, known, device.store.root / "store")


def _fetch_packages(
    parcels: Parcels | None, device: Device, source: Source, reporter: Reporter
) -> tuple[Arrival, ...]:
    if parcels is None:
        return ()
    from updater.packages.fetch import fetch_all

    reporter.stage("fetch packages")
    return fetch_all(parcels.all, source, device.store.root / "store", reporter)
