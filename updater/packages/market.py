"""Where packages come from: an opened repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from recovery.packages import trust
from updater.device import ANCHOR
from updater.packages.device import PackageDevice
from updater.packages.known import architecture
from updater.packages.offers import Offers
from updater.policy import load_policy
from updater.repository import opened_source, refreshed
from updater.source import Source
from updater.trust import TrustedRepository


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
    with (
        opened_source(address or load_policy(device.config).source) as source,
        refreshed(
            source,
            anchor=device.root / ANCHOR,
            state=device.store.root,
            built=device.config.built,
            now=now,
        ) as repository,
    ):
        yield Market(offers_of(repository, device), source)


def offers_of(repository: TrustedRepository, device: PackageDevice) -> Offers:
    """What the repository offers of packages for this device."""
    publishers = trust.load(device.root)
    return Offers(repository, architecture=architecture(device), publishers=publishers)
