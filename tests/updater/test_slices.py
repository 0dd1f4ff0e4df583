"""Updates by slices: without a delta, what the running image has is not fetched."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache
from imager.cutting import STEP
from imager.repository.deltas import DeltaMaker
from manifests.slices import LARGEST_SLICE, SliceMap, slices_target
from recovery.errors import RefusedError
from recovery.reporter import SilentReporter
from tests.updater import images
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage, build_image, content
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import Publisher
from tests.updater.versions import (
    Published,
    damage,
    edited,
    full_size,
    lose_data,
    no_base,
    running,
    sign_target,
    updated,
)
from tests.updater.webserver import WebServer
from updater import journal
from updater.budget import Budget
from updater.update import Request, update

SIZE = 8 << 20
SEGMENT = 512 << 10
MOVED = 3 * 4096
CHANGED = 5
"""Places of the new image that the old one does not have."""


def moved(data: bytes) -> bytes:
    """The data behind something new, with a few places changed; of the same size."""
    shifted = content("new", MOVED) + data[: len(data) - MOVED]
    return edited(shifted, "moved", CHANGED)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Versions 1.0 and 2.0, which is made of the same blocks elsewhere, without a delta."""
    base = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "SEGMENT", SEGMENT)
        publisher = Publisher(base / "publisher")
        old = build_image(
            base / "build-1.0", "1.0", data=content("root", SIZE), boot=content("boot", 199_001)
        )
        new = build_image(
            base / "build-2.0", "2.0", data=moved(old.root[:SIZE]), boot=moved(old.boot)
        )
        for image in (old, new):
            publisher.publish(image, deltas=DeltaMaker(Cache(base / "cache"), last=0))
        yield Published(publisher, old, new)


@pytest.fixture
def publisher(published: Published, tmp_path: Path) -> Publisher:
    """The repository, a copy for each test to damage."""
    return published.copied(tmp_path / "publisher")


@pytest.fixture
def old(published: Published) -> BuiltImage:
    """Version 1.0."""
    return published.old


@pytest.fixture
def new(published: Published) -> BuiltImage:
    """Version 2.0."""
    return published.new


@pytest.fixture
def device(tmp_path: Path, publisher: Publisher, old: BuiltImage) -> FileDevice:
    """A device that runs 1.0."""
    source = str(publisher.repository)
    return running(
        FileDevice(tmp_path / "device", publisher.anchor, source=source, slot_size=2 * SIZE), old
    )


def document(publisher: Publisher) -> Path:
    """The published map of 2.0."""
    (path,) = publisher.repository.glob("targets/**/2.0/*.slices.msgpack")
    return path


def slice_map(publisher: Publisher) -> SliceMap:
    """What it says."""
    return msgspec.msgpack.decode(document(publisher).read_bytes(), type=SliceMap)


def pack_files(publisher: Publisher) -> list[Path]:
    """The files with slices of 2.0."""
    names = [pack.sha256.hex() for pack in slice_map(publisher).packs]
    return [publisher.repository / "chunks" / name[:2] / name for name in names]


def test_an_update_fetches_what_the_running_image_does_not_have(
    device: FileDevice, new: BuiltImage
) -> None:
    offer = device.check()
    assert offer.plan is not None
    assert offer.plan.fetch_bytes == full_size(new)
    assert "the running image may have parts of it" in offer.notes[0]
    done = updated(device, new)
    assert done.way == "chunks"
    # Each change costs a slice of 64 KiB, which half of it is noise; what is new one more.
    assert done.fetched <= (CHANGED + 2) * 2 * 40_000
    assert done.copied > SIZE * 0.8
    assert (done.wasted, done.notes) == (0, ())


