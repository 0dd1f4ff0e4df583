"""Raspberry Pi 4 and 5: the firmware starts the kernel itself; tryboot chooses the slot.

The EEPROM's boot loader reads autoboot.txt from the first partition, and from
the partition that is named there everything else. So the factory writes

    firmware    FAT: autoboot.txt (the boot control's record), an empty config.txt
    rescue      the boot artifact of the rescue system, before the slots': "the first partition
                that can be started" is what the firmware takes where autoboot.txt is lost
    boot-a      the boot artifact of slot a
    rescue-copy rescue once more: what the firmware goes on to when it cannot start boot-a

and a boot artifact is a FAT image, written raw into the slot's boot partition::

    config.txt      names the files below
    cmdline.txt     the kernel command line
    vmlinuz         the kernel, not compressed (gzip in the rescue system, which has no updates)
    initrd          the initramfs
    NAME.dtb        the board's device tree
    start4.elf ...  the firmware's second stage, where the EEPROM does not hold it

Raspberry Pi documentation, "config.txt", "autoboot.txt" and "Raspberry Pi boot
EEPROM". GPT: boot loader of 2020-05 and later, FAT16 in it 2021-10;
tryboot_a_b: of 2022-11 and later; kernel_watchdog_timeout: firmware of 2025-07
and later (older ones ignore it).

Nothing here is signed: who can write to the card decides what starts. See
docs/raspberry-pi.md for signed boot (boot.img, boot.sig), which the device maker has to turn on.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

from imager.cache import Input
from imager.firmware import fat
from imager.firmware.fat import make_fat
from imager.firmware.kind import Factory, Ingredients, raw_rescue
from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import Board, RaspberryPi
from recovery import fat as clusters
from recovery.bootcontrol import autoboot, tryboot
from recovery.bootcontrol.recorded import GOOD, Record
from recovery.errors import ManifestError
from recovery.slots import SLOTS, Slot

_MIB = 1 << 20
# FAT32 has at least 65525 clusters, here of one sector; the firmware takes
# every FAT, but a FAT32 that is too small is one of 16 bits to some readers.
_SMALLEST_FAT = 40 * _MIB
# The FATs themselves (1/128 of the size), directories, the last cluster of each file.
_MARGIN = 2 * _MIB
_CLUSTER = 512
# Seconds that the hardware can count (20 bits of 1/65536 s), until the driver takes over.
_FIRMWARE_WATCHDOG_SECONDS = 15
# What drivers/firmware/raspberrypi.c of Raspberry Pi's kernel looks for in the argument
# of reboot(2). The driver in Linus' kernel (and Debian's) passes nothing on.
_TRYBOOT_ARGUMENT = b" tryboot"
_GZIP = b"\x1f\x8b"
# Without it a Raspberry Pi 5 does not look for autoboot.txt on the partition.
_EMPTY_CONFIG = b"# Each slot has its own; see autoboot.txt.\n"


class RaspberryPiFirmware:
    """See `imager.firmware.kind.Firmware`."""

    artifact_kind = "fat"
    packages = ()

    def artifact_inputs(self, _signer: PeSigner) -> Mapping[str, Input]:
        """Nothing is signed."""
        return {
            "code": [Path(__file__), *(Path(str(module.__file__)) for module in (fat, clusters))]
        }

    def build_artifact(
        self, ingredients: Ingredients, output: Path, _signer: PeSigner, tools: Tools
    ) -> None:
        """A FAT image, as small as its files allow."""
        section = _section(ingredients.board)
        linux = ingredients.linux.read_bytes()
        if not section.without_updates:
            _check_kernel(ingredients, linux)
        tree = ingredients.device_tree
        if tree is None:
            raise ManifestError(
                f"cannot build for board {ingredients.board.board}: it names no device tree",
                resolution="set kernel.device_tree in the board file",
            )
        files: dict[str, Path | bytes] = {
            "config.txt": config_text(ingredients.board).encode(),
            "cmdline.txt": f"{ingredients.command_line}\n".encode(),
            "vmlinuz": packed(linux) if ingredients.packed else bare(linux),
            "initrd": ingredients.initramfs,
            tree.name: tree,
            **ingredients.firmware_files,
        }
        make_fat(output, fat_size(files), files, tools, name="BOOT", built=ingredients.built)

    def loader_inputs(self, _board: Board, _signer: PeSigner) -> Mapping[str, Input]:
        """The EEPROM is the loader."""
        return {}

    def build_loader(
        self, _board: Board, _directory: Path, _signer: PeSigner, _tools: Tools
    ) -> None:
        """The EEPROM is the loader."""

    def room_for_artifact(self, board: Board, _loader: int) -> int:
        """The slot's boot partition is its alone."""
        return board.boot_slot_partition("a").size

    def loader_copies(
        self, _board: Board, _loader: Path, _work: Path, _tools: Tools, *, built: int
    ) -> Mapping[str, Path | bytes]:
        """What lies beside the record, which is made again."""
        del built
        return {"config.txt": _EMPTY_CONFIG}

    def write_rescue(
        self, board: Board, artifact: Path, output: Path, _tools: Tools, *, built: int
    ) -> None:
        """The FAT as it is."""
        del built
        raw_rescue(board, artifact, output)

    def boot_partitions(self, factory: Factory, tools: Tools) -> Mapping[str, Path]:
        """The record that names slot a, and its artifact."""
        board = factory.board
        label = board.boot_partition.label
        image = factory.work / label
        record = autoboot.Autoboot(Record(("a",), a=GOOD), "")
        files: dict[str, Path | bytes] = {
            tryboot.FILE: autoboot.encode(record, partition_numbers(board), tryboot.SIZE),
            "config.txt": _EMPTY_CONFIG,
        }
        size = factory.layout.extent(label).size
        make_fat(image, size, files, tools, name="FIRMWARE", built=factory.config.built)
        return {label: image, board.boot_slot_labels["a"]: factory.artifact}

    def boot_sector(self, _factory: Factory) -> bytes:
        """The EEPROM reads the partition table."""
        return b""


