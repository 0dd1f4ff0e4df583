"""Whatever is wrong with a delta of a package: it arrives all the same, at a bounded cost."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from imager.repository import metadata
from imager.repository.targets import add_target
from manifests.delta import Frame, Part
from manifests.index import chunk_path
from manifests.package_delta import PackageDelta, package_delta_target
from recovery.errors import ManifestError
from tests.updater.packages.delta_device import (
    NAME,
    SEGMENT,
    SIZE,
    DeltaDevice,
    Published,
    document,
    parts,
    read,
)
from tests.updater.packages.repository import PackagePublisher
from tests.updater.versions import damage
from updater.packages.parcels import decode_delta


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


def no_document(device: DeltaDevice) -> None:
    """The document is gone."""
    document(device.publisher).unlink()


def damaged_document(device: DeltaDevice) -> None:
    """The document is not what was signed."""
    damage(document(device.publisher))


def no_parts(device: DeltaDevice) -> None:
    """404 on every part."""
    for path in parts(device.publisher):
        path.unlink()


def damaged_parts(device: DeltaDevice) -> None:
    """Every part has a wrong byte."""
    for path in parts(device.publisher):
        damage(path)


def short_parts(device: DeltaDevice) -> None:
    """Every part is shorter than signed."""
    for path in parts(device.publisher):
        path.write_bytes(path.read_bytes()[:-1])


def damaged_base(device: DeltaDevice) -> None:
    """The installed image has lost much of its data, and nothing noticed."""
    path = device.store / device.old.digest
    data = bytearray(path.read_bytes())
    for at in range(0, SIZE, 8192):
        data[at] ^= 1
    path.write_bytes(data)


def short_base(device: DeltaDevice) -> None:
    """The installed image has lost its second half."""
    os.truncate(device.store / device.old.digest, SIZE // 2)


def no_base(device: DeltaDevice) -> None:
    """The installed image is gone."""
    (device.store / device.old.digest).unlink()


def unreadable_base(device: DeltaDevice) -> None:
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
    device: DeltaDevice, new: bytes, fault: Callable[[DeltaDevice], None], note: str
) -> None:
    fault(device)
    done = device.update(new)
    assert bool(done.notes) == bool(note)
    assert not note or any(note in text for text in done.notes), done.notes


def test_blocks_of_the_base_that_verity_refuses_cost_what_they_would_have_made(
    device: DeltaDevice, new: bytes, monkeypatch: pytest.MonkeyPatch
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


def test_a_document_that_cannot_be_used_is_told(device: DeltaDevice) -> None:
    damaged_document(device)
    parcels = device.parcels(device.new)
    (note,) = parcels.notes
    assert note.startswith("acme-vpn: cannot ")
    assert note.endswith("it is fetched in full")
    assert parcels.fetch_bytes == parcels.full_bytes


def test_a_base_that_goes_between_plan_and_download(device: DeltaDevice, new: bytes) -> None:
    (parcel,) = device.parcels(device.new).all
    no_base(device)
    done = device.take(parcel)
    assert done.path.read_bytes() == new
    assert done.notes == ("the base image cannot be read: No such file or directory",)
    assert (done.fetched, done.from_version) == (done.full, "")


def signed_again(publisher: PackagePublisher, device: DeltaDevice, delta: PackageDelta) -> None:
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
    device: DeltaDevice,
    new: bytes,
    change: Callable[[PackageDelta], PackageDelta],
) -> None:
    signed_again(publisher, device, change(read(publisher)))
    device.update(new)


def test_many_signed_parts_of_which_none_is_of_use_cost_little(
    publisher: PackagePublisher, device: DeltaDevice, new: bytes
) -> None:
    """Each is what was signed and small enough to be tried: together they would not be."""
    size = int(device.new.stream.stored_size * 0.015)
    made = []
    for number in range(8):
        data = bytes([number]) * size
        path = publisher.repository / chunk_path(hashlib.sha256(data).hexdigest())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        made.append(Part(size, path.name))
    delta = read(publisher)
    frames = [Frame(1, number, 0, size) for number in range(8)]
    rest = len(device.new.stream.segments) - len(frames)
    useless = msgspec.structs.replace(delta, frames=(*frames, Frame(rest)), parts=tuple(made))
    signed_again(publisher, device, useless)
    done = device.update(new)
    assert done.wasted == size
    assert any("cannot be decoded" in note for note in done.notes)
    assert any("is not tried" in note for note in done.notes)


def test_a_delta_that_another_publisher_signed_is_not_looked_at(
    publisher: PackagePublisher, device: DeltaDevice, new: bytes
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
    publisher: PackagePublisher, device: DeltaDevice, change: dict[str, object], expected: str
) -> None:
    good = msgspec.to_builtins(read(publisher))
    wrong = msgspec.json.encode({**good, **change})
    with pytest.raises(ManifestError, match="it is signed and not valid") as caught:
        decode_delta(wrong, device.new, device.old.digest)
    assert expected in str(caught.value.details)