def test_slices_of_an_earlier_version_stay_in_its_packs(
    publisher: Publisher, new: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SEGMENT", SEGMENT)
    maker = DeltaMaker(Cache(publisher.base / "cache"), last=0)
    before = {path.name for path in pack_files(publisher)}
    next_one = build_image(
        publisher.base / "build-3.0", "3.0", data=edited(new.root[:SIZE], "3.0", 1), boot=new.boot
    )
    publisher.publish(next_one, deltas=maker)
    (path,) = publisher.repository.glob("targets/**/3.0/*.slices.msgpack")
    packs = msgspec.msgpack.decode(path.read_bytes(), type=SliceMap).packs
    (added,) = [pack for pack in packs if pack.sha256.hex() not in before]
    assert added.size < 70_000
    publisher.publish(new, deltas=maker)
    assert {path.name for path in pack_files(publisher)} == before


def no_map(publisher: Publisher, _: FileDevice) -> None:
    """The map is gone."""
    document(publisher).unlink()


def damaged_map(publisher: Publisher, _: FileDevice) -> None:
    """The map is not what was signed."""
    damage(document(publisher))


def no_packs(publisher: Publisher, _: FileDevice) -> None:
    """404 on every pack."""
    for path in pack_files(publisher):
        path.unlink()


def damaged_packs(publisher: Publisher, _: FileDevice) -> None:
    """Every pack has many wrong bytes."""
    for path in pack_files(publisher):
        data = bytearray(path.read_bytes())
        for at in range(5, len(data), 3000):
            data[at] ^= 1
        path.write_bytes(data)


def short_packs(publisher: Publisher, _: FileDevice) -> None:
    """Every pack ends early."""
    for path in pack_files(publisher):
        path.write_bytes(path.read_bytes()[:-30_000])


def rotten_base(_: Publisher, device: FileDevice) -> None:
    """The running slot has lost much of its data, and nothing noticed."""
    lose_data(device, SIZE, 32768)


@pytest.mark.parametrize(
    "fault",
    [no_map, damaged_map, no_packs, damaged_packs, short_packs, rotten_base, no_base],
)
def test_whatever_is_wrong_the_update_completes_at_a_bounded_cost(
    publisher: Publisher,
    device: FileDevice,
    new: BuiltImage,
    fault: Callable[[Publisher, FileDevice], None],
) -> None:
    fault(publisher, device)
    done = updated(device, new)
    assert done.fetched <= done.full * 1.02


def test_a_block_that_rots_after_the_look_costs_its_slice(
    device: FileDevice, new: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = device.check()
    assert undisturbed.plan is not None
    read = os.pread
    looked = set()

    def rotten(fd: int, size: int, offset: int) -> bytes:
        data = read(fd, size, offset)
        if Path(f"/proc/self/fd/{fd}").readlink().name == "root-a":
            if offset in looked or size <= LARGEST_SLICE:
                return bytes(len(data)) if offset <= SIZE // 2 < offset + size else data
            looked.add(offset)
        return data

    monkeypatch.setattr(os, "pread", rotten)
    done = updated(device, new)
    assert (done.way, done.wasted) == ("chunks", 0)
    assert done.copied > SIZE * 0.8


def test_a_block_that_cannot_be_read_costs_what_is_around_it(
    device: FileDevice, new: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.pread

    def failing(fd: int, size: int, offset: int) -> bytes:
        if (
            Path(f"/proc/self/fd/{fd}").readlink().name == "root-a"
            and offset <= SIZE // 2 < offset + size
        ):
            raise OSError(5, "Input/output error")
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    done = updated(device, new)
    assert done.way == "chunks"
    assert done.copied > SIZE * 0.7


def test_an_unrelated_image_is_fetched_in_full(
    publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    running(device, build_image(publisher.base / "x", "1.0", data=content("other", SIZE)))
    done = updated(device, new)
    assert (done.way, done.fetched) == ("full", full_size(new))


def answers(web: WebServer) -> list[list[str]]:
    """Path, status and bytes of every answer with a map or a chunk."""
    lines = (web.base / "access.log").read_text().splitlines()
    return [line.split() for line in lines if "/chunks/" in line or ".slices." in line]


def sent(web: WebServer) -> int:
    """Bytes of map and packs that came over the network."""
    return sum(int(size) for _, _, size in answers(web))


def test_packs_from_a_web_server_are_fetched_in_ranges(
    device: FileDevice, new: BuiltImage, web: WebServer
) -> None:
    device.source = web.url
    done = updated(device, new)
    assert done.way == "chunks"
    assert sent(web) == done.fetched
    assert len(answers(web)) <= 2 * (CHANGED + 4)


def test_a_server_without_ranges_costs_no_more_than_the_whole_image(
    tmp_path: Path, publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    with WebServer(publisher.repository, tmp_path / "plain", "max_ranges 0;") as web:
        device.source = web.url
        done = updated(device, new)
        assert sent(web) == done.fetched
    assert done.way == "chunks"
    assert done.copied > SIZE / 4
    assert done.fetched < full_size(new) * 0.8


def test_the_budget_counts_ranges(device: FileDevice, new: BuiltImage, web: WebServer) -> None:
    def request(limit: int) -> Request:
        return Request(web.url, None, "tester", Budget(per_update=limit))

    with pytest.raises(RefusedError, match="budget"):
        update(device.device, request(20_000), SilentReporter(), now=lambda: device.clock)
    outcome = update(
        device.device, request(full_size(new) // 2), SilentReporter(), now=lambda: device.clock
    )
    assert outcome.installed is not None and outcome.installed.way == "chunks"
    device.assert_on_trial(new.root, new.boot, "2.0")


def test_power_cut_before_every_flush(
    tmp_path: Path, publisher: Publisher, old: BuiltImage, new: BuiltImage
) -> None:
    def fresh(name: str) -> FileDevice:
        source = str(publisher.repository)
        device = FileDevice(tmp_path / name, publisher.anchor, source=source, slot_size=2 * SIZE)
        return running(device, old)

    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        undisturbed = fresh("device").update().installed
    assert undisturbed is not None
    flushes = [step for step in power.steps if step.startswith("fsync root-b")]
    assert flushes
    for number in {0, len(flushes) // 2, len(flushes) - 1}:
        device = fresh(f"device-{number}")
        cut = Power(flushes[number], (device.device.slots["b"],))
        with pytest.MonkeyPatch.context() as patch:
            cut.install(patch)
            try:
                device.update()
            except PowerCut:
                pass
            else:
                continue  # One flush took in what were two.
        cut.lose_unsynced()
        device.boot_id = "boot-2"
        done = updated(device, new)
        assert done.fetched <= undisturbed.fetched
        assert (done.kept > 0) == (number > 0)


def test_what_an_interrupted_update_saved_may_be_risked_for_the_rest(
    publisher: Publisher, device: FileDevice, new: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SEGMENT", SEGMENT)
    data = bytearray(new.root[:SIZE])
    for at in range(0, 5 * STEP, STEP):
        data[at] ^= 1
    third = build_image(publisher.base / "3.0", "3.0", data=bytes(data), boot=new.boot)
    publisher.publish(third, deltas=DeltaMaker(Cache(publisher.base / "cache"), last=0))
    running(device, new)
    # The power was cut before the last segment, the one that costs most.
    device.device.slots["b"].write_bytes(bytes(SEGMENT) + third.root[SEGMENT:])
    index = hashlib.sha256((third.directory / "index.json").read_bytes()).hexdigest()
    journal.save(device.store.root, journal.Journal(index, "b", "3.0"))
    done = device.update().installed
    assert done is not None
    device.assert_on_trial(third.root, third.boot, "3.0")
    assert (done.way, done.notes) == ("chunks", ())
    assert done.kept >= SIZE - SEGMENT
    assert done.full * 0.02 < done.fetched < third.index.root.stream.segments[0].stored_size


def signed_again(publisher: Publisher, change: Callable[[SliceMap], SliceMap]) -> None:
    """Publishes the map with a change, properly signed."""
    data = msgspec.msgpack.encode(change(slice_map(publisher)))
    sign_target(publisher, slices_target("gateway", "testboard", "2.0"), data)


def change_root(found: SliceMap, **changes: object) -> SliceMap:
    """The map with other lists for the root."""
    return msgspec.structs.replace(found, root=msgspec.structs.replace(found.root, **changes))


def other_digests(found: SliceMap) -> SliceMap:
    """Slices that are in the base, at wrong places of the new image."""
    root = found.root
    return change_root(
        found,
        digests=root.digests[-8:] + root.digests[:-8],
        probes=root.probes[-4:] + root.probes[:-4],
    )


def garbage(found: SliceMap) -> SliceMap:
    """Digests and places without sense."""
    dice = random.Random(7)
    return change_root(found, digests=dice.randbytes(len(found.root.digests)))


def too_large(found: SliceMap) -> SliceMap:
    """A map that costs more than it may."""
    return msgspec.structs.replace(found, packs=found.packs * 1000)


@pytest.mark.parametrize("change", [other_digests, garbage, too_large])
def test_a_signed_map_that_lies_costs_little(
    publisher: Publisher,
    device: FileDevice,
    new: BuiltImage,
    change: Callable[[SliceMap], SliceMap],
) -> None:
    signed_again(publisher, change)
    done = updated(device, new)
    assert done.fetched <= done.full * 1.02
