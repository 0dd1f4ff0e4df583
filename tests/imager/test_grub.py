"""GRUB for BIOS: what the factory writes, and a slot's boot artifact, as bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from imager.firmware.grub import (
    SCRIPT,
    Grub,
    boot_cfg,
    embedded_configuration,
    placed_boot_code,
    placed_core,
)
from imager.firmware.kind import Factory, Ingredients
from imager.layout import plan_layout
from imager.signing import load_pe_signer
from imager.tools import Tools
from manifests.board import Board, Layout, Watchdog
from manifests.catalogue import find, load_board
from recovery.artifacts.check import check
from recovery.artifacts.content import Artifact, Checked, DamageError
from recovery.bootcontrol.grub import GrubEnvironment
from recovery.bootcontrol.recorded import Recorded
from recovery.device import DeviceConfig
from recovery.errors import ManifestError

LINE = "orbital.roothash=ab panic=-1 console=ttyS0 dyndbg=+p;$x"


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board(find("board", "qemu-x86_64-bios"))


@pytest.fixture(scope="module")
def factory(
    board: Board, tools: Tools, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Factory:
    """A build directory with a loader and an artifact of small files."""
    build = tmp_path_factory.mktemp("build")
    signer = load_pe_signer(keys, tools, time=0)
    (build / "loader").mkdir()
    Grub().build_loader(board, build / "loader", signer, tools)
    Grub().build_artifact(_ingredients(board, build), build / "boot.img", signer, tools)
    config = DeviceConfig(
        system="s", version="1", board=board.board, architecture=board.architecture, built=0,
        boot_control="grub", boot_partition="firmware", state="state", slots={},
    )  # fmt: skip
    work = tmp_path_factory.mktemp("work")
    return Factory(build, board, plan_layout(board), config, work)


def _ingredients(board: Board, directory: Path) -> Ingredients:
    linux, initramfs = directory / "linux", directory / "initramfs"
    linux.write_bytes(b"kernel")
    initramfs.write_bytes(b"files")
    return Ingredients(board, linux, initramfs, LINE, b"", "6.12", 1_735_689_600)


def _check_script(text: str, tools: Tools) -> int:
    return tools.run("grub-script-check", stdin=text, check=False).returncode


def test_grub_accepts_every_script(board: Board, tools: Tools) -> None:
    assert _check_script("if true; then", tools) != 0
    for text in (SCRIPT.read_text(), boot_cfg(LINE), embedded_configuration(board)):
        assert _check_script(text, tools) == 0


def test_the_same_board_and_kernel_give_the_same_bytes(
    board: Board, factory: Factory, tools: Tools, keys: Path, tmp_path: Path
) -> None:
    signer = load_pe_signer(keys, tools, time=1)
    Grub().build_loader(board, tmp_path, signer, tools)
    Grub().build_artifact(_ingredients(board, tmp_path), tmp_path / "again", signer, tools)
    for name in ("boot.img", "core.img"):
        assert (tmp_path / name).read_bytes() == (factory.loader / name).read_bytes()
    assert (tmp_path / "again").read_bytes() == factory.artifact.read_bytes()


def test_an_artifact_is_an_archive_of_what_the_slot_needs(factory: Factory) -> None:
    files = _members(factory.artifact.read_bytes())
    assert list(files) == ["boot.cfg", "initrd", "vmlinuz", "sha256"]
    assert (files["vmlinuz"], files["initrd"]) == (b"kernel", b"files")
    # Quoted: to GRUB the end of one argument would be a new command.
    assert b"linux16 /vmlinuz 'orbital.roothash=ab' " in files["boot.cfg"]
    assert b"'dyndbg=+p;$x'; then" in files["boot.cfg"]


def test_rescue_finds_damage_in_an_artifact(factory: Factory) -> None:
    data = factory.artifact.read_bytes()
    assert check("cpio", Artifact.of(data + bytes(4096))) == Checked(len(data))
    for at in (0, 60, data.index(b"orbital.roothash"), data.index(b"files"), data.index(b"kernel")):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(DamageError):
            check("cpio", Artifact.of(changed))


def _members(data: bytes) -> dict[str, bytes]:
    """Files of a newc archive (initramfs buffer format), read in the plainest way."""
    found: dict[str, bytes] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        size, length = (int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in (6, 11))
        name = data[at + 110 : at + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            return found
        start = -(-(at + 110 + length) // 4) * 4
        found[name] = data[start : start + size]
        at = -(-(start + size) // 4) * 4


@pytest.mark.parametrize("word", ['a="b"', "a='b'", "a\\b"])
def test_an_argument_that_grub_would_change_is_refused(word: str) -> None:
    with pytest.raises(ManifestError, match="GRUB cannot pass quotes or backslashes"):
        boot_cfg(f"ro {word}")


def test_a_command_line_that_grub_makes_too_long_is_refused() -> None:
    longest = "x" * (2047 - len("BOOT_IMAGE=/vmlinuz "))
    assert longest in boot_cfg(longest)
    with pytest.raises(ManifestError, match="cannot use a kernel command line of"):
        boot_cfg(longest + "x")


def test_the_first_sector_loads_the_core_image_and_that_the_rest_of_itself(
    factory: Factory, tools: Tools
) -> None:
    images = Grub().boot_partitions(factory, tools)
    extent = factory.layout.extent("firmware")
    first = extent.start // 512
    core = images["firmware"].read_bytes()
    assert len(core) % 512 == 0
    assert len(core) <= extent.size
    assert struct.unpack_from("<QHH", core, 500) == (first + 1, len(core) // 512 - 1, 0x820)
    # Nothing but the list differs from what grub-mkimage made.
    made = (factory.loader / "core.img").read_bytes()
    assert core[:500] == made[:500]
    assert core[512:] == made[512:].ljust(len(core) - 512, b"\0")
    code = Grub().boot_sector(factory)
    assert len(code) <= 440
    assert struct.unpack_from("<Q", code, 0x5C) == (first,)


def test_what_is_not_a_core_image_is_not_patched(factory: Factory) -> None:
    core = (factory.loader / "core.img").read_bytes()
    with pytest.raises(ValueError, match="not a core image"):
        placed_core(core[:-1024], 2048)
    moved = placed_boot_code((factory.loader / "boot.img").read_bytes(), 1 << 40)
    assert struct.unpack_from("<Q", moved, 0x5C) == (1 << 40,)


@pytest.mark.parametrize("lost", [None, 0, 65536])
def test_the_device_reads_the_factory_record_from_either_copy(
    factory: Factory, tools: Tools, lost: int | None
) -> None:
    images = Grub().boot_partitions(factory, tools)
    assert images["boot-a"] == factory.artifact
    assert "boot-b" not in images
    partition = images["environment"]
    if lost is not None:
        data = bytearray(partition.read_bytes())
        data[lost : lost + 512] = bytes(512)
        partition.write_bytes(data)
    control = Recorded(GrubEnvironment(partition), "a")
    assert control.active_slot() == "a"
    assert control.slot_state("a").successful
    assert not control.slot_state("b").bootable
    # GRUB's own program reads it too.
    if lost != 0:
        listed = tools.run("grub-editenv", partition, "list", check=False).stdout
        assert "orbital_order=a\n" in listed


def test_the_partition_table_calls_the_core_image_what_it_is(board: Board) -> None:
    types = {extent.partition.label: extent.type_uuid for extent in plan_layout(board).extents}
    # "Hah!IdontNeedEFI", the GUID of BIOS boot partitions.
    assert types["firmware"] == "21686148-6449-6e6f-744e-656564454649"
    assert types["root-a"] == types["root-b"]
    assert len(set(types.values())) == 5


def test_partition_numbers_follow_the_layout(board: Board) -> None:
    assert "set orbital_b=5\n" in embedded_configuration(board)
    parts = board.layout.partitions
    turned = msgspec.structs.replace(
        board, layout=Layout((parts[4], *parts[:4], *parts[5:])), console="tty0"
    )
    lines = embedded_configuration(turned).splitlines()
    assert {"set orbital_b=1", "set orbital_environment=3", "set orbital_rescue=4"} < set(lines)
    assert not any("serial" in line for line in lines)


def test_only_the_watchdog_that_the_script_knows_is_armed(board: Board) -> None:
    def configuration(watchdog: Watchdog | None) -> str:
        return embedded_configuration(msgspec.structs.replace(board, watchdog=watchdog))

    known = board.watchdog
    assert known is not None
    # 60 s in two stages of 1024 ticks a second.
    assert "set orbital_watchdog_ticks=0x7800\n" in configuration(known)
    for watchdog in (None, msgspec.structs.replace(known, boot_stage="none")):
        assert "set orbital_watchdog_ticks=\n" in configuration(watchdog)
    with pytest.raises(ManifestError, match="GRUB cannot arm the watchdog itco_wdt"):
        configuration(msgspec.structs.replace(known, driver="itco_wdt"))


def test_a_core_image_that_does_not_fit_is_refused(
    board: Board, tools: Tools, keys: Path, tmp_path: Path
) -> None:
    parts = board.layout.partitions
    # Not possible in a board file, whose sizes are whole MiB.
    small = msgspec.structs.replace(parts[0], size=64 << 10)
    shrunk = msgspec.structs.replace(board, layout=Layout((small, *parts[1:])))
    with pytest.raises(ManifestError, match="GRUB does not fit the partition firmware"):
        Grub().build_loader(shrunk, tmp_path, load_pe_signer(keys, tools, time=0), tools)


def test_the_smaller_boot_partition_limits_the_artifact(board: Board) -> None:
    assert Grub().room_for_artifact(board, 1 << 20) == 64 << 20
