"""The state file system: real ext4 on loop devices, damaged, repaired, renewed, erased."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery import mounts, process
from recovery.device import RescuePolicy
from recovery.errors import StateError
from recovery.rescue.reset import erase, zero_rest
from recovery.rescue.statefs import StateFileSystem, has_magic
from tests.recovery.builders import CONFIG
from tests.recovery.test_early import can_mount

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")


class Disk:
    """A device whose state partition is the loop device; what is said is kept."""

    def __init__(self, root: Path, loop: str) -> None:
        self.root, self.loop = root, Path(loop)
        self.said: list[str] = []

    def state(self, policy: str = "renew") -> StateFileSystem:
        rescue = RescuePolicy(partition="rescue", state="keep" if policy == "keep" else "renew")
        return StateFileSystem(dataclasses.replace(CONFIG, rescue=rescue), self.root)

    def say(self, text: str) -> None:
        self.said.append(text)

    def write(self, offset: int, data: bytes) -> None:
        with self.loop.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        os.sync()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A state partition with one file."""
    image = tmp_path / "state.img"
    with image.open("wb") as out:
        out.truncate(32 << 20)
    process.run(["mkfs.ext4", "-q", "-b", "1024", image])
    loop = process.run(["losetup", "--find", "--show", image]).stdout.strip()
    name = Path(loop).name
    root = tmp_path / "root"
    (root / f"sys/class/block/{name}").mkdir(parents=True)
    (root / f"sys/class/block/{name}/uevent").write_text("PARTNAME=state\n")
    (root / "dev").mkdir()
    os.mknod(root / "dev" / name, 0o60600, os.stat(loop).st_rdev)  # noqa: PTH116
    made = Disk(root, loop)
    state = made.state()
    state.mount()
    (state.directory / "orbital/tuf").mkdir(parents=True)
    (state.directory / "orbital/tuf/seen.json").write_text('{"root": 7}\n')
    (state.directory / "secret").write_text("the secret of this device\n")
    state.unmount()
    try:
        yield made
    finally:
        if os.path.ismount(root / "state"):
            mounts.unmount(root / "state")
        process.run(["losetup", "--detach", loop])


def test_a_whole_file_system_is_left_alone(disk: Disk) -> None:
    state = disk.state()
    assert state.condition(disk.say) == "whole"
    assert not state.mounted and not disk.said
    state.mount()
    assert (state.directory / "secret").is_file()


def test_damage_that_e2fsck_can_repair_costs_no_data(disk: Disk) -> None:
    # The superblock: e2fsck takes a backup.
    disk.write(1024, bytes(1024))
    state = disk.state()
    assert state.condition(disk.say) == "damaged"
    state.repair(disk.say)
    assert state.mounted
    assert (state.directory / "secret").read_text().startswith("the secret")
    assert any("e2fsck" in line for line in disk.said)


def test_noise_becomes_a_new_file_system(disk: Disk) -> None:
    disk.write(0, os.urandom(32 << 20))
    state = disk.state()
    assert state.condition(disk.say) == "damaged"
    assert not has_magic(disk.loop)
    state.repair(disk.say)
    assert state.mounted and sorted(path.name for path in state.directory.iterdir()) == [
        "lost+found"
    ]
    features = process.run(["dumpe2fs", "-h", disk.loop]).stdout
    assert "verity" in features


def test_a_product_that_keeps_its_state_is_left_to_a_person(disk: Disk) -> None:
    disk.write(0, os.urandom(32 << 20))
    before = disk.loop.read_bytes()
    with pytest.raises(StateError, match="may not make a new one"):
        disk.state("keep").repair(disk.say)
    assert disk.loop.read_bytes() == before


def test_no_partition_is_no_damage_that_could_be_repaired(disk: Disk) -> None:
    for path in disk.root.glob("sys/class/block/*/uevent"):
        path.write_text("PARTNAME=other\n")
    assert disk.state().condition(disk.say) == "lost"


def test_erasing_leaves_nothing_but_what_keeps_old_repositories_out(disk: Disk) -> None:
    state = disk.state()
    erase(state, disk.say)
    assert state.mounted
    found = sorted(
        str(path.relative_to(state.directory))
        for path in state.directory.rglob("*")
        if path.is_file()
    )
    assert found == ["orbital/tuf/seen.json"]
    assert (state.directory / "orbital/tuf/seen.json").read_text() == '{"root": 7}\n'
    state.unmount()
    assert b"the secret of this device" not in disk.loop.read_bytes()
    assert any(line.startswith("erase: ") for line in disk.said)


def test_what_a_discard_leaves_is_overwritten(tmp_path: Path) -> None:
    """Disks discard whole blocks of theirs: the last sectors of a partition stay."""
    disk, size = tmp_path / "disk", (3 << 20) + 512
    content = bytearray(size)
    content[1 << 20 : 2 << 20] = b"\xff" * (1 << 20)
    content[8190:8194] = b"left"
    content[-6:] = b"secret"
    disk.write_bytes(content)
    assert zero_rest(disk) == 4096 + 4096 + 512
    found = disk.read_bytes()
    assert len(found) == size
    assert (found.count(0), found.count(0xFF)) == (size - (1 << 20), 1 << 20)
    assert zero_rest(disk) == 0


def test_erasing_noise_works_too(disk: Disk) -> None:
    disk.write(0, os.urandom(1 << 20))
    state = disk.state()
    erase(state, disk.say)
    assert state.mounted
