"""Two published versions, and a device that runs the first: what tests of updates begin with."""

from __future__ import annotations

import copy
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from imager.repository import metadata
from imager.repository.targets import add_target
from recovery.generations import Generation
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage, build_image, content
from tests.updater.publisher import Publisher
from updater.install import Installed


def edited(data: bytes, seed: str, edits: int = 12) -> bytes:
    """The same data with a few bytes changed in a few places."""
    found, dice = bytearray(data), random.Random(seed)
    for _ in range(edits):
        at = dice.randrange(len(data) - 64)
        found[at : at + 24] = dice.randbytes(24)
    return bytes(found)


def two_images(base: Path, size: int) -> tuple[BuiltImage, BuiltImage]:
    """Versions 1.0 and 2.0, which is a little different; size: bytes of their root's data."""
    old = build_image(
        base / "build-1.0", "1.0", data=content("root", size), boot=content("boot", 99_001)
    )
    new = build_image(
        base / "build-2.0",
        "2.0",
        data=edited(old.root[: old.index.root.hash_offset], "root"),
        boot=edited(old.boot, "boot"),
    )
    return old, new


@dataclass(frozen=True)
class Published:
    """A repository with two versions."""

    publisher: Publisher
    old: BuiltImage
    new: BuiltImage

    def copied(self, base: Path) -> Publisher:
        """A publisher of its own with the same repository."""
        shutil.copytree(self.publisher.base, base)
        found = copy.copy(self.publisher)
        found.base = base
        found.repository = base / "repository"
        found.anchor = base / "root.json"
        return found


def running(device: FileDevice, image: BuiltImage) -> FileDevice:
    """The device, running that image from slot a."""
    slot = device.device.slots["a"]
    slot.write_bytes(image.root.ljust(device.slot_size, b"\1"))
    device.device.boot_artifact("a").write_bytes(image.boot)
    generation = device.store.generations.load(1)
    assert generation is not None
    (device.store.generations.directory / "1.json").unlink()
    device.store.generations.write(
        Generation(
            1, "a", generation.system, generation.version, image.index.root.root_hash, None, 0,
            "factory", "imager",
        )
    )  # fmt: skip
    return device


def full_size(image: BuiltImage) -> int:
    """Bytes of all chunks of an image."""
    return image.index.root.stream.stored_size + image.index.boot.stream.stored_size


def updated(device: FileDevice, image: BuiltImage) -> Installed:
    """Updates the device, which must then have the image on trial."""
    outcome = device.update()
    assert outcome.installed is not None
    device.assert_on_trial(image.root, image.boot, "2.0")
    return outcome.installed


def damage(path: Path) -> None:
    """Changes a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def lose_data(device: FileDevice, size: int, step: int) -> None:
    """Changes the first byte of every step of the running slot's first size bytes."""
    slot = device.device.slots["a"]
    data = bytearray(slot.read_bytes())
    for at in range(0, size, step):
        data[at] ^= 1
    slot.write_bytes(data)


def no_base(_: Publisher, device: FileDevice) -> None:
    """The running slot cannot be opened."""
    slots = {**device.device.slots, "a": device.root / "missing"}
    device.device = replace(device.device, slots=slots)


def sign_target(publisher: Publisher, path: str, data: bytes) -> None:
    """Puts other bytes in the place of a target of the role os, properly signed."""
    current = metadata.load(publisher.repository)
    role = current.os
    add_target(publisher.repository, role.signed.targets, path, data)
    role.signed.version = current.next_version("os")
    metadata.sign(role, publisher.keys.signers("os"))
    metadata.save_numbered(publisher.repository, "os", role)
    metadata.commit(
        publisher.repository,
        current,
        periods=metadata.load_config(publisher.repository),
        now=publisher.now,
        snapshot_signers=publisher.keys.signers("snapshot"),
        timestamp_signers=publisher.keys.signers("timestamp"),
    )
