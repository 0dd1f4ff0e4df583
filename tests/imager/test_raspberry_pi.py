"""What a Raspberry Pi's firmware finds on its card, read back with other programs."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache, default_directory
from imager.command_line import command_line, rescue_command_line
from imager.disk import build_factory_disk
from imager.elf import dependencies
from imager.firmware.choose import firmware_of
from imager.firmware.kind import Ingredients
from imager.firmware.raspberry_pi import partition_numbers, passes_tryboot
from imager.image import Workshop, build_image, read_index
from imager.initramfs import write_initramfs
from imager.kernel import prepare_kernel
from imager.repository.anchor import make_anchor, read_anchor
from imager.restart import build_restart
from imager.signing import PeSigner, load_pe_signer
from imager.tools import Tools
from imager.tree import Entry, Tree
from manifests.board import Board
from manifests.catalogue import find, load_board, load_product
from qemu import emulator
from recovery.bootcontrol import autoboot
from recovery.bootcontrol.recorded import GOOD, Record
from recovery.device import DeviceConfig, encode
from recovery.errors import ManifestError
from recovery.process import run
from recovery.reporter import SilentReporter
from recovery.slots import SLOTS, Slot
from tests.imager.debs import make_deb
from tests.recovery import loaders

BUILT = 1_735_689_600
# An ARM64 kernel that passes tryboot on, as far as the imager looks.
KERNEL = b"MZ\x00\xfa" + b"code " * 5000 + b"\0 tryboot\0" + b"data" * 3000
LINE = "orbital.roothash=" + "ab" * 32 + " orbital.slots=root-a,root-b console=ttyS0,115200 ro"

RESCUE_LINE = "orbital.rescue=1 console=ttyS0,115200 ro"


def pi(number: int = 4) -> Board:
    return load_board(find("board", f"raspberrypi-{number}"))


def changed(board: Board, **changes: object) -> Board:
    """The board with another section raspberry_pi."""
    assert board.raspberry_pi is not None
    section = msgspec.structs.replace(board.raspberry_pi, **changes)
    return msgspec.structs.replace(board, raspberry_pi=section)


def ingredients(directory: Path, board: Board, kernel: bytes = KERNEL) -> Ingredients:
    """Pieces of the right kinds; the firmware files are those that the board names."""
    directory.mkdir(exist_ok=True)
    names = board.raspberry_pi.files if board.raspberry_pi else ()
    tree = (board.kernel.device_tree or "").rpartition("/")[2]
    for name in ("vmlinuz", "initramfs", tree, *names):
        content = kernel if name == "vmlinuz" else f"the file {name}\n".encode() * 1000
        (directory / name).write_bytes(content)
    return Ingredients(
        board=board,
        linux=directory / "vmlinuz",
        initramfs=directory / "initramfs",
        command_line=LINE,
        os_release=b"ID=orbital\n",
        uname="6.12.0-test",
        built=BUILT,
        device_tree=directory / tree,
        firmware_files={name: directory / name for name in names},
    )


def read_fat(tools: Tools, image: Path, name: str, at: int = 0) -> bytes:
    """A file of a FAT that begins at that byte of the image, as mtools reads it."""
    target = image.parent / "read-back"
    tools.run("mcopy", "-n", "-o", "-i", f"{image}@@{at}", f"::/{name}", target)
    return target.read_bytes()


def names_in(tools: Tools, image: Path, at: int = 0) -> set[str]:
    listing = tools.run("mdir", "-b", "-i", f"{image}@@{at}", "::/").stdout
    return {line.removeprefix("::/") for line in listing.splitlines() if line}


@pytest.fixture(scope="session")
def signer(keys: Path, tools: Tools) -> PeSigner:
    return load_pe_signer(keys, tools, time=BUILT)


@pytest.fixture
def rescue_artifact(tmp_path: Path, signer: PeSigner, tools: Tools) -> Path:
    """That of its rescue system."""
    output = tmp_path / "rescue-artifact.img"
    pieces = dataclasses.replace(
        ingredients(tmp_path / "pieces", pi()), packed=True, command_line=RESCUE_LINE
    )
    firmware_of(pi()).build_artifact(pieces, output, signer, tools)
    return output


@pytest.fixture
def artifact(tmp_path: Path, signer: PeSigner, tools: Tools) -> Path:
    """The boot artifact of a Raspberry Pi 4."""
    output = tmp_path / "boot.img"
    pieces = ingredients(tmp_path / "pieces", pi())
    firmware_of(pi()).build_artifact(pieces, output, signer, tools)
    return output


def test_a_boot_partition_has_all_that_the_firmware_of_a_raspberry_pi_4_reads(
    artifact: Path, tools: Tools
) -> None:
    assert names_in(tools, artifact) == {
        "bcm2711-rpi-4-b.dtb", "cmdline.txt", "config.txt", "fixup4.dat", "initrd", "start4.elf",
        "vmlinuz",
    }  # fmt: skip
    config = read_fat(tools, artifact, "config.txt").decode().splitlines()
    assert config[1:] == [
        "arm_64bit=1",
        "kernel=vmlinuz",
        "initramfs initrd followkernel",
        "device_tree=bcm2711-rpi-4-b.dtb",
        "enable_uart=1",
    ]
    assert read_fat(tools, artifact, "cmdline.txt") == f"{LINE}\n".encode()
    assert read_fat(tools, artifact, "vmlinuz") == KERNEL
    assert tools.run("fsck.fat", "-n", artifact).returncode == 0
    # The firmware and Linux must agree that it has 32 bits: at least 65525 clusters.
    assert artifact.stat().st_size // 512 - 2000 > 65525


def test_a_raspberry_pi_5_needs_no_firmware_files_and_arms_its_watchdog(
    tmp_path: Path, signer: PeSigner, tools: Tools
) -> None:
    output = tmp_path / "boot.img"
    pieces = ingredients(tmp_path / "pieces", pi(5), gzip.compress(KERNEL))
    firmware_of(pi(5)).build_artifact(pieces, output, signer, tools)
    assert names_in(tools, output) == {
        "bcm2712-rpi-5-b.dtb", "cmdline.txt", "config.txt", "initrd", "vmlinuz",
    }  # fmt: skip
    assert "kernel_watchdog_timeout=15" in read_fat(tools, output, "config.txt").decode()


def test_the_same_pieces_give_the_same_bytes(
    artifact: Path, tmp_path: Path, signer: PeSigner, tools: Tools
) -> None:
    again = tmp_path / "again.img"
    firmware_of(pi()).build_artifact(
        ingredients(tmp_path / "elsewhere", pi()), again, signer, tools
    )
    assert again.read_bytes() == artifact.read_bytes()


def test_lines_of_the_board_come_last_in_config_txt(
    tmp_path: Path, signer: PeSigner, tools: Tools
) -> None:
    board = changed(pi(), config=("enable_uart=0", "dtoverlay=x"))
    output = tmp_path / "boot.img"
    pieces = ingredients(tmp_path / "pieces", board)
    firmware_of(board).build_artifact(pieces, output, signer, tools)
    lines = read_fat(tools, output, "config.txt").decode().splitlines()
    assert lines[-2:] == ["enable_uart=0", "dtoverlay=x"]


def test_a_kernel_that_cannot_ask_for_a_try_is_refused_unless_the_board_says_so(
    tmp_path: Path, signer: PeSigner, tools: Tools
) -> None:
    deaf = KERNEL.replace(b" tryboot", b"_tryboot")
    pieces = ingredients(tmp_path / "pieces", pi(), deaf)
    output = tmp_path / "boot.img"
    with pytest.raises(ManifestError) as caught:
        firmware_of(pi()).build_artifact(pieces, output, signer, tools)
    assert "the kernel 6.12.0-test cannot ask the firmware for a try" in str(caught.value)
    assert "kernel.archive" in caught.value.resolution
    assert not output.exists()
    trusting = dataclasses.replace(pieces, board=changed(pi(), without_updates=True))
    firmware_of(pi()).build_artifact(trusting, output, signer, tools)
    assert read_fat(tools, output, "vmlinuz") == deaf


def test_compressed_kernels_are_looked_into() -> None:
    assert passes_tryboot(gzip.compress(KERNEL))
    assert not passes_tryboot(gzip.compress(b"another kernel"))


def test_the_kernel_of_the_maker_must_be_there(tmp_path: Path, tools: Tools) -> None:
    with pytest.raises(ManifestError) as caught:
        prepare_kernel(pi(5), Cache(tmp_path), tools)
    assert "vendor/linux-image-rpi-2712.deb" in str(caught.value)
    assert "its maker publishes it" in caught.value.details


@pytest.mark.parametrize("top", ["usr/lib/modules", "lib/modules"])
def test_the_kernel_of_the_maker_is_taken_from_its_package(
    top: str, tmp_path: Path, tools: Tools
) -> None:
    version = "6.12.47+rpt-rpi-v8"
    files = {
        f"boot/vmlinuz-{version}": KERNEL,
        f"boot/config-{version}": b"CONFIG_ARM64=y\n",
        f"usr/lib/linux-image-{version}/broadcom/bcm2711-rpi-4-b.dtb": b"the device tree",
        f"{top}/{version}/modules.order": b"",
        f"{top}/{version}/modules.builtin": b"kernel/drivers/mmc/host/sdhci-iproc.ko\n",
        f"{top}/{version}/modules.builtin.modinfo": b"",
    }
    archive = tmp_path / "kernel.deb"
    entries = {name: Entry("file", content=data) for name, data in files.items()}
    archive.write_bytes(make_deb(f"linux-image-{version}", entries))
    board = pi()
    own = msgspec.structs.replace(board.kernel, archive=str(archive))
    board = msgspec.structs.replace(board, kernel=own)
    kernel = prepare_kernel(board, Cache(tmp_path / "cache"), tools)
    assert kernel.version == version
    assert kernel.image.read_bytes() == KERNEL
    tree = kernel.device_tree(board.kernel.device_tree)
    assert tree is not None
    assert tree.read_bytes() == b"the device tree"
    assert [package.name for package in kernel.packages] == [f"linux-image-{version}"]
    # Built in, so there is nothing to load.
    assert kernel.module_files(["sdhci-iproc"]) == []


def make_build(directory: Path, board: Board, artifact: Path, rescue: Path, tools: Tools) -> Path:
    """As much of a build directory as a factory disk takes."""
    directory.mkdir(parents=True)
    image = directory / "rescue.img"
    firmware_of(board).write_rescue(board, rescue, image, tools, built=BUILT)
    config = DeviceConfig(
        system="gateway",
        version="1.0",
        board=board.board,
        architecture=board.architecture,
        built=BUILT,
        boot_control=board.boot_control,
        boot_partition=board.boot_partition.label,
        state="state",
        slots=board.slot_labels,
        boot_slots=board.boot_slot_labels,
    )
    (directory / "loader").mkdir(parents=True)
    (directory / "device.json").write_bytes(encode(config))
    (directory / "root.img").write_bytes(b"root image " * 1000)
    (directory / "boot.img").write_bytes(artifact.read_bytes())
    return directory


def test_the_factory_card_starts_slot_a_and_is_as_the_firmware_wants_it(
    artifact: Path, rescue_artifact: Path, tmp_path: Path, tools: Tools
) -> None:
    board = pi()
    disk = tmp_path / "card.img"
    build = make_build(tmp_path / "build", board, artifact, rescue_artifact, tools)
    build_factory_disk(build, board, disk, tools, reporter=SilentReporter())
    table = json.loads(tools.run("sfdisk", "--json", disk).stdout)["partitiontable"]
    assert table["label"] == "gpt"
    found = {part["name"]: part for part in table["partitions"]}
    basic_data = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
    for label in ("firmware", "rescue", "boot-a", "rescue-copy", "boot-b"):
        assert found[label]["type"] == basic_data, label
    order = [part["name"] for part in table["partitions"]]
    # All within the eight that the firmware walks through; rescue is the first that it can start.
    assert order[:6] == ["firmware", "rescue", "boot-a", "rescue-copy", "boot-b", "environment"]
    assert order.index("rescue") + 1 == loaders.RESCUE_PARTITION

    # What the firmware reads: the model of it starts slot a, asked or not.
    at = found["firmware"]["start"] * 512
    assert names_in(tools, disk, at) == {"autoboot.txt", "config.txt"}
    record = read_fat(tools, disk, "autoboot.txt", at)
    assert len(record) < 512
    assert loaders.tryboot(record, asked=False).slots == ("a",)
    numbers = partition_numbers(board)
    assert numbers == loaders.PARTITIONS == {"a": 3, "b": 5}
    factory = autoboot.decode(record, numbers).seen_from("first boot")
    assert factory == Record(("a",), a=GOOD)

    start = found["boot-a"]["start"] * 512
    with disk.open("rb") as stream:
        stream.seek(start)
        assert stream.read(artifact.stat().st_size) == artifact.read_bytes()
        stream.seek(found["boot-b"]["start"] * 512)
        assert not any(stream.read(1 << 20))
    assert read_fat(tools, disk, "cmdline.txt", start) == f"{LINE}\n".encode()

    # The rescue system, twice, as a boot partition that says so itself.
    for label in ("rescue", "rescue-copy"):
        at = found[label]["start"] * 512
        assert {"config.txt", "vmlinuz", "start4.elf"} <= names_in(tools, disk, at)
        assert read_fat(tools, disk, "cmdline.txt", at) == f"{RESCUE_LINE}\n".encode()


@pytest.mark.parametrize("number", [4, 5])
@pytest.mark.parametrize("slot", SLOTS)
def test_a_firmware_that_cannot_start_a_slot_goes_on_to_rescue(number: int, slot: Slot) -> None:
    """PARTITION_WALK: behind the partition that failed, as documented, or from the first, as seen;
    up to the eighth. The other slot may hold a version that failed its trial."""
    board = pi(number)
    starts = [part.role in ("rescue", "boot") for part in board.layout.partitions]
    failed = partition_numbers(board)[slot]
    behind = [*range(failed + 1, 9), *range(1, failed)]
    from_the_first = [other for other in range(1, 9) if other != failed]
    for order in (behind, from_the_first):
        met = next(other for other in order if starts[other - 1])
        assert board.layout.partitions[met - 1] in board.rescue_partitions


def test_what_rescue_starts_from_is_packed_and_has_the_firmware_files(
    rescue_artifact: Path, tools: Tools
) -> None:
    """A boot partition of its own: nothing of a slot is needed to start it."""
    assert names_in(tools, rescue_artifact) == {
        "bcm2711-rpi-4-b.dtb", "cmdline.txt", "config.txt", "fixup4.dat", "initrd", "start4.elf",
        "vmlinuz",
    }  # fmt: skip
    assert gzip.decompress(read_fat(tools, rescue_artifact, "vmlinuz")) == KERNEL
    assert tools.run("fsck.fat", "-n", rescue_artifact).returncode == 0


def test_rescue_can_put_back_what_the_firmware_needs_beside_the_record(
    tmp_path: Path, tools: Tools
) -> None:
    copies = firmware_of(pi(5)).loader_copies(pi(5), tmp_path, tmp_path, tools, built=BUILT)
    assert set(copies) == {"config.txt"}


def test_the_initramfs_is_told_which_partition_to_ask_for() -> None:
    words = command_line(pi(), root_hash="ab" * 32, hash_offset=4096).split()
    assert {"orbital.starts=environment", "orbital.oneshot=partition:rescue"} <= set(words)
    assert "orbital.oneshot=partition:rescue" not in rescue_command_line(pi()).split()


def test_the_program_that_restarts_with_an_argument_is_static_and_always_the_same(
    tools: Tools,
) -> None:
    program = build_restart(pi(), tools)
    assert program == build_restart(pi(5), tools)
    assert (program[:5], program[18:20]) == (b"\x7fELF\x02", (183).to_bytes(2, "little"))
    needs = dependencies(program, "restart")
    assert (needs.interpreter, needs.needed) == ("", ())
    assert len(program) < 8192
    other = load_board(find("board", "qemu-aarch64-uboot"))
    assert build_restart(other, tools) == b""


@pytest.mark.boot
@pytest.mark.build
def test_a_kernel_gets_the_argument_of_the_restart(tmp_path: Path, tools: Tools) -> None:
    """By Debian's arm64 kernel in QEMU, with the program as PID 1: what a Raspberry Pi's kernel
    then passes on is its driver's."""
    kernel = prepare_kernel(
        load_board(find("board", "qemu-aarch64-uboot")), Cache(default_directory()), tools
    )
    tree = Tree()
    tree.directory("dev")
    tree.file("init", build_restart(pi(), tools), 0o755)
    write_initramfs(tree, tmp_path / "initramfs", mtime=BUILT)
    done = run(
        [
            *emulator.command("qemu-system-aarch64"),
            "-machine", "virt", "-cpu", "max,pauth=off", "-m", "512",
            "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel.image, "-initrd", tmp_path / "initramfs",
            "-append", "console=ttyAMA0 panic=-1 -- 2",
        ],
        timeout=300,
    )  # fmt: skip
    assert "reboot: Restarting system with command '2'" in done.stdout


