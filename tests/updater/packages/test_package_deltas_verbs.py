"""Deltas of packages in verbs and in updates of the OS: what is chosen, and what is told."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest

from imager.cache import Cache
from imager.repository.deltas import DeltaMaker
from orbital.fetched import fetched_lines, fetching
from orbital.output import Output
from orbital.package_verbs import report
from recovery.generations import Generation, PackageEntry
from recovery.packages import capabilities, fsverity, trust
from recovery.packages.capabilities import Policy
from recovery.packages.model import Package
from recovery.reporter import SilentReporter
from recovery.value import replace
from tests.updater.devices import FileDevice
from tests.updater.images import content
from tests.updater.packages import repository
from tests.updater.packages.delta_device import NAME, SIZE, Published, edited, parts
from tests.updater.packages.fakehost import Bench, package
from tests.updater.packages.repository import PackageReader, TableVerity, make_image
from tests.updater.packages.test_lifecycle import Shop
from updater.packages import lifecycle
from updater.packages.lifecycle import Download


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Made once; each test has a copy."""
    return Published.make(tmp_path_factory.mktemp("published"))


class LargeShop(Shop):
    """A shop whose packages are large, and of which each version differs a little."""

    def offer_large(self, cache: Path, item: Package, data: bytes) -> None:
        """Publishes a version, with deltas."""
        made = replace(item, publisher="base", architecture="amd64")
        path = self.publisher.opk(made, data=data)
        self.host.known[self.publisher.digest(path)] = made
        self.publisher.offer(path, deltas=DeltaMaker(Cache(cache), workers=1))


def test_an_update_says_what_its_delta_saved(tmp_path: Path) -> None:
    shop = LargeShop(tmp_path, repository.make_certificates(tmp_path / "certificates"))
    data = content("old", SIZE)
    shop.offer_large(tmp_path / "cache", package("hello", "1.0"), data)
    (first,) = shop.do(lifecycle.install, ["hello"]).arrivals
    assert (first.from_version, first.fetched) == ("", first.full)
    shop.offer_large(tmp_path / "cache", package("hello", "1.1"), edited(data))
    seen: list[Download] = []
    terms = dataclasses.replace(shop.terms, confirm=lambda _, download: seen.append(download))
    done = lifecycle.update(shop.device, [], terms, SilentReporter())
    assert shop.versions() == {"hello": "1.1"}
    (arrival,) = done.arrivals
    assert (arrival.version, arrival.from_version, arrival.notes) == ("1.1", "1.0", ())
    assert seen == [Download(arrival.fetched, arrival.full)]
    assert arrival.fetched < arrival.full / 10

    stdout = io.StringIO()
    report(done, Output(json=True, stdout=stdout, stderr=io.StringIO()), "nothing to do")
    (told,) = json.loads(stdout.getvalue())["fetched"]
    assert (told["package"], told["delta_from"], told["wasted"]) == ("hello", "1.0", 0)
    assert (told["fetched"], told["full"]) == (arrival.fetched, arrival.full)
    stdout = io.StringIO()
    report(done, Output(json=False, stdout=stdout, stderr=io.StringIO()), "nothing to do")
    saved = fetching(arrival.fetched, arrival.full)
    assert f"hello 1.1: {saved} fetched, by delta from 1.0" in stdout.getvalue()
    assert " instead of " in saved

    # Going back needs no network; forward again, the newer image is still there.
    shop.do(lifecycle.rollback, "hello")
    again = shop.do(lifecycle.install, ["hello=1.1"])
    assert [item.fetched for item in again.arrivals] == [] == fetched_lines(again.arrivals)


def test_an_update_of_the_os_brings_packages_along_by_delta(
    tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = published.copied(tmp_path / "publisher")
    device = FileDevice(tmp_path / "device", publisher.anchor, source=str(publisher.repository))
    make_image(device.root / "usr-of", publisher.certificates)
    shutil.copytree(device.root / "usr-of" / trust.DIRECTORY, device.root / trust.DIRECTORY)
    policy = capabilities.encode(Policy((), refused=()))
    (device.root / capabilities.FILE).write_bytes(policy)
    host = Bench(tmp_path / "bench").host
    device.device = dataclasses.replace(device.device, root=device.root, host=host)
    reader = PackageReader(tmp_path / "reader", publisher)
    old, new = reader.releases(NAME)
    verity = TableVerity(reader.publishers)
    monkeypatch.setattr(fsverity, "enable", verity.enable)
    monkeypatch.setattr(fsverity, "measure", verity.measure)
    store = device.store.root / "store"
    store.mkdir()
    (store / old.digest).write_bytes(published.old)
    have(device, PackageEntry(NAME, "1.0", "library", old.digest, 0, 1, 1, 1))
    publisher.publish(publisher.build("2.0"))

    offer = device.check()
    assert offer.parcels is not None
    (parcel,) = offer.parcels.missing
    size = sum(path.stat().st_size for path in parts(publisher))
    assert (parcel.name, parcel.from_version, parcel.fetch_bytes) == (NAME, "1.0", size)
    outcome = device.update()
    (arrival,) = outcome.packages
    assert (arrival.fetched, arrival.full) == (size, new.stream.stored_size)
    assert (store / new.digest).read_bytes() == published.new
    assert outcome.installed is not None


def have(device: FileDevice, entry: PackageEntry) -> None:
    """Makes it the set of the running generation."""
    generation = device.store.generations.load(1)
    assert generation is not None
    (device.store.generations.directory / "1.json").unlink()
    device.store.generations.write(
        Generation(
            1, "a", generation.system, generation.version, generation.root_hash, None, 0,
            "factory", "imager", packages=(entry,),
        )
    )  # fmt: skip
