"""The boot control environment: a real FAT, the loader's files, the loader's record."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from imager.firmware.grub_environment import factory_environment
from recovery import process
from recovery.bootcontrol import ubootenv
from recovery.bootcontrol.open import BOOT_DIRECTORY, open_in_rescue
from recovery.bootcontrol.recorded import GOOD, Record
from recovery.device import DeviceConfig
from recovery.errors import BootControlError
from recovery.fat import sectors_per_cluster
from recovery.rescue import bootenv
from recovery.rescue.bootenv import BootEnvironment, changed, fat_problems, repair_fat, restore
from tests.recovery.builders import CONFIG
from tests.recovery.loaders import make_esp
from tests.recovery.powercut import power_cut

LOADER = {
    "EFI/BOOT/BOOTX64.EFI": b"MZ systemd-boot" * 1000,
    "EFI/systemd/drivers/orbital-watchdogx64.efi": b"MZ watchdog",
    "loader/loader.conf": b"timeout 0\n",
}
GRUB = dataclasses.replace(
    CONFIG,
    boot_control="grub",
    boot_partition="",
    environment="environment",
    boot_slots={"a": "boot-a", "b": "boot-b"},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device with the copies that the rescue system carries, and its boot partition."""
    for name, data in LOADER.items():
        path = tmp_path / bootenv.LOADER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        there = tmp_path / BOOT_DIRECTORY / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(data)
    make_esp_into(tmp_path / BOOT_DIRECTORY)
    return tmp_path


def make_esp_into(directory: Path) -> None:
    """The entries of a factory device beside the loader's files."""
    made = make_esp(directory.parent / "made")
    for path in made.rglob("*"):
        if path.is_file():
            there = directory / path.relative_to(made)
            there.parent.mkdir(parents=True, exist_ok=True)
            path.rename(there)


def ignore(_text: str) -> None:
    """What is said does not matter."""


def test_what_is_whole_is_left_alone(root: Path) -> None:
    said: list[str] = []
    assert BootEnvironment(CONFIG, root).condition(said.append) == "whole"
    BootEnvironment(CONFIG, root).repair(said.append)
    assert said == []


@pytest.mark.parametrize("damage", ["changed", "gone", "folder gone"])
def test_a_loader_that_is_damaged_is_put_back(root: Path, damage: str) -> None:
    loader = root / BOOT_DIRECTORY / "EFI/BOOT/BOOTX64.EFI"
    if damage == "changed":
        loader.write_bytes(b"MZ systemd-root" * 1000)
    else:
        loader.unlink()
        if damage == "folder gone":
            loader.parent.rmdir()
    environment = BootEnvironment(CONFIG, root)
    assert environment.condition(ignore) == "damaged"
    environment.repair(ignore)
    assert environment.condition(ignore) == "whole"
    assert loader.read_bytes() == LOADER["EFI/BOOT/BOOTX64.EFI"]
    # Entries and artifacts are not ours to change here.
    assert open_in_rescue(CONFIG, root).slot_state("a").successful


def test_an_empty_partition_gets_its_loader_and_can_be_given_entries(root: Path) -> None:
    import shutil

    shutil.rmtree(root / BOOT_DIRECTORY)
    (root / BOOT_DIRECTORY).mkdir()
    BootEnvironment(CONFIG, root).repair(ignore)
    for name, data in LOADER.items():
        assert (root / BOOT_DIRECTORY / name).read_bytes() == data
    (root / BOOT_DIRECTORY / "EFI/orbital").mkdir()
    (root / BOOT_DIRECTORY / "EFI/orbital/b.efi").write_bytes(b"MZ")
    control = open_in_rescue(CONFIG, root)
    control.set_active("b", 3)
    assert control.active_slot() == "b"