@pytest.mark.build
def test_the_reference_product_builds_for_a_raspberry_pi_4_with_debians_kernel(
    tmp_path: Path, keys: Path, tools: Tools
) -> None:
    """From real packages. Raspberry Pi's kernel is not on Debian's mirror, so this one cannot
    update; all else is as it ships.
    """
    board = pi()
    kernel = msgspec.structs.replace(board.kernel, package="linux-image-arm64", archive=None)
    board = msgspec.structs.replace(changed(board, without_updates=True), kernel=kernel)
    product = dataclasses.replace(load_product("gateway", "raspberrypi-4"), board=board)
    make_anchor(keys)
    workshop = Workshop(
        cache=Cache(default_directory()),
        tools=tools,
        signer=load_pe_signer(keys, tools, time=BUILT),
        trust_root=read_anchor(keys).to_bytes(),
        built=BUILT,
        reporter=SilentReporter(),
    )
    build = build_image(product, tmp_path / "out", workshop)
    index = read_index(build)
    artifact = build / "boot.img"
    assert (index.boot.kind, index.architecture) == ("fat", "aarch64")
    assert artifact.stat().st_size <= board.boot_slot_partition("a").size
    line = read_fat(tools, artifact, "cmdline.txt").decode()
    assert f"orbital.roothash={index.root.root_hash} " in line
    assert read_fat(tools, artifact, "bcm2711-rpi-4-b.dtb")[:4] == b"\xd0\x0d\xfe\xed"
    # An ARM64 kernel image (Documentation/arch/arm64/booting.rst) and an ELF of the VideoCore.
    assert read_fat(tools, artifact, "vmlinuz")[56:60] == b"ARM\x64"
    assert read_fat(tools, artifact, "start4.elf")[:4] == b"\x7fELF"
    assert read_fat(tools, artifact, "fixup4.dat")
    rescue = build / "rescue.img"
    part = board.rescue_partition
    assert part is not None and rescue.stat().st_size <= part.size
    assert {"config.txt", "initrd", "start4.elf", "vmlinuz"} <= names_in(tools, rescue)
    assert "orbital.rescue=1 " in read_fat(tools, rescue, "cmdline.txt").decode()
    named = {
        item["name"] for item in json.loads((build / "sbom.cdx.json").read_bytes())["components"]
    }
    assert "raspi-firmware" in named
    disk = tmp_path / "card.img"
    build_factory_disk(build, board, disk, tools, reporter=SilentReporter())
    assert disk.stat().st_size > 1 << 30