def partition_numbers(board: Board) -> dict[Slot, int]:
    """Number of each slot's boot partition, as the firmware counts them: from 1."""
    partitions = board.layout.partitions
    return {slot: partitions.index(board.boot_slot_partition(slot)) + 1 for slot in SLOTS}


def config_text(board: Board) -> str:
    """config.txt. The board's lines come last: the last of two counts."""
    tree = (board.kernel.device_tree or "").rpartition("/")[2]
    lines = [
        "# Made by Orbital with the image; changed by an update only.",
        "arm_64bit=1",
        "kernel=vmlinuz",
        "initramfs initrd followkernel",
        f"device_tree={tree}",
        "enable_uart=1",
    ]
    if board.watchdog and board.watchdog.boot_stage == "firmware":
        lines.append(f"kernel_watchdog_timeout={_FIRMWARE_WATCHDOG_SECONDS}")
    return "".join(f"{line}\n" for line in (*lines, *_section(board).config))


def fat_size(files: Mapping[str, Path | bytes]) -> int:
    """Bytes of a FAT32 with the files: whole MiB."""
    sizes = (
        len(item) if isinstance(item, bytes) else item.stat().st_size for item in files.values()
    )
    data = sum(-(-size // _CLUSTER) * _CLUSTER for size in sizes)
    needed = data + data // 64 + _MARGIN
    return max(_SMALLEST_FAT, -(-needed // _MIB) * _MIB)


def passes_tryboot(kernel: bytes) -> bool:
    """Whether the kernel (bare or gzip) tells the firmware that the next start is a try."""
    return _TRYBOOT_ARGUMENT in bare(kernel)


def bare(kernel: bytes) -> bytes:
    """The kernel as the CPU runs it, which the firmware starts as well: an update of it then
    costs what changed in it."""
    if kernel.startswith(_GZIP):
        return zlib.decompressobj(wbits=31).decompress(kernel)
    return kernel


def packed(kernel: bytes) -> bytes:
    """The kernel in gzip, which the firmware takes for a 64-bit one as well."""
    return kernel if kernel.startswith(_GZIP) else gzip.compress(kernel, mtime=0)


def _check_kernel(ingredients: Ingredients, kernel: bytes) -> None:
    if not passes_tryboot(kernel):
        raise ManifestError(
            f"cannot build for board {ingredients.board.board}: the kernel"
            f" {ingredients.uname} cannot ask the firmware for a try (tryboot)",
            details="the driver that passes it on is in Raspberry Pi's kernel and not in Debian's;"
            " the device would never start an update",
            resolution="name Raspberry Pi's kernel package in kernel.archive of the board, or set"
            " raspberry_pi.without_updates while you bring the board up",
        )


def _section(board: Board) -> RaspberryPi:
    return board.raspberry_pi or RaspberryPi()
