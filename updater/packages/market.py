"""Where packages come from: an opened repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from recovery.errors import SpaceError
from recovery.packages import trust
from updater.device import ANCHOR
from updater.packages.device import PackageDevice
from updater.packages.known import architecture
from updater.packages.offers import Offers
from updater.policy import load_policy
from updater.source import Source
from updater.trust import TrustedRepository
from updater.update import open_source


@dataclass(frozen=True)
class Market:
    """An opened repository: what it offers, and where images come from."""

    offers: Offers
    source: Source


@contextmanager
def market(device: PackageDevice, address: str | None, now: float) -> Iterator[Market]:
    """The repository, refreshed and verified; the caller holds the lock, for what was seen is
    remembered.

    address: URL or directory, None for the configured one. now: what the clock
    says. Raises TrustError, FetchError, SpaceError.
    """
    source = open_source(address or load_policy(device.config).source)
    try:
        try:
            repository = TrustedRepository(
                source,
                anchor=device.root / ANCHOR,
                directory=device.store.root / "tuf",
                built=device.config.built,
                now=now,
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
