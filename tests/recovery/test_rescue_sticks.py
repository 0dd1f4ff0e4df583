"""Sticks: which disks are looked at, and repositories on a real one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery import mounts, process
from recovery.device import RescuePolicy
from recovery.rescue.sticks import DIRECTORY, candidates, repositories, repositories_in
from tests.recovery.builders import CONFIG
from tests.recovery.test_early import can_mount

RESCUED = dataclasses.replace(CONFIG, rescue=RescuePolicy(partition="rescue"))


def add(root: Path, name: str, *lines: str) -> None:
    """A block device."""
    folder = root / "sys/class/block" / name
    folder.mkdir(parents=True)
    (folder / "uevent").write_text("".join(f"{line}\n" for line in lines))


def test_the_device_s_own_partitions_are_no_sticks(tmp_path: Path) -> None:
    add(tmp_path, "vda", "DEVTYPE=disk")
    labels = ("esp", "root-a", "root-b", "state", "environment", "rescue", "firmware")
    for number, label in enumerate(labels, start=1):
        add(tmp_path, f"vda{number}", "DEVTYPE=partition", f"PARTNAME={label}")
    add(tmp_path, "sda", "DEVTYPE=disk")
    add(tmp_path, "sda1", "DEVTYPE=partition", "PARTNAME=Basic data")
    add(tmp_path, "sdb", "DEVTYPE=disk")
    add(tmp_path, "loop0", "DEVTYPE=disk")
    add(tmp_path, "dm-0", "DEVTYPE=disk")
    found = [path.name for path in candidates(RESCUED, tmp_path)]
    # A disk with partitions is looked at through them; one without is a stick itself.
    assert found == ["sda1", "sdb"]


def test_a_repository_is_found_at_the_top_or_one_level_below(tmp_path: Path) -> None:
    assert repositories_in(tmp_path) == []
    (tmp_path / "photos").mkdir()
    for name in ("gateway", "other"):
        (tmp_path / name / "metadata").mkdir(parents=True)
        (tmp_path / name / "metadata/timestamp.json").write_text("{}")
    assert repositories_in(tmp_path) == [tmp_path / "gateway", tmp_path / "other"]
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/timestamp.json").write_text("{}")
    assert repositories_in(tmp_path) == [tmp_path]


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Path]:
    """The root of a device with a stick, ext4 with a repository in a folder."""
    content = tmp_path / "content/product/metadata"
    content.mkdir(parents=True)
    (content / "timestamp.json").write_text("{}")
    image = tmp_path / "stick.img"
    with image.open("wb") as out:
        out.truncate(8 << 20)
    process.run(["mkfs.ext4", "-q", "-d", tmp_path / "content", image])
    loop = process.run(["losetup", "--find", "--show", image]).stdout.strip()
    root = tmp_path / "root"
    add(root, "sda1", "DEVTYPE=partition")
    (root / "dev").mkdir()
    os.mknod(root / "dev/sda1", 0o60600, os.stat(loop).st_rdev)  # noqa: PTH116
    try:
        yield root
    finally:
        if os.path.ismount(root / DIRECTORY / "sda1"):
            mounts.unmount(root / DIRECTORY / "sda1")
        process.run(["losetup", "--detach", loop])


@pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")
def test_a_stick_is_mounted_read_only_and_only_once(stick: Path) -> None:
    found = repositories(RESCUED, stick)
    assert found == (stick / DIRECTORY / "sda1/product",)
    assert repositories(RESCUED, stick) == found
    with pytest.raises(OSError, match="Read-only"):
        (found[0] / "new").write_text("")


@pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")
def test_a_stick_without_a_file_system_is_passed_over(stick: Path) -> None:
    with (stick / "dev/sda1").open("r+b") as file:
        file.write(bytes(8 << 20))
    assert repositories(RESCUED, stick) == ()
