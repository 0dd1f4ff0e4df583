"""Updates by delta: as small as the change, and never worse than in full when anything is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache
from imager.repository.deltas import DeltaMaker
from manifests.delta import Delta
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage, build_image, content
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import Publisher
from tests.updater.versions import (
    Published,
    damage,
    full_size,
    lose_data,
    no_base,
    running,
    sign_target,
    two_images,
    updated,
)
from tests.updater.webserver import WebServer

SIZE = 4 << 20


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Version 1.0; and 2.0, a little different, with a delta from 1.0."""
    base = tmp_path_factory.mktemp("published")
    publisher = Publisher(base / "publisher")
    old, new = two_images(base, SIZE)
    publisher.publish(old)
    publisher.publish(new, deltas=DeltaMaker(Cache(base / "cache"), workers=1))
    return Published(publisher, old, new)


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
    return running(
        FileDevice(
            tmp_path / "device", publisher.anchor, source=str(publisher.repository),
            slot_size=2 * SIZE,
        ),
        old,
    )  # fmt: skip


def document(publisher: Publisher) -> Path:
    """The published delta."""
    (path,) = publisher.repository.glob("targets/**/*.delta-*.json")
    return path


def parts(publisher: Publisher) -> list[Path]:
    """The files with payloads."""
    delta = msgspec.json.decode(document(publisher).read_bytes(), type=Delta)
    return [publisher.repository / "chunks" / part.sha256[:2] / part.sha256 for part in delta.parts]


