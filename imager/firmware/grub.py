"""BIOS: GRUB in a partition of its own, a cpio archive for each slot in its boot partition.

The disk's first sector (boot.img) loads the core image from the partition
`firmware`; a configuration embedded in the core image runs `grub.cfg` (beside
this file), which knows nothing but partitions by number. All of it is written
at the factory only.

A boot artifact is a newc archive, written raw into the slot's partition::

    boot.cfg    commands that load and start the kernel, run by grub.cfg
    vmlinuz     the kernel as Debian packs it
    initrd      the initramfs
    sha256      of all before it: what rescue looks at (`recovery.artifacts.cpio`)
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

from imager import archive
from imager.archive import write_cpio
from imager.cache import Input
from imager.firmware.grub_environment import factory_environment
from imager.firmware.kind import FIRMWARE_IMAGE, Factory, Ingredients, raw_rescue
from imager.layout import SECTOR, plan_layout
from imager.signing import PeSigner
from imager.tools import Tools
from imager.tree import Tree
from manifests.board import Board
from recovery.artifacts import cpio
from recovery.errors import ManifestError
from recovery.slots import SLOTS

SCRIPT = Path(__file__).with_name("grub.cfg")
_MODULES = "usr/lib/grub/i386-pc"
# What the scripts use: disk, partitions and what is in them, commands, the machine.
_NEEDED = (
    *("biosdisk", "part_gpt", "memdisk", "newc", "iso9660"),
    *("configfile", "echo", "loadenv", "normal", "regexp", "terminal", "test", "true"),
    # linux is not used yet: what is not in the core image can never be.
    *("boot", "linux", "linux16", "memrw", "reboot", "serial", "setpci"),
)
# Places in boot.img: grub-core/boot/i386/pc/boot.S, include/grub/i386/pc/boot.h.
_CORE_SECTOR_AT = 0x5C
_DRIVE_CHECK_AT = 0x66
_BOOT_CODE_SIZE = 440
# The last block list of the core image's first sector (diskboot.S): where the rest of
# it begins, how many sectors it has, and the segment that it is loaded to.
_BLOCK_LIST_AT = 0x1F4
_BLOCK_LIST = struct.Struct("<QHH")
_REST_SEGMENT = 0x820
# The longest command line of a Linux PC kernel, and what GRUB puts before ours.
_COMMAND_LINE_LIMIT = 2047
_GRUB_PREFIX = "BOOT_IMAGE=/vmlinuz "

# linux16: by the kernel's 16-bit entry, which asks the BIOS itself. GRUB's own way first
# moves as much memory as the kernel will ever use, byte by byte: two of the three
# seconds that an emulated PC takes from here to the kernel.
_BOOT_CFG = """\
# Starts this slot; root is the partition with this archive. Comes back only on failure.
if linux16 /vmlinuz {arguments}; then
	if initrd16 /initrd; then
		boot
	fi
fi
"""


class Grub:
    """See `imager.firmware.kind.Firmware`."""

    artifact_kind = "cpio"
    packages = ("grub-pc-bin",)

    def artifact_inputs(self, _signer: PeSigner) -> Mapping[str, Input]:
        """The format; nothing is signed, since BIOS verifies nothing."""
        files = (__file__, archive.__file__, cpio.__file__)
        return {"code": [Path(str(file)) for file in files]}

    def build_artifact(
        self, ingredients: Ingredients, output: Path, _signer: PeSigner, _tools: Tools
    ) -> None:
        """The archive."""
        tree = Tree()
        tree.file("boot.cfg", boot_cfg(ingredients.command_line))
        tree.host_file("vmlinuz", ingredients.linux)
        tree.host_file("initrd", ingredients.initramfs)
        write_cpio(tree, output, ingredients.built, sealed=True)

    def loader_inputs(self, board: Board, _signer: PeSigner) -> Mapping[str, Input]:
        """Partition numbers, console, watchdog."""
        return {
            "configuration": embedded_configuration(board),
            "size": board.boot_partition.size,
            "code": [Path(__file__), SCRIPT, Path(str(archive.__file__))],
        }

    def build_loader(self, board: Board, directory: Path, _signer: PeSigner, tools: Tools) -> None:
        """boot.img and core.img, which do not yet know where they will lie."""
        modules = tools.file(_MODULES)
        core = directory / "core.img"
        with tempfile.TemporaryDirectory(prefix="orbital-grub.") as name:
            work = Path(name)
            (work / "embedded.cfg").write_text(embedded_configuration(board))
            scripts = Tree()
            scripts.host_file("grub.cfg", SCRIPT)
            write_cpio(scripts, work / "memdisk", 0)
            tools.run(
                *("grub-mkimage", "--format", "i386-pc", "--directory", modules),
                *("--config", work / "embedded.cfg", "--memdisk", work / "memdisk"),
                # Without a device: GRUB starts with root set to the disk it came from.
                *("--prefix", "/", "--output", core, *_NEEDED),
            )
        (directory / "boot.img").write_bytes((modules / "boot.img").read_bytes())
        if core.stat().st_size > board.boot_partition.size:
            raise ManifestError(
                f"cannot build board {board.board}: GRUB does not fit the partition"
                f" {board.boot_partition.label}",
                details=f"its core image has {core.stat().st_size >> 10} KiB",
                resolution="make the partition 1MiB",
            )

    def room_for_artifact(self, board: Board, _loader: int) -> int:
        """The partition of a slot."""
        return min(board.boot_slot_partition(slot).size for slot in SLOTS)

    def loader_copies(
        self, board: Board, loader: Path, work: Path, _tools: Tools, *, built: int
    ) -> Mapping[str, Path | bytes]:
        """The core image as it lies on the disk."""
        del built  # It has no time.
        return {FIRMWARE_IMAGE: _core_partition(board, loader, work)}

    def write_rescue(
        self, board: Board, artifact: Path, output: Path, _tools: Tools, *, built: int
    ) -> None:
        """The archive as it is."""
        del built
        raw_rescue(board, artifact, output)

    def boot_partitions(self, factory: Factory, _tools: Tools) -> Mapping[str, Path]:
        """GRUB, the record, and the boot artifact of slot a."""
        board = factory.board
        label = board.boot_partition.label
        core = _core_partition(board, factory.loader, factory.work)
        images = {label: core, board.boot_slot_labels["a"]: factory.artifact}
        if board.environment_partition:
            record = factory.work / "environment"
            record.write_bytes(factory_environment())
            images[board.environment_partition.label] = record
        return images

    def boot_sector(self, factory: Factory) -> bytes:
        """boot.img, which knows where the core image is."""
        first = factory.layout.extent(factory.board.boot_partition.label).start // SECTOR
        return placed_boot_code((factory.loader / "boot.img").read_bytes(), first)


def _core_partition(board: Board, loader: Path, work: Path) -> Path:
    first = plan_layout(board).extent(board.boot_partition.label).start // SECTOR
    core = work / "core.img"
    core.write_bytes(placed_core((loader / "core.img").read_bytes(), first))
    return core


def boot_cfg(command_line: str) -> str:
    """The archive's boot.cfg. Raises ManifestError when GRUB cannot pass the command line."""
    words = command_line.split(" ")
    for word in words:
        # GRUB puts a backslash before each of these, even in quotes (lib/cmdline.c).
        if re.search(r"['\"\\]", word):
            raise ManifestError(
                f"cannot use the kernel argument {word!r}: GRUB cannot pass quotes or backslashes",
                resolution="write it without them",
            )
    if len(_GRUB_PREFIX) + len(command_line) > _COMMAND_LINE_LIMIT:
        raise ManifestError(
            f"cannot use a kernel command line of {len(command_line)} bytes",
            details=f"GRUB puts {len(_GRUB_PREFIX)} bytes before it,"
            f" the kernel takes {_COMMAND_LINE_LIMIT}",
            resolution="remove kernel arguments from the board or the system",
        )
    return _BOOT_CFG.format(arguments=" ".join(f"'{word}'" for word in words))


