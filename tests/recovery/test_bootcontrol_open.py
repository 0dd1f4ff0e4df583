"""Opening the boot control of a board: which slot runs, where the record is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.bootcontrol.open import BOOT_DIRECTORY, open_boot_control, verified_slot
from recovery.device import RescuePolicy, decode, encode
from recovery.early import loader_is_counting
from recovery.errors import BootControlError
from recovery.slots import BootControl
from tests.recovery.builders import CONFIG, counting
from tests.recovery.loaders import BENCHES, make_esp

TRYBOOT = dataclasses.replace(
    CONFIG,
    boot_control="tryboot",
    boot_partition="firmware",
    boot_slots={"a": "boot-a", "b": "boot-b"},
)


def fake_root(root: Path, slot: str, label: str) -> Path:
    """Enough of /proc, /sys and /run to tell which slot runs."""
    for folder in ("run/orbital", "proc/self", "sys/dev/block/253:0/slaves/vda3"):
        (root / folder).mkdir(parents=True)
    (root / "run/orbital/slot").write_text(f"{slot}\n")
    (root / "proc/cmdline").write_text("orbital.roothash=abcd quiet\n")
    (root / "proc/self/mountinfo").write_text(
        "20 1 253:0 / / ro - erofs /dev/mapper/root ro\n21 20 0:5 / /proc rw - proc proc rw\n"
    )
    (root / "sys/dev/block/253:0/slaves/vda3/uevent").write_text(f"PARTNAME={label}\n")
    make_esp(root / BOOT_DIRECTORY)
    return root


def test_the_running_slot_is_checked_against_the_disk(tmp_path: Path) -> None:
    root = fake_root(tmp_path, "b", "root-b")
    assert open_boot_control(CONFIG, root).current_slot() == "b"


def test_nothing_is_written_when_the_running_slot_is_in_doubt(tmp_path: Path) -> None:
    root = fake_root(tmp_path, "a", "root-b")
    with pytest.raises(BootControlError, match="cannot trust the running slot"):
        verified_slot(CONFIG, root)


def with_partitions(root: Path) -> Path:
    """The running slot b, and a disk with every partition that a board may have."""
    fake_root(root, "b", "root-b")
    (root / "dev").mkdir()
    for number, label in enumerate(("firmware", "boot-a", "boot-b", "environment"), 1):
        block = root / f"sys/class/block/mmcblk0p{number}"
        block.mkdir(parents=True)
        (block / "uevent").write_text(f"PARTN={number}\nPARTNAME={label}\n")
    return root


@pytest.mark.parametrize("kind", ["grub", "u-boot"])
def test_a_record_in_a_partition_is_found_by_its_label(kind: str, tmp_path: Path) -> None:
    root = with_partitions(tmp_path)
    environment = root / "dev/mmcblk0p4"
    (root / "bench").mkdir()
    BENCHES[kind](root / "bench")
    (root / "bench/environment").rename(environment)
    config = dataclasses.replace(CONFIG, boot_control=kind, environment="environment")
    control = open_boot_control(config, root)
    control.set_active("b", 2)
    assert open_boot_control(config, root).slot_state("b") == counting(2)
    assert control.current_slot() == "b"


def test_tryboot_is_opened_with_the_numbers_of_its_boot_partitions(tmp_path: Path) -> None:
    root = with_partitions(tmp_path)
    file = root / BOOT_DIRECTORY / "autoboot.txt"
    file.write_text("[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n")
    control = open_boot_control(TRYBOOT, root)
    assert control.active_slot() == "a"
    control.mark_successful("b")
    control.mark_unbootable("a")
    assert "[all]\ntryboot_a_b=1\nboot_partition=3\n" in file.read_text()


def test_tryboot_learns_the_number_of_the_rescue_system_where_there_is_one(tmp_path: Path) -> None:
    root = with_partitions(tmp_path)
    file = root / BOOT_DIRECTORY / "autoboot.txt"
    # The label of a partition that this device has, and of one that it does not.
    for label, named in (("environment", 4), ("rescue", 2)):
        file.write_text("[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n")
        there = dataclasses.replace(TRYBOOT, rescue=RescuePolicy(partition=label))
        control = open_boot_control(there, root)
        control.mark_unbootable("b")
        control.mark_unbootable("a")
        assert f"[all]\ntryboot_a_b=1\nboot_partition={named}\n" in file.read_text()


@pytest.mark.parametrize("kind", ["grub", "u-boot", "tryboot"])
def test_a_record_that_cannot_be_found_is_an_error(kind: str, tmp_path: Path) -> None:
    root = fake_root(tmp_path, "b", "root-b")
    (root / "sys/class/block").mkdir(parents=True)
    config = dataclasses.replace(CONFIG, boot_control=kind, environment="environment")
    with pytest.raises(BootControlError, match="cannot find the boot control's record"):
        open_boot_control(config, root)


def test_the_device_s_document_says_where_the_record_is() -> None:
    config = dataclasses.replace(
        CONFIG, environment="environment", boot_slots={"a": "boot-a", "b": "boot-b"}
    )
    assert decode(encode(config)) == config
    older = json.loads(encode(CONFIG))
    del older["environment"], older["boot_slots"]
    read = decode(json.dumps(older).encode())
    assert (read.environment, read.boot_slots) == ("", {})


@pytest.mark.parametrize(
    ("prepare", "counting_with_a_way_back"),
    [
        (lambda c: c.tidy(), False),
        (lambda c: c.set_active("b", 2), True),
        (lambda c: (c.set_active("b", 2), c.mark_unbootable("a")), False),
        (lambda c: (c.set_active("b", 2), c.mark_successful("b")), False),
    ],
)
def test_without_its_state_only_a_try_that_leads_back_ends(
    prepare: Callable[[BootControl], object], counting_with_a_way_back: bool, tmp_path: Path
) -> None:
    """Early boot ends such a boot, so one that leads nowhere else would end for ever."""
    root = with_partitions(tmp_path)
    (root / "bench").mkdir()
    BENCHES["grub"](root / "bench")
    (root / "bench/environment").rename(root / "dev/mmcblk0p4")
    config = dataclasses.replace(CONFIG, boot_control="grub", environment="environment")
    (root / "usr/lib/orbital").mkdir(parents=True)
    (root / "usr/lib/orbital/device.json").write_bytes(encode(config))
    prepare(open_boot_control(config, root))
    assert loader_is_counting(root) is counting_with_a_way_back


def test_an_unknown_loader_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, boot_control="lilo")
    with pytest.raises(BootControlError, match="lilo"):
        open_boot_control(config, tmp_path)
