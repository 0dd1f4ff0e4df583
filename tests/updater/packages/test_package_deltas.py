"""Packages by delta: as small as the change, never worse than in full when anything is wrong."""

from __future__ import annotations

import copy
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache
from imager.repository import metadata
from imager.repository.deltas import DeltaMaker
from imager.repository.targets import add_target
from manifests import package_delta
from manifests.delta import Frame, Part
from manifests.package_delta import PackageDelta, package_delta_target
from manifests.package_index import PackageRelease
from recovery.errors import FetchError, ManifestError
from recovery.reporter import SilentReporter
from tests.updater.images import content
from tests.updater.packages.fakehost import Bench
from tests.updater.packages.repository import (
    PackagePublisher,
    PackageReader,
    make_certificates,
    manifest,
)
from tests.updater.packages.test_fetch import Counting
from tests.updater.power import Power, PowerCut
from updater import patches
from updater.packages.changes import Moment, Present
from updater.packages.fetch import Arrival, fetch
from updater.packages.known import Known
from updater.packages.offers import Offers
from updater.packages.parcels import Parcel, Parcels, cheapest, decode_delta, in_full, pack
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


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Made once; each test has a copy."""
    base = tmp_path_factory.mktemp("published")
    publisher = PackagePublisher(base / "publisher", make_certificates(base / "certificates"))
    maker = DeltaMaker(Cache(base / "cache"), workers=1)
    files = []
    for version, data in (("1.0", content("old", SIZE)), ("2.0", edited(content("old", SIZE)))):
        files.append(publisher.opk(manifest(NAME, version), data=data))
        publisher.offer(files[-1], deltas=maker)
    return Published(publisher, *(publisher.image(path) for path in files))


@pytest.fixture
def publisher(published: Published, tmp_path: Path) -> PackagePublisher:
    """The repository, a copy for each test to damage."""
    found = copy.copy(published.publisher)
    found.base = tmp_path / "publisher"
    found.repository = found.base / "repository"
    found.anchor = found.base / "root.json"
    shutil.copytree(published.publisher.base, found.base)
    return found


class Device(PackageReader):
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


@pytest.fixture
def device(tmp_path: Path, publisher: PackagePublisher) -> Device:
    """It trusts the publisher, and has 1.0."""
    return Device(tmp_path / "device", publisher)


@pytest.fixture
def new(published: Published) -> bytes:
    """The image of 2.0."""
    return published.new


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


def test_an_update_fetches_little_more_than_what_changed(
    publisher: PackagePublisher, device: Device, new: bytes
) -> None:
    parcels = device.parcels(device.new)
    size = sum(path.stat().st_size for path in parts(publisher))
    assert (parcels.fetch_bytes, parcels.full_bytes) == (size, device.new.stream.stored_size)
    done = device.update(new)
    assert (done.fetched, done.full) == (size, parcels.full_bytes)
    assert done.fetched < done.full / 10
    assert (done.from_version, done.wasted, done.notes) == ("1.0", 0, ())


def test_the_largest_parts_come_last_and_only_because_of_what_was_saved(
    publisher: PackagePublisher, device: Device, new: bytes
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
    assert package_delta.RISK == patches.LIMIT


def damage(path: Path) -> None:
    """Changes a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def no_document(device: Device) -> None:
    """The document is gone."""
    document(device.publisher).unlink()


def damaged_document(device: Device) -> None:
    """The document is not what was signed."""
    damage(document(device.publisher))


def no_parts(device: Device) -> None:
    """404 on every part."""
    for path in parts(device.publisher):
        path.unlink()


def damaged_parts(device: Device) -> None:
    """Every part has a wrong byte."""
    for path in parts(device.publisher):
        damage(path)


def short_parts(device: Device) -> None:
    """Every part is shorter than signed."""
    for path in parts(device.publisher):
        path.write_bytes(path.read_bytes()[:-1])


def damaged_base(device: Device) -> None:
    """The installed image has lost much of its data, and nothing noticed."""
    path = device.store / device.old.digest
    data = bytearray(path.read_bytes())
    for at in range(0, SIZE, 8192):
        data[at] ^= 1
    path.write_bytes(data)


def short_base(device: Device) -> None:
    """The installed image has lost its second half."""
    os.truncate(device.store / device.old.digest, SIZE // 2)


def no_base(device: Device) -> None:
    """The installed image is gone."""
    (device.store / device.old.digest).unlink()


def unreadable_base(device: Device) -> None:
    """In place of the installed image there is something that is no file."""
    no_base(device)
    (device.store / device.old.digest).symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (no_document, ""),
        (damaged_document, ""),
        (no_parts, "no such file"),
        (damaged_parts, "is damaged or tampered with"),
        (short_parts, "is damaged or tampered with"),
        (damaged_base, "is not what was signed"),
        (short_base, "cannot be decoded"),
        (no_base, ""),
        (unreadable_base, "the base image cannot be read"),
    ],
)
def test_whatever_is_wrong_with_a_delta_the_package_arrives_at_a_bounded_cost(
    device: Device, new: bytes, fault: Callable[[Device], None], note: str
) -> None:
    fault(device)
    done = device.update(new)
    assert bool(done.notes) == bool(note)
    assert not note or any(note in text for text in done.notes), done.notes