def test_an_update_fetches_little_more_than_what_changed(
    publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    offer = device.check()
    assert offer.plan is not None
    assert [action.kind for action in offer.plan.actions][1] == "apply-delta"
    done = updated(device, new)
    assert done.full == full_size(new)
    assert done.fetched == offer.plan.fetch_bytes == sum(p.stat().st_size for p in parts(publisher))
    assert done.fetched < done.full / 100
    assert (done.wasted, done.notes) == (0, ())


def test_only_blocks_that_differ_are_written(device: FileDevice, new: BuiltImage) -> None:
    slot = device.device.slots["b"]
    nearly = bytearray(new.root)
    nearly[5 * 4096 + 9] ^= 1
    nearly[900 * 4096] ^= 1
    slot.write_bytes(bytes(nearly).ljust(device.slot_size, b"\2"))
    assert updated(device, new).written == 2 * 4096 + len(new.boot)


def no_document(publisher: Publisher, _: FileDevice) -> None:
    """The document is gone."""
    document(publisher).unlink()


def damaged_document(publisher: Publisher, _: FileDevice) -> None:
    """The document is not what was signed."""
    damage(document(publisher))


def no_parts(publisher: Publisher, _: FileDevice) -> None:
    """404 on every part."""
    for path in parts(publisher):
        path.unlink()


def damaged_parts(publisher: Publisher, _: FileDevice) -> None:
    """Every part has a wrong byte."""
    for path in parts(publisher):
        damage(path)


def short_parts(publisher: Publisher, _: FileDevice) -> None:
    """Every part is shorter than signed."""
    for path in parts(publisher):
        path.write_bytes(path.read_bytes()[:-1])


def damaged_base(_: Publisher, device: FileDevice) -> None:
    """The running slot has lost much of its data, and nothing noticed."""
    lose_data(device, SIZE, 8192)


@pytest.mark.parametrize(
    "fault",
    [no_document, damaged_document, no_parts, damaged_parts, short_parts, damaged_base, no_base],
)
def test_whatever_is_wrong_with_a_delta_the_update_completes_at_a_bounded_cost(
    publisher: Publisher,
    device: FileDevice,
    new: BuiltImage,
    fault: Callable[[Publisher, FileDevice], None],
) -> None:
    fault(publisher, device)
    done = updated(device, new)
    assert done.fetched <= done.full * 1.02
    assert done.wasted <= done.full * 0.02


def test_what_a_delta_cannot_make_comes_by_slices(
    publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    no_parts(publisher, device)
    done = updated(device, new)
    assert (done.way, done.wasted) == ("delta", 0)
    assert done.copied > SIZE / 2
    assert done.fetched < done.full / 3
    assert "no such file" in done.notes[0]


def test_without_slices_it_is_fetched_in_full(
    publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    no_parts(publisher, device)
    for path in publisher.repository.glob("targets/**/*.slices.msgpack"):
        path.unlink()
    done = updated(device, new)
    assert done.fetched == full_size(new)
    assert any("what the delta cannot make is fetched in full" in note for note in done.notes)


def test_one_bad_part_costs_only_what_it_would_have_made(
    publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    bad = parts(publisher)[0]
    size = bad.stat().st_size
    damage(bad)
    done = updated(device, new)
    assert done.wasted == size
    assert f"chunks/{bad.parent.name}/{bad.name} is damaged" in done.notes[0]


def test_a_base_that_cannot_be_read_in_places_costs_those_places(
    device: FileDevice, new: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.pread

    def failing(fd: int, size: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "root-a" and offset < 1 << 18:
            raise OSError(5, "Input/output error")
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    done = updated(device, new)
    assert any("the base image cannot be read: Input/output error" in n for n in done.notes)
    assert done.fetched < done.full / 2


def signed_again(publisher: Publisher, change: Callable[[Delta], Delta]) -> None:
    """Publishes the delta with a change, properly signed."""
    path = document(publisher)
    data = msgspec.json.encode(change(msgspec.json.decode(path.read_bytes(), type=Delta)))
    sign_target(publisher, f"os/gateway/testboard/2.0/{path.name.partition('.')[2]}", data)


def swapped(delta: Delta) -> Delta:
    """Payloads of other frames: they decode, into something else."""
    return msgspec.structs.replace(delta, root=tuple(reversed(delta.root)))


def outside(delta: Delta) -> Delta:
    """A payload that is longer than its part."""
    first = next(frame for frame in delta.root if frame.size)
    wrong = msgspec.structs.replace(first, offset=delta.parts[first.part].size)
    return msgspec.structs.replace(
        delta, root=tuple(wrong if frame is first else frame for frame in delta.root)
    )


def half(delta: Delta) -> Delta:
    """Frames for half of the image."""
    return msgspec.structs.replace(delta, root=delta.root[: len(delta.root) // 2])


@pytest.mark.parametrize("change", [swapped, outside, half])
def test_a_signed_delta_that_makes_no_sense_costs_little(
    publisher: Publisher,
    device: FileDevice,
    new: BuiltImage,
    change: Callable[[Delta], Delta],
) -> None:
    signed_again(publisher, change)
    done = updated(device, new)
    assert done.fetched <= done.full * 1.02


def test_power_cut_before_every_flush_of_a_delta(
    tmp_path: Path, publisher: Publisher, old: BuiltImage, new: BuiltImage
) -> None:
    def fresh(name: str) -> FileDevice:
        source = str(publisher.repository)
        device = FileDevice(tmp_path / name, publisher.anchor, source=source, slot_size=2 * SIZE)
        return running(device, old)

    undisturbed = fresh("device")
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        undisturbed.update()
    flushes = [step for step in power.steps if step.startswith("fsync root-b")]
    assert flushes
    for number, step in enumerate(flushes):
        device = fresh(f"device-{number}")
        cut = Power(step, (device.device.slots["b"],))
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
        assert done.fetched <= full_size(new) / 100
        assert (done.kept > 0) == (number > 0)


def test_a_delta_from_a_web_server_asks_for_each_part_once(
    publisher: Publisher, device: FileDevice, new: BuiltImage, web: WebServer
) -> None:
    device.source = web.url
    updated(device, new)
    asked = [path.rpartition("/")[2] for path in web.requests() if path.startswith("/chunks/")]
    assert sorted(asked) == sorted(path.name for path in parts(publisher))


def test_another_base_has_no_delta(
    publisher: Publisher, device: FileDevice, new: BuiltImage
) -> None:
    other = build_image(publisher.base / "build-x", "1.0", data=content("other", SIZE))
    running(device, other)
    done = updated(device, new)
    assert done.fetched == done.full == full_size(new)