def test_a_cut_while_files_are_put_back_leaves_whole_files(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cut in range(10):
        for name in LOADER:
            (root / BOOT_DIRECTORY / name).write_bytes(b"damaged")
        environment = BootEnvironment(CONFIG, root)
        with power_cut(monkeypatch, cut) as operations:
            environment.repair(ignore)
        for name, data in LOADER.items():
            assert (root / BOOT_DIRECTORY / name).read_bytes() in (b"damaged", data)
        environment.repair(ignore)
        assert environment.condition(ignore) == "whole"
        if not operations.happened:
            assert cut >= len(LOADER)
            return
    raise AssertionError("the repair never went through")


def test_no_slot_runs_in_the_rescue_system(root: Path) -> None:
    with pytest.raises(BootControlError, match="rescue system"):
        open_in_rescue(CONFIG, root).current_slot()


# A real FAT, without mounting it: this machine's kernel may have none.


@pytest.fixture
def fat(tmp_path: Path) -> Path:
    """A FAT with a file."""
    path = tmp_path / "esp.img"
    with path.open("wb") as out:
        out.truncate(64 << 20)
    process.run(["mkfs.vfat", "-F", "32", "-n", "ESP", path])
    (tmp_path / "a.efi").write_bytes(b"MZ" * 100_000)
    process.run(["mcopy", "-i", path, tmp_path / "a.efi", "::/a.efi"])
    return path


def test_a_whole_fat_is_not_written(fat: Path) -> None:
    before = fat.read_bytes()
    repair_fat(fat, "esp", ignore)
    assert fat.read_bytes() == before


def test_a_fat_whose_first_table_is_damaged_keeps_its_files(fat: Path) -> None:
    with fat.open("r+b") as file:
        file.seek(32 * 512 + 8)  # behind the reserved sectors: the first table
        file.write(bytes(504))
    assert fat_problems(fat)
    repair_fat(fat, "esp", ignore)
    assert not fat_problems(fat)


def test_a_new_fat_has_clusters_as_the_factory_makes_them(tmp_path: Path) -> None:
    size = 192 << 20
    path = tmp_path / "esp.img"
    with path.open("wb") as out:
        out.truncate(size)
    repair_fat(path, "esp", ignore)
    # Sectors per cluster: byte 13 of the boot sector (Microsoft, FAT specification, 3.1).
    with path.open("rb") as file:
        assert file.read(14)[13] == sectors_per_cluster(size) == 4


@pytest.mark.parametrize("size", [512, 1 << 20, 64 << 20])
def test_noise_becomes_a_new_empty_fat(fat: Path, size: int) -> None:
    with fat.open("r+b") as file:
        file.write(b"\xa5" * size)
    said: list[str] = []
    repair_fat(fat, "esp", said.append)
    assert not fat_problems(fat)
    assert process.run(["minfo", "-i", fat, "::"]).returncode == 0
    assert said


# Loaders in partitions.


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A device with GRUB: partitions firmware and environment as plain files."""
    for number, label in enumerate(("firmware", "environment"), start=1):
        folder = tmp_path / f"sys/class/block/vda{number}"
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"PARTNAME={label}\n")
    (tmp_path / "dev").mkdir()
    image = tmp_path / bootenv.LOADER / bootenv.FIRMWARE_IMAGE
    image.parent.mkdir(parents=True)
    image.write_bytes(bytes(range(256)) * 400)
    (tmp_path / "dev/vda1").write_bytes(image.read_bytes().ljust(1 << 20, b"\0"))
    (tmp_path / "dev/vda2").write_bytes(factory_environment().ljust(1 << 20, b"\0"))
    return tmp_path


def environment_of(raw: Path, config: DeviceConfig = GRUB) -> BootEnvironment:
    return BootEnvironment(config, raw)


def test_only_blocks_of_the_loader_that_differ_are_written(raw: Path) -> None:
    image = raw / bootenv.LOADER / bootenv.FIRMWARE_IMAGE
    partition = raw / "dev/vda1"
    with partition.open("r+b") as file:
        file.seek(5 * 4096 + 3)
        file.write(b"rot")
        file.seek(image.stat().st_size)
        file.write(b"behind the loader")
    assert [offset for offset, _ in changed(image, partition)] == [5 * 4096]
    assert environment_of(raw).condition(ignore) == "damaged"
    environment_of(raw).repair(ignore)
    assert environment_of(raw).condition(ignore) == "whole"
    data = partition.read_bytes()
    assert data.startswith(image.read_bytes() + b"behind the loader")
    restore(image, partition, ignore)
    assert partition.read_bytes() == data


U_BOOT = dataclasses.replace(GRUB, boot_control="u-boot")


@pytest.fixture(params=[12, 16, 32])
def scripted(raw: Path, request: pytest.FixtureRequest) -> Path:
    """A device with U-Boot, whose partition firmware is a FAT with the script."""
    image = raw / bootenv.LOADER / bootenv.FIRMWARE_IMAGE
    size = {12: 1 << 20, 16: 3 << 20, 32: 36 << 20}[request.param]
    with image.open("wb") as out:
        out.truncate(size)
    process.run(["mkfs.vfat", "-F", str(request.param), "-s", "1", "-n", "FIRMWARE", image])
    (raw / "boot.scr").write_bytes(bytes(range(251)) * 24)
    process.run(["mcopy", "-i", image, raw / "boot.scr", "::/boot.scr"])
    (raw / "dev/vda1").write_bytes(image.read_bytes() + bytes(4096))
    variables = ubootenv.with_record((), Record(("a",), a=GOOD))
    record = ubootenv.encode(ubootenv.Environment(1, variables))
    (raw / "dev/vda2").write_bytes(record.ljust(1 << 20, b"\0"))
    return raw


def test_files_that_u_boot_keeps_beside_its_script_are_no_damage(scripted: Path) -> None:
    (scripted / "variables").write_bytes(b"U-Boot's" * 40)
    partition, kept = scripted / "dev/vda1", scripted / "variables"
    process.run(["mcopy", "-i", partition, kept, "::/ubootefi.var"])
    image = scripted / bootenv.LOADER / bootenv.FIRMWARE_IMAGE
    assert list(changed(image, scripted / "dev/vda1"))
    before = (scripted / "dev/vda1").read_bytes()
    said: list[str] = []
    assert environment_of(scripted, U_BOOT).condition(said.append) == "whole"
    environment_of(scripted, U_BOOT).repair(said.append)
    assert said == []
    assert (scripted / "dev/vda1").read_bytes() == before


@pytest.mark.parametrize("damage", ["script", "gone", "boot sector", "first table", "noise"])
def test_a_script_that_u_boot_would_not_find_is_put_back(scripted: Path, damage: str) -> None:
    partition = scripted / "dev/vda1"
    data = bytearray(partition.read_bytes())
    match damage:
        case "script":
            data[data.index(bytes(range(200))) + 5000] ^= 1
        case "gone":
            data[data.index(b"BOOT    SCR")] = 0xE5
        case "boot sector":
            data[3] ^= 1
        case "first table":
            reserved = int.from_bytes(data[14:16], "little") * 512
            data[reserved : reserved + 512] = bytes(512)
        case _:
            data[: 1 << 19] = b"\xa5" * (1 << 19)
    partition.write_bytes(data)
    environment = environment_of(scripted, U_BOOT)
    said: list[str] = []
    assert environment.condition(said.append) == "damaged"
    assert "partition firmware" in said[0]
    environment.repair(ignore)
    assert environment.condition(ignore) == "whole"


def test_a_lost_record_is_made_again_with_nothing_that_starts(raw: Path) -> None:
    (raw / "dev/vda2").write_bytes(b"\xa5" * (1 << 20))
    assert environment_of(raw).condition(ignore) == "damaged"
    environment_of(raw).repair(ignore)
    assert environment_of(raw).condition(ignore) == "whole"
    control = open_in_rescue(GRUB, raw)
    assert control.active_slot() is None
    control.set_active("b", 3)
    assert control.active_slot() == "b" and not control.slot_state("a").bootable


def test_a_partition_that_is_gone_is_lost(raw: Path) -> None:
    (raw / "sys/class/block/vda2/uevent").write_text("PARTNAME=other\n")
    assert environment_of(raw).condition(ignore) == "lost"
