"""One update from request to trial: trust → choose → plan → install."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifests.index import Release
from recovery import trial
from recovery.errors import FetchError, RefusedError, SpaceError, StateError
from recovery.reporter import Reporter
from updater import install, journal
from updater.device import Device
from updater.http import HttpSource
from updater.index import decode_index, decode_releases
from updater.plan import Plan, choose, plan
from updater.source import DirectorySource, Source
from updater.trust import TrustedRepository

_LOCK = "orbital system update"


@dataclass(frozen=True)
class Request:
    """What was asked for. source: URL or directory. to: a version by name, or None for the
    newest. requested_by: who asked, for the history."""

    source: str
    to: str | None
    requested_by: str


@dataclass(frozen=True)
class Offer:
    """What an update would do. release is None when the device is up to date."""

    release: Release | None
    plan: Plan | None


@dataclass(frozen=True)
class Outcome:
    """What an update did. installed is None when the device was up to date."""

    installed: install.Installed | None
    summary: str


def open_source(text: str) -> Source:
    """The source that a URL or a path names. Raises FetchError when it is neither."""
    if not text:
        raise FetchError(
            "cannot look for updates: no source is configured",
            resolution="name one with --source, or set it in /etc/orbital/update.json",
        )
    if text.startswith(("http://", "https://")):
        return HttpSource(text)
    if "://" in text and not text.startswith("file://"):
        raise FetchError(
            f"cannot use {text} as an update source: not http, https or a directory",
            resolution="name a URL or the path of a directory",
        )
    return DirectorySource(Path(text.removeprefix("file://")))


def check(device: Device, request: Request, now: Callable[[], float] = time.time) -> Offer:
    """What an update would do now; changes nothing but the remembered metadata.

    Raises TrustError, FetchError, or RefusedError with the reason against it.
    """
    with device.store.lock(_LOCK), _opened(request.source) as source:
        return _offer(device, request, source, now())[0]


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
    with device.store.lock(_LOCK):
        install.drop_unarmed_trial(device)
        trial.require_idle(device.store.load())
        reporter.stage("check for updates")
        with _opened(request.source) as source:
            offer, summary = _offer(device, request, source, now())
            if offer.plan is None:
                return Outcome(None, "")
            try:
                done = install.install(
                    offer.plan,
                    device,
                    source,
                    requested_by=request.requested_by,
                    reporter=reporter,
                )
            except OSError as error:
                raise StateError(
                    f"cannot install {offer.plan.version}: {error.strerror}",
                    details=str(error.filename or ""),
                    resolution="the running system is not affected; check the disk, then run the "
                    "update again",
                ) from error
            return Outcome(done, summary)


@contextmanager
def _opened(text: str) -> Iterator[Source]:
    source = open_source(text)
    try:
        yield source
    finally:
        source.close()


def _offer(device: Device, request: Request, source: Source, now: float) -> tuple[Offer, str]:
    """The verified offer, and its summary for people."""
    config = device.config
    record = device.store.load()
    base = f"os/{config.system}/{config.board}"
    try:
        repository = TrustedRepository(
            source,
            anchor=device.anchor,
            directory=device.store.root / "tuf",
            built=config.built,
            now=now,
        )
    except OSError as error:
        raise SpaceError(
            f"cannot keep metadata: {error.strerror}", details=str(error.filename or "")
        ) from error
    with repository:
        repository.refresh()
        data = repository.target(f"{base}/releases.json")
        if data is None:
            raise RefusedError(
                f"cannot update: {source.name} has nothing for system {config.system} on board "
                f"{config.board}",
                resolution="check that the source is the one for this device",
            )
        release = choose(decode_releases(data), config, record, request.to)
        if release is None:
            return Offer(None, None), ""
        data = repository.target(f"{base}/{release.version}/index.json")
        if data is None:
            raise RefusedError(
                f"cannot install {release.version}: its index is not in the repository",
                resolution="tell the publisher",
            )
    chosen = plan(
        decode_index(data),
        index_sha256=hashlib.sha256(data).hexdigest(),
        version=release.version,
        config=config,
        facts=device.facts(),
        journal=journal.load(device.store.root),
    )
    return Offer(release, chosen), release.summary
