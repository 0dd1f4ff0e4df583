"""Packages by delta: as small as the change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests import package_delta
from manifests.delta import Frame, Part
from manifests.package_delta import PackageDelta
from recovery.errors import FetchError
from tests.updater.packages.delta_device import (
    NAME,
    DeltaDevice,
    Published,
    parts,
)
from tests.updater.packages.repository import PackagePublisher
from tests.updater.packages.test_fetch import Counting
from tests.updater.power import Power, PowerCut
from updater import ledger
from updater.packages.parcels import cheapest, in_full
from updater.source import DirectorySource


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Made once; each test has a copy."""
    return Published.make(tmp_path_factory.mktemp("published"))


@pytest.fixture
def publisher(published: Published, tmp_path: Path) -> PackagePublisher:
    """The repository."""
    return published.copied(tmp_path / "publisher")


@pytest.fixture
def device(tmp_path: Path, publisher: PackagePublisher) -> DeltaDevice:
    """It trusts the publisher, and has 1.0."""
    return DeltaDevice(tmp_path / "device", publisher)


@pytest.fixture
def new(published: Published) -> bytes:
    """The image of 2.0."""
    return published.new


def test_an_update_fetches_little_more_than_what_changed(
    publisher: PackagePublisher, device: DeltaDevice, new: bytes
) -> None:
    parcels = device.parcels(device.new)
    size = sum(path.stat().st_size for path in parts(publisher))
    assert (parcels.fetch_bytes, parcels.full_bytes) == (size, device.new.stream.stored_size)
    done = device.update(new)
    assert (done.fetched, done.full) == (size, parcels.full_bytes)
    assert done.fetched < done.full / 10
    assert (done.from_version, done.wasted, done.notes) == ("1.0", 0, ())


def test_the_largest_parts_come_last_and_only_because_of_what_was_saved(
    publisher: PackagePublisher, device: DeltaDevice, new: bytes
) -> None:
    sizes = [path.stat().st_size for path in parts(publisher)]
    allowed = device.new.stream.stored_size * package_delta.RISK
    assert sizes[0] <= allowed < sizes[-1]
    (parcel,) = device.parcels(device.new).all
    source = Counting(publisher.repository)
    device.take(parcel, source)
    assert source.chunks == [f"chunks/{path.parent.name}/{path.name}" for path in parts(publisher)]
    # With the small ones gone, nothing was saved and so nothing large is risked.
    (device.store / device.new.digest).unlink()
    for path in parts(publisher):
        if path.stat().st_size <= allowed:
            path.unlink()
    done = device.update(new)
    assert "is not tried" in done.notes[-1]
    assert (done.wasted, done.from_version) == (0, "")
    assert done.fetched == done.full


def test_maker_and_device_agree_on_what_may_be_risked() -> None:
    assert package_delta.RISK == ledger.LIMIT


def test_a_cut_download_keeps_what_the_delta_has_made(
    publisher: PackagePublisher, device: DeltaDevice, new: bytes
) -> None:
    (parcel,) = device.parcels(device.new).all
    with pytest.raises(FetchError, match="the stick was pulled out"):
        device.take(parcel, Gone(publisher.repository, after=2))
    source = Counting(publisher.repository)
    done = device.take(parcel, source)
    assert done.path.read_bytes() == new
    assert source.chunks == [
        f"chunks/{path.parent.name}/{path.name}" for path in parts(publisher)[2:]
    ]


class Gone(DirectorySource):
    """A source that works for some chunks, and then not at all."""

    def __init__(self, directory: Path, after: int) -> None:
        super().__init__(directory)
        self.left = after

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """See Source."""
        if not self.left:
            raise FetchError(f"cannot fetch {path}: the stick was pulled out")
        self.left -= 1
        return super().open(path, max_size)


def test_power_cut_before_every_durable_step_of_a_delta(device: DeltaDevice, new: bytes) -> None:
    (parcel,) = device.parcels(device.new).all
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        device.take(parcel)
    assert len(power.steps) > 2
    final = device.store / device.new.digest
    for step in power.steps:
        final.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            Power(step).install(patch)
            with pytest.raises(PowerCut):
                device.take(parcel)
        assert not final.exists() or device.verity.measure(final) == device.new.digest, step
        assert device.take(parcel).path.read_bytes() == new


def test_the_way_is_chosen_by_signed_sizes(device: DeltaDevice) -> None:
    release = device.new
    count = len(release.stream.segments)

    def delta(base: str, *frames: Frame, size: int = 1000) -> PackageDelta:
        parts = (Part(size, "ab" * 32),)
        return PackageDelta(1, release.digest, base, f"digest of {base}", frames, parts)

    some = delta("1.0", Frame(2, 0, 0, 1000), Frame(count - 2))
    more = delta("0.9", Frame(4, 0, 0, 1000), Frame(count - 4))
    useless = delta("0.8", Frame(1, 0, 0, 99_999), Frame(count - 1), size=99_999)
    for order in ((some, more, useless), (useless, more, some)):
        best = cheapest(NAME, release, order)
        assert (best.from_version, best.base) == ("0.9", "digest of 0.9")
        saved = sum(segment.stored_size for segment in release.stream.segments[:4]) - 1000
        assert best.fetch_bytes == best.full_bytes - saved
    assert cheapest(NAME, release, [useless]) == in_full(NAME, release)
    assert cheapest(NAME, release, []) == in_full(NAME, release)


def test_what_is_in_the_store_needs_no_delta(device: DeltaDevice, new: bytes) -> None:
    device.update(new)
    parcels = device.parcels(device.new)
    assert (parcels.missing, parcels.fetch_bytes, len(parcels.all)) == ((), 0, 1)
    assert device.take(parcels.all[0]).fetched == 0