def embedded_configuration(board: Board) -> str:
    """What the core image runs first, in GRUB's rescue language: no conditions, no functions.

    Raises ManifestError when the board's watchdog is not one that the script can arm.
    """
    numbers = {part.label: n for n, part in enumerate(board.layout.partitions, start=1)}
    environment, rescue = board.environment_partition, board.rescue_partition
    lines = []
    serial = re.fullmatch(r"ttyS([0-9]+)", board.console)
    if serial:
        lines += [f"serial --unit={serial[1]} --speed=115200", "terminal_output serial"]
    lines += [
        "set orbital_disk=$root",
        f"set orbital_environment={numbers[environment.label] if environment else ''}",
        f"set orbital_rescue={numbers[rescue.label] if rescue else ''}",
        *(f"set orbital_{slot}={numbers[board.boot_slot_partition(slot).label]}" for slot in SLOTS),
        f"set orbital_watchdog_ticks={_watchdog_ticks(board)}",
        # Not `normal`, which ends in a command line.
        "source (memdisk)/grub.cfg",
        "reboot",
    ]
    return "".join(f"{line}\n" for line in lines)


def _watchdog_ticks(board: Board) -> str:
    """Of each of the two stages; a tick is about 1 ms (see watchdog/i6300esb.c)."""
    watchdog = board.watchdog
    if watchdog is None or watchdog.boot_stage != "loader":
        return ""
    if watchdog.driver != "i6300esb":
        raise ManifestError(
            f"cannot build board {board.board}: GRUB cannot arm the watchdog {watchdog.driver}",
            resolution="set watchdog.boot_stage: none, or teach it to imager/firmware/grub.cfg",
        )
    return f"{watchdog.timeout_seconds * 1024 // 2:#x}"


def placed_core(core: bytes, first: int) -> bytes:
    """The core image as it lies on the disk from sector first on, as grub-bios-setup writes it."""
    count = -(-len(core) // SECTOR)
    placed = bytearray(core.ljust(count * SECTOR, b"\0"))
    _, listed, segment = _BLOCK_LIST.unpack_from(placed, _BLOCK_LIST_AT)
    if (listed, segment) != (count - 1, _REST_SEGMENT):
        raise ValueError(f"not a core image of {count} sectors: {listed} at segment {segment:#x}")
    _BLOCK_LIST.pack_into(placed, _BLOCK_LIST_AT, first + 1, count - 1, segment)
    return bytes(placed)


def placed_boot_code(image: bytes, first: int) -> bytes:
    """boot.img's code, which loads the core image from sector first, as grub-bios-setup does."""
    placed = bytearray(image[:_BOOT_CODE_SIZE])
    struct.pack_into("<Q", placed, _CORE_SECTOR_AT, first)
    # Without its jump, code for BIOSes that do not say which disk they started.
    placed[_DRIVE_CHECK_AT : _DRIVE_CHECK_AT + 2] = b"\x90\x90"
    return bytes(placed)
