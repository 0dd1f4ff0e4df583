"""A repository with a delta between two versions of a package, and a device that has the older."""

from __future__ import annotations

import copy
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imager.cache import Cache
from imager.repository.deltas import DeltaMaker
from manifests.package_delta import PackageDelta
from manifests.package_index import PackageRelease
from recovery.reporter import SilentReporter
from tests.updater.images import content
from tests.updater.packages.fakehost import Bench
from tests.updater.packages.repository import (
    PackagePublisher,
    PackageReader,
    make_certificates,
    manifest,
)
from updater.packages.changes import Moment, Present
from updater.packages.fetch import Arrival, fetch
from updater.packages.known import Known
from updater.packages.offers import Offers
from updater.packages.parcels import Parcel, Parcels, in_full, pack
from updater.packages.resolve.model import Resolved
from updater.source import DirectorySource

NAME = "acme-vpn"
SIZE = 1_280 << 10
SEGMENT = 64 << 10


def edited(data: bytes) -> bytes:
    """A few bytes changed in many segments; two segments with 20 KiB of news each."""
    image, dice = bytearray(data), random.Random("edits")
    for _ in range(12):
        at = dice.randrange(4096, SIZE - 64)
        image[at : at + 24] = dice.randbytes(24)
    for segment in (4, 11):
        at = segment * SEGMENT + 8192
        image[at : at + 20_480] = dice.randbytes(20_480)
    return bytes(image)


@dataclass(frozen=True)
class Published:
    """A repository with versions 1.0 and 2.0 of a package, and a delta between them."""

    publisher: PackagePublisher
    old: bytes
    new: bytes

    @classmethod
    def make(cls, base: Path) -> Published:
        """Publishes both."""
        publisher = PackagePublisher(base / "publisher", make_certificates(base / "certificates"))
        maker = DeltaMaker(Cache(base / "cache"), workers=1)
        images = []
        for version, data in (("1.0", content("old", SIZE)), ("2.0", edited(content("old", SIZE)))):
            path = publisher.opk(manifest(NAME, version), data=data)
            publisher.offer(path, deltas=maker)
            images.append(publisher.image(path))
        return cls(publisher, *images)

    def copied(self, base: Path) -> PackagePublisher:
        """The publisher with a copy of the repository, for a test to damage."""
        found = copy.copy(self.publisher)
        found.base = base
        found.repository = base / "repository"
        found.anchor = base / "root.json"
        shutil.copytree(self.publisher.base, base)
        return found


class DeltaDevice(PackageReader):
    """A device that has 1.0 installed."""

    def __init__(self, base: Path, publisher: PackagePublisher) -> None:
        super().__init__(base, publisher)
        self.old, self.new = self.releases(NAME)
        self.take(in_full(NAME, self.old))

    def take(self, parcel: Parcel, source: DirectorySource | None = None) -> Arrival:
        """Brings it into the store."""
        place = source or DirectorySource(self.publisher.repository)
        return fetch(parcel, place, self.store, SilentReporter(), verity=self.verity)

    def parcels(self, *releases: PackageRelease) -> Parcels:
        """How releases would be fetched."""
        bench = Bench(Path(tempfile.mkdtemp(dir=self.base)))
        known = Known(bench.device, bench.store.load(), Present((), {}), Moment(2, 0))
        with self.repository() as repository:
            repository.refresh()
            offers = Offers(repository, architecture="amd64", publishers=self.publishers)
            return pack([Resolved(NAME, item) for item in releases], offers, known, self.store)

    def update(self, image: bytes) -> Arrival:
        """Brings 2.0 into the store, which must be that image then."""
        parcels = self.parcels(self.new)
        (parcel,) = parcels.all
        done = self.take(parcel)
        assert done.path.read_bytes() == image
        assert self.verity.measure(done.path) == self.new.digest
        assert done.fetched <= done.full * 1.02
        return done


def document(publisher: PackagePublisher) -> Path:
    """The published delta."""
    (path,) = publisher.repository.glob("targets/packages/*/*.delta-*.json")
    return path


def read(publisher: PackagePublisher) -> PackageDelta:
    """What it says."""
    return msgspec.json.decode(document(publisher).read_bytes(), type=PackageDelta)


def parts(publisher: PackagePublisher) -> list[Path]:
    """The files with payloads, in the order in which devices take them."""
    found = sorted(read(publisher).parts, key=lambda part: (part.size, part.sha256))
    return [publisher.repository / f"chunks/{part.sha256[:2]}/{part.sha256}" for part in found]
