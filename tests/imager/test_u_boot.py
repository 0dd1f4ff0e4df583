"""U-Boot: what the factory writes, and a slot's boot artifact, as bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from imager.firmware.choose import firmware_of
from imager.firmware.kind import Factory, Ingredients
from imager.firmware.u_boot import UBootFirmware, arguments_script, boot_script
from imager.layout import plan_layout, sfdisk_script
from imager.signing import PeSigner, load_pe_signer
from imager.tools import Tools
from manifests.board import Board
from manifests.catalogue import find, load_board
from recovery.artifacts.check import check
from recovery.artifacts.content import Artifact, Checked, DamageError
from recovery.bootcontrol.recorded import GOOD, Record, Recorded
from recovery.bootcontrol.uboot import UbootEnvironment
from recovery.device import DeviceConfig
from recovery.errors import ManifestError

BOARDS = ("qemu-aarch64-uboot", "qemu-riscv64", "qemu-armhf")
LINE = 'orbital.roothash=ab panic=-1 console=ttyS0 dyndbg="+p;$x"'


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> Board:
    return load_board(find("board", request.param))


@pytest.fixture
def arm() -> Board:
    return load_board(find("board", BOARDS[0]))


@pytest.fixture
def signer(keys: Path, tools: Tools) -> PeSigner:
    return load_pe_signer(keys, tools, time=0)


@pytest.fixture
def ingredients(arm: Board, tmp_path: Path) -> Ingredients:
    linux, initramfs, tree = tmp_path / "linux", tmp_path / "initramfs", tmp_path / "own.dtb"
    linux.write_bytes(b"kernel")
    initramfs.write_bytes(b"files")
    tree.write_bytes(b"\xd0\x0d\xfe\xed")
    return Ingredients(arm, linux, initramfs, LINE, b"", "6.12", 1_735_689_600)


def _listing(fit: Path, tools: Tools) -> str:
    return tools.run("dumpimage", "-l", fit).stdout


def test_the_boards_have_this_firmware(board: Board) -> None:
    assert firmware_of(board).artifact_kind == "fit"


def test_every_place_of_the_template_is_filled_in(board: Board) -> None:
    script = boot_script(board)
    assert "@" not in script
    assert "#" not in script.replace("#slot", "")
    u_boot = board.u_boot
    assert u_boot is not None
    assert f"{u_boot.interface} dev {u_boot.device}\n" in script
    assert "part start virtio 0 environment orbital_start0\n" in script
    artifact = u_boot.artifact_address.removeprefix("0x")
    assert f"bootm {artifact}#slot {artifact}#slot ${{fdtcontroladdr}}\n" in script


def test_the_script_arms_the_watchdog_before_it_writes_or_loads(arm: Board) -> None:
    script = boot_script(arm)
    armed = script.index("watchdog armed")
    assert armed < min(script.index("virtio write"), script.index("bootm"))
    assert arm.u_boot is not None
    for command in arm.u_boot.watchdog_commands:
        assert command in script


def test_the_watchdog_gets_the_boards_time(arm: Board) -> None:
    """Two stages, each half of it; the register counts in 1/1024 s."""
    assert arm.watchdog is not None and arm.u_boot is not None
    ticks = f"{arm.watchdog.timeout_seconds * 1024 // 2:x}"
    loaded = [line.split()[2] for line in arm.u_boot.watchdog_commands if line.startswith("mw.l")]
    assert loaded == [ticks, ticks]


def test_a_board_that_arms_nothing_has_no_commands_for_it(arm: Board) -> None:
    assert arm.watchdog is not None
    quiet = msgspec.structs.replace(arm.watchdog, boot_stage="none")
    assert "pci" not in boot_script(msgspec.structs.replace(arm, watchdog=quiet))


def test_a_device_tree_in_the_fit_takes_the_place_of_the_firmwares(
    arm: Board, ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    kernel = msgspec.structs.replace(arm.kernel, device_tree="maker/board.dtb")
    own = msgspec.structs.replace(arm, kernel=kernel)
    assert "fdtcontroladdr" not in boot_script(own)
    made = replace(ingredients, board=own, device_tree=tmp_path / "own.dtb")
    UBootFirmware().build_artifact(made, tmp_path / "fit", signer, tools)
    listing = _listing(tmp_path / "fit", tools)
    assert "Flat Device Tree" in listing
    assert "FDT:          fdt" in listing
    assert listing.count("sha256") == 4


def test_every_part_of_the_artifact_has_a_hash(
    ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    UBootFirmware().build_artifact(ingredients, tmp_path / "fit", signer, tools)
    listing = _listing(tmp_path / "fit", tools)
    for name in ("kernel", "ramdisk", "arguments"):
        assert f"({name})" in listing
    assert listing.count("sha256") == 3
    assert "Load Address: 0x40400000" in listing


def test_rescue_finds_damage_in_an_artifact(
    arm: Board, ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    kernel = msgspec.structs.replace(arm.kernel, device_tree="maker/board.dtb")
    own = replace(ingredients, board=msgspec.structs.replace(arm, kernel=kernel))
    tree = replace(own, device_tree=tmp_path / "own.dtb")
    packed = replace(tree, packed=True)
    for name, made in (("plain", ingredients), ("tree", tree), ("packed", packed)):
        UBootFirmware().build_artifact(made, tmp_path / name, signer, tools)
        data = (tmp_path / name).read_bytes()
        assert check("fit", Artifact.of(data + bytes(4096))) == Checked(len(data))
        for at in (0, 4, data.index(b"orbital.roothash"), data.index(b"files")):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(DamageError):
                check("fit", Artifact.of(changed))


def test_the_same_inputs_give_the_same_bytes(
    ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    made = []
    for name in ("first", "second"):
        UBootFirmware().build_artifact(ingredients, tmp_path / f"{name}.fit", signer, tools)
        (tmp_path / name).mkdir()
        UBootFirmware().build_loader(ingredients.board, tmp_path / name, signer, tools)
        script = (tmp_path / name / "boot.scr").read_bytes()
        made.append(((tmp_path / f"{name}.fit").read_bytes(), script))
    assert made[0] == made[1]


def test_a_compressed_kernel_is_unpacked(
    ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    import gzip

    UBootFirmware().build_artifact(ingredients, tmp_path / "plain", signer, tools)
    ingredients.linux.write_bytes(gzip.compress(b"kernel"))
    UBootFirmware().build_artifact(ingredients, tmp_path / "packed", signer, tools)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "packed").read_bytes()


def test_the_command_line_is_quoted_for_u_boots_shell() -> None:
    assert arguments_script(LINE) == f"setenv bootargs '{LINE}'\n".encode()
    for argument in ("a='b'", "a=b\\"):
        with pytest.raises(ManifestError, match="a quote or a backslash"):
            arguments_script(argument)


def test_the_factorys_record_is_what_linux_reads(
    arm: Board, ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    build = tmp_path / "build"
    (build / "loader").mkdir(parents=True)
    UBootFirmware().build_loader(arm, build / "loader", signer, tools)
    UBootFirmware().build_artifact(ingredients, build / "boot.img", signer, tools)
    config = DeviceConfig(
        system="s", version="1", board=arm.board, architecture=arm.architecture, built=0,
        boot_control="u-boot", boot_partition="firmware", state="state", slots={},
    )  # fmt: skip
    factory = Factory(build, arm, plan_layout(arm), config, tmp_path)
    images = UBootFirmware().boot_partitions(factory, tools)
    assert set(images) == {"firmware", "environment", "boot-a"}
    store = UbootEnvironment(images["environment"])
    assert store.load() == Record(("a",), a=GOOD)
    state = Recorded(store, "a").slot_state("a")
    assert (state.bootable, state.successful) == (True, True)
    before = images["environment"].read_bytes()
    store.repair()
    assert images["environment"].read_bytes() == before
    script = tools.run("mtype", "-i", images["firmware"], "::/boot.scr").stdout
    assert "orbital_choice" in script
    assert UBootFirmware().boot_sector(factory) == b""


def test_u_boot_looks_at_the_firmware_partition_first(arm: Board) -> None:
    """Its type is the one of the two that U-Boot calls bootable (part_get_bootable)."""
    line = next(text for text in sfdisk_script(plan_layout(arm)).splitlines() if "firmware" in text)
    assert "type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b" in line


@pytest.mark.parametrize("name", ["scratch_address", "kernel_address"])
def test_memory_that_the_artifact_may_overwrite_is_refused(arm: Board, name: str) -> None:
    assert arm.u_boot is not None
    u_boot = msgspec.structs.replace(arm.u_boot, **{name: "0x50100000"})
    with pytest.raises(ManifestError, match=f"cannot use u_boot.{name}"):
        boot_script(msgspec.structs.replace(arm, u_boot=u_boot))


def test_a_board_without_u_boots_addresses_is_refused(arm: Board) -> None:
    with pytest.raises(ManifestError, match="it has no section u_boot"):
        boot_script(msgspec.structs.replace(arm, u_boot=None))


def test_an_architecture_without_fit_is_refused(
    ingredients: Ingredients, signer: PeSigner, tools: Tools, tmp_path: Path
) -> None:
    other = msgspec.structs.replace(ingredients.board, architecture="x86_64")
    with pytest.raises(ManifestError, match="cannot build a FIT for x86_64"):
        UBootFirmware().build_artifact(
            replace(ingredients, board=other), tmp_path / "fit", signer, tools
        )