def test_blocks_of_the_base_that_verity_refuses_cost_what_they_would_have_made(
    device: Device, new: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.pread

    def failing(fd: int, size: int, offset: int) -> bytes:
        place = Path(f"/proc/self/fd/{fd}").readlink().name
        if place == device.old.digest and offset < 2 * SEGMENT:
            raise OSError(5, "Input/output error")
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    done = device.update(new)
    assert done.notes[0].endswith("the base image cannot be read: Input/output error")
    assert done.wasted > 0
    assert (done.from_version, done.fetched < done.full / 4) == ("1.0", True)


def test_a_document_that_cannot_be_used_is_told(device: Device) -> None:
    damaged_document(device)
    parcels = device.parcels(device.new)
    (note,) = parcels.notes
    assert note.startswith("acme-vpn: cannot ")
    assert note.endswith("it is fetched in full")
    assert parcels.fetch_bytes == parcels.full_bytes


def test_a_base_that_goes_between_plan_and_download(device: Device, new: bytes) -> None:
    (parcel,) = device.parcels(device.new).all
    no_base(device)
    done = device.take(parcel)
    assert done.path.read_bytes() == new
    assert done.notes == ("the base image cannot be read: No such file or directory",)
    assert (done.fetched, done.from_version) == (done.full, "")


def signed_again(publisher: PackagePublisher, device: Device, delta: PackageDelta) -> None:
    """Publishes another delta in the place of the one there, properly signed."""
    path = package_delta_target(NAME, device.new.digest, device.old.digest)
    current = metadata.load(publisher.repository)
    role = current.delegated["publisher-acme"]
    document(publisher).unlink()
    add_target(publisher.repository, role.signed.targets, path, msgspec.json.encode(delta))
    publisher.sign_again(current, "publisher-acme")


def swapped(delta: PackageDelta) -> PackageDelta:
    """Payloads of other frames: they decode, into something else."""
    return msgspec.structs.replace(delta, frames=tuple(reversed(delta.frames)))


def outside(delta: PackageDelta) -> PackageDelta:
    """A payload that is longer than its part."""
    frames = list(delta.frames)
    number = next(number for number, frame in enumerate(frames) if frame.size)
    wrong = msgspec.structs.replace(frames[number], offset=delta.parts[frames[number].part].size)
    frames[number] = wrong
    return msgspec.structs.replace(delta, frames=tuple(frames))


def half(delta: PackageDelta) -> PackageDelta:
    """Frames for half of the image."""
    return msgspec.structs.replace(delta, frames=delta.frames[: len(delta.frames) // 2])


def of_another(delta: PackageDelta) -> PackageDelta:
    """It says that it makes something else."""
    return msgspec.structs.replace(delta, digest="0" * 64)


def in_one_large(delta: PackageDelta) -> PackageDelta:
    """One part that is less than the full download, and nothing in it is of use."""
    frames = tuple(Frame(frame.segments, 0, 0, 99) for frame in delta.frames)
    return msgspec.structs.replace(delta, frames=frames, parts=(Part(400_000, "ab" * 32),))


@pytest.mark.parametrize("change", [swapped, outside, half, of_another, in_one_large])
def test_a_signed_delta_that_makes_no_sense_costs_little(
    publisher: PackagePublisher,
    device: Device,
    new: bytes,
    change: Callable[[PackageDelta], PackageDelta],
) -> None:
    signed_again(publisher, device, change(read(publisher)))
    device.update(new)


def test_a_delta_that_another_publisher_signed_is_not_looked_at(
    publisher: PackagePublisher, device: Device, new: bytes
) -> None:
    """The repository of before has no room for deltas in acme's role; base signs everything."""
    current = metadata.load(publisher.repository)
    roles = current.targets.signed.delegations
    assert roles is not None
    assert roles.roles is not None
    acme = roles.roles["publisher-acme"]
    acme.paths = [path for path in acme.paths or () if path.endswith("releases.json")]
    path = package_delta_target(NAME, device.new.digest, device.old.digest)
    targets = current.delegated["publisher-acme"].signed.targets
    current.delegated.setdefault(
        "publisher-base", copy.deepcopy(current.delegated["publisher-acme"])
    )
    base = current.delegated["publisher-base"]
    base.signed.targets = {path: targets.pop(path)}
    publisher.sign_again(current, "targets", "publisher-acme", "publisher-base")
    with device.repository() as repository:
        repository.refresh()
        assert repository.target(path) is not None
    parcels = device.parcels(device.new)
    assert (parcels.fetch_bytes, parcels.notes) == (parcels.full_bytes, ())
    assert device.update(new).from_version == ""


def test_a_cut_download_keeps_what_the_delta_has_made(
    publisher: PackagePublisher, device: Device, new: bytes
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


def test_power_cut_before_every_durable_step_of_a_delta(device: Device, new: bytes) -> None:
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


def test_the_way_is_chosen_by_signed_sizes(device: Device) -> None:
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


def test_what_is_in_the_store_needs_no_delta(device: Device, new: bytes) -> None:
    device.update(new)
    parcels = device.parcels(device.new)
    assert (parcels.missing, parcels.fetch_bytes, len(parcels.all)) == ((), 0, 1)
    assert device.take(parcels.all[0]).fetched == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 2}, "its format is 2"),
        ({"from_digest": "00"}, "between other images"),
        ({"frames": [{"segments": 1}]}, "its frames have 1 segments"),
        ({"parts": [{"size": 1 << 30, "sha256": "00" * 32}]}, "a part of"),
        ({"parts": []}, "there is no part 0"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_a_document_with_wrong_numbers_is_not_used(
    publisher: PackagePublisher, device: Device, change: dict[str, object], expected: str
) -> None:
    good = msgspec.to_builtins(read(publisher))
    wrong = msgspec.json.encode({**good, **change})
    with pytest.raises(ManifestError, match="it is signed and not valid") as caught:
        decode_delta(wrong, device.new, device.old.digest)
    assert expected in str(caught.value.details)
