"""U-Boot: a FIT for each slot, raw in its own partition, started by a script that counts tries.

The FIT holds kernel, initramfs, the board's device tree if the firmware brings
none, and a script that sets the kernel command line; each with a SHA-256 hash.
The script that chooses the slot is `boot.scr`, from the template `u_boot.cmd`,
on the partition that stock U-Boot looks at first (imager/layout.py: the type of
an EFI system partition, which U-Boot's bootstd and distro boot take for
bootable).

Formats: U-Boot, doc/usage/fit/ and doc/usage/cmd/{source,bootm,env}.rst.
"""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from imager.cache import Input
from imager.firmware.fat import make_fat
from imager.firmware.kind import FIRMWARE_IMAGE, Factory, Ingredients, raw_rescue
from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import Architecture, Board, UBoot
from recovery import starts
from recovery.bootcontrol import ubootenv
from recovery.bootcontrol.recorded import GOOD, Record
from recovery.errors import ManifestError

TEMPLATE = "u_boot.cmd"
LOAD_TEMPLATE = "u_boot_load.cmd"
RESCUE_TEMPLATE = "u_boot_rescue.cmd"
COUNT_TEMPLATE = "u_boot_count.cmd"
SCRIPT = "boot.scr"
_ARCHITECTURES: dict[Architecture, str] = {
    "aarch64": "arm64",
    "riscv64": "riscv",
    "armhf": "arm",
}
_SECTOR = 512
_MIB = 1 << 20
# Of scratch memory: see `_places`.
_SCRATCH = 512 << 10
_GZIP = b"\x1f\x8b"
# What may stand between single quotes of U-Boot's shell and means itself.
_QUOTABLE = re.compile(r"[^'\\]*")
_ARMED = 'echo "orbital: firmware: watchdog armed"'
_LOST = "if test ${orbital_current} = none; then setenv BOOT_ORDER; fi"
_FIT = """\
/dts-v1/;
/ {{
	description = "Orbital";
	#address-cells = <1>;
	images {{
		kernel {{
			data = /incbin/("kernel");
			type = "kernel";
			os = "linux";
			arch = "{arch}";
			compression = "{compression}";
			load = <{address}>;
			entry = <{address}>;
			hash-1 {{ algo = "sha256"; }};
		}};
		ramdisk {{
			data = /incbin/("ramdisk");
			type = "ramdisk";
			os = "linux";
			arch = "{arch}";
			compression = "none";
			hash-1 {{ algo = "sha256"; }};
		}};
{device_tree}\
		arguments {{
			data = /incbin/("arguments");
			type = "script";
			compression = "none";
			hash-1 {{ algo = "sha256"; }};
		}};
	}};
	configurations {{
		default = "slot";
		slot {{
			kernel = "kernel";
			ramdisk = "ramdisk";
{fdt}\
		}};
	}};
}};
"""
_FIT_DEVICE_TREE = """\
		fdt {{
			data = /incbin/("fdt");
			type = "flat_dt";
			arch = "{arch}";
			compression = "none";
			hash-1 {{ algo = "sha256"; }};
		}};
"""


class UBootFirmware:
    """See `imager.firmware.kind.Firmware`."""

    artifact_kind = "fit"
    # U-Boot itself is the board's, not of the disk.
    packages: tuple[str, ...] = ()

    def artifact_inputs(self, _signer: PeSigner) -> Mapping[str, Input]:
        """This file."""
        return {"code": [Path(__file__)]}

    def build_artifact(
        self, ingredients: Ingredients, output: Path, _signer: PeSigner, tools: Tools
    ) -> None:
        """A FIT."""
        with tempfile.TemporaryDirectory(prefix="orbital-fit.") as directory:
            # Fixed relative names: no path of this machine gets into the FIT.
            where = Path(directory)
            kernel = _unpacked(ingredients.linux.read_bytes())
            if ingredients.packed:
                kernel = gzip.compress(kernel, mtime=0)
            (where / "kernel").write_bytes(kernel)
            (where / "ramdisk").write_bytes(ingredients.initramfs.read_bytes())
            (where / "arguments").write_bytes(arguments_script(ingredients.command_line))
            if ingredients.device_tree:
                (where / "fdt").write_bytes(ingredients.device_tree.read_bytes())
            compression = "gzip" if ingredients.packed else "none"
            (where / "fit.its").write_text(fit_source(ingredients.board, compression))
            tools.run(
                "mkimage", "-q", "-f", "fit.its", "fit",
                cwd=where,
                env={"SOURCE_DATE_EPOCH": str(ingredients.built), "TZ": "UTC"},
            )  # fmt: skip
            (where / "fit").replace(output)

    def loader_inputs(self, board: Board, _signer: PeSigner) -> Mapping[str, Input]:
        """The filled in template."""
        return {"script": boot_script(board), "code": [Path(__file__)]}

    def build_loader(self, board: Board, directory: Path, _signer: PeSigner, tools: Tools) -> None:
        """boot.scr: the script with the header that U-Boot wants."""
        with tempfile.TemporaryDirectory(prefix="orbital-script.") as scratch:
            source = Path(scratch, "boot.cmd")
            source.write_text(boot_script(board))
            tools.run(
                "mkimage", "-q", "-A", _ARCHITECTURES[board.architecture],
                "-T", "script", "-C", "none", "-n", "Orbital", "-d", source, directory / SCRIPT,
                # No clock in the header.
                env={"SOURCE_DATE_EPOCH": "0", "TZ": "UTC"},
            )  # fmt: skip

    def room_for_artifact(self, board: Board, _loader: int) -> int:
        """The partition is the artifact's alone."""
        return board.boot_slot_partition("a").size

    def loader_copies(
        self, board: Board, loader: Path, work: Path, tools: Tools, *, built: int
    ) -> Mapping[str, Path | bytes]:
        """The file system with the script."""
        return {FIRMWARE_IMAGE: _script_partition(board, loader, work, tools, built)}

    def write_rescue(
        self, board: Board, artifact: Path, output: Path, _tools: Tools, *, built: int
    ) -> None:
        """The FIT as it is."""
        del built
        raw_rescue(board, artifact, output)

    def boot_partitions(self, factory: Factory, tools: Tools) -> Mapping[str, Path]:
        """The script, the record and the artifact of slot a."""
        board, label = factory.board, factory.board.boot_partition.label
        built = factory.config.built
        firmware = _script_partition(board, factory.loader, factory.work, tools, built)
        record = factory.work / "record"
        record.write_bytes(factory_environment())
        environment = board.environment_partition
        assert environment is not None  # u-boot boards have one: manifests/board.py
        return {
            label: firmware,
            environment.label: record,
            board.boot_slot_partition("a").label: factory.artifact,
        }

    def boot_sector(self, _factory: Factory) -> bytes:
        """U-Boot is in the board's own flash, or where the device maker puts it."""
        return b""


def _script_partition(board: Board, loader: Path, work: Path, tools: Tools, built: int) -> Path:
    part = board.boot_partition
    image = work / part.label
    make_fat(
        image,
        part.size,
        {SCRIPT: loader / SCRIPT},
        tools,
        name="FIRMWARE",
        built=built,
        bits=_fat_bits(part.size),
    )
    return image


def factory_environment() -> bytes:
    """Both copies of the record as a device leaves the factory: slot a, successful.

    Two valid copies: one bad sector does not lose the record.
    """
    variables = ubootenv.with_record((), Record(("a",), a=GOOD))
    copies = [ubootenv.encode(ubootenv.Environment(flag, variables)) for flag in (1, 0)]
    return b"".join(copies)


def arguments_script(command_line: str) -> bytes:
    """The script of the FIT. Raises ManifestError when the command line cannot be quoted."""
    if not _QUOTABLE.fullmatch(command_line):
        raise ManifestError(
            "cannot give this kernel command line to U-Boot: a quote or a backslash in it",
            details=command_line,
            resolution="remove the kernel arguments with ' or \\",
        )
    return f"setenv bootargs '{command_line}'\n".encode()


def fit_source(board: Board, compression: str = "none") -> str:
    """The FIT's description for mkimage. compression: of the kernel. Raises ManifestError."""
    arch = _ARCHITECTURES.get(board.architecture)
    if arch is None:
        raise ManifestError(
            f"cannot build a FIT for {board.architecture}",
            details=f"possible: {', '.join(sorted(_ARCHITECTURES))}",
            resolution="use a board with another kind of firmware",
        )
    own = board.kernel.device_tree is not None
    return _FIT.format(
        arch=arch,
        compression=compression,
        address=_u_boot(board).kernel_address,
        device_tree=_FIT_DEVICE_TREE.format(arch=arch) if own else "",
        fdt='\t\t\tfdt = "fdt";\n' if own else "",
    )


def boot_script(board: Board) -> str:
    """The template for the board, without its comments. Raises ManifestError."""
    u_boot = _u_boot(board)
    _check_memory(board, u_boot)
    environment = board.environment_partition
    armed = board.watchdog is not None and board.watchdog.boot_stage == "loader"
    labels = board.boot_slot_labels
    rescue = board.rescue_partition
    button = f"if {board.rescue_button}; then orbital_asking=yes; fi"
    values = {
        "interface": u_boot.interface,
        "device": str(u_boot.device),
        "disk": f"{u_boot.interface} {u_boot.device}",
        "environment": environment.label if environment else "",
        "boot_a": labels["a"],
        "boot_b": labels["b"],
        # The firmware's own, unless the FIT has one.
        "device_tree": "" if board.kernel.device_tree else "${fdtcontroladdr}",
        "watchdog": " && ".join([*u_boot.watchdog_commands, _ARMED]) if armed else "",
        "rescue_label": rescue.label if rescue else labels["a"],
        "rescue_word": "rescue " if rescue else "",
        "lost": _LOST if rescue else "",
        "button": button if board.rescue_button else "",
        **_places(u_boot),
    }
    values["load"] = _filled(LOAD_TEMPLATE, values)
    values["rescue"] = _filled(RESCUE_TEMPLATE, values) if rescue else ""
    values["count"] = _filled(COUNT_TEMPLATE, values) if rescue else ""
    return _filled(TEMPLATE, values) + "\n"


def _filled(template: str, values: Mapping[str, str]) -> str:
    """A template without its comments, filled in."""
    text = resources.files("imager.firmware").joinpath(template).read_text()
    lines = [line.strip() for line in text.splitlines()]
    code = "\n".join(line for line in lines if line and not line.startswith("#"))
    filled = re.sub(r"@(\w+)@", lambda match: values[match[1]], code)
    return "\n".join(line for line in filled.splitlines() if line)


def _places(u_boot: UBoot) -> dict[str, str]:
    """Sizes, and addresses in scratch memory.

    `env export` clears as many bytes as the build's own environment has (256 KiB
    in Debian's builds): what it writes comes last, or over what is not needed any more.

        +00000  copy0, copy1: as on the disk     later: export
        +20000  bare0, bare1: without the flag   (end of export)
        +40000  aside: U-Boot's own environment
        +60000  out: the copy to write
        +70000  starts: the sector of the start record
    """
    scratch = int(u_boot.scratch_address, 16)
    size, data = ubootenv.SIZE, ubootenv.SIZE - 5
    places = {
        "copy0": scratch,
        "copy1": scratch + size,
        "bare0": scratch + 2 * size,
        "bare1": scratch + 3 * size,
        "export": scratch,
        "aside": scratch + 4 * size,
        "out": scratch + 6 * size,
        "starts": scratch + 7 * size,
    }
    values = {**places}
    empty = starts.to_bytes(starts.Starts())
    for name in ("copy0", "copy1", "out"):
        values[f"{name}_flag"] = places[name] + 4
        values[f"{name}_data"] = places[name] + 5
    for name in ("bare0", "bare1", "export"):
        values[f"{name}_data"] = places[name] + 4
    values |= {
        "two_copies": 2 * size,
        "copy_blocks": size // _SECTOR,
        "data_size": data,
        "bare_size": data + 4,
        "aside_size": 2 * size,
        "artifact": int(u_boot.artifact_address, 16),
        "starts_asked": places["starts"] + empty.index(b"asked=") + len("asked="),
        "starts_loads": places["starts"] + empty.index(b"loads=") + len("loads="),
    }
    return {name: f"{value:x}" for name, value in values.items()}


def _check_memory(board: Board, u_boot: UBoot) -> None:
    """What is loaded must not overwrite what is needed. Raises ManifestError."""
    artifact = int(u_boot.artifact_address, 16)
    scratch = int(u_boot.scratch_address, 16)
    kernel = int(u_boot.kernel_address, 16)
    rescue = board.rescue_partition
    end = artifact + max(board.boot_slot_partition("a").size, rescue.size if rescue else 0)
    for name, start, length in (
        ("scratch_address", scratch, _SCRATCH),
        ("kernel_address", kernel, 1),
    ):
        if start < end and artifact < start + length:
            raise ManifestError(
                f"cannot use u_boot.{name} {start:#x} of board {board.board}",
                details=f"the boot artifact may take {artifact:#x} to {end:#x}",
                resolution="choose addresses that are further apart",
            )


def _fat_bits(size: int) -> int:
    """The kind of FAT for so many bytes, with clusters of any usual size."""
    if size < 16 * _MIB:
        return 12
    return 16 if size < 64 * _MIB else 32


def _u_boot(board: Board) -> UBoot:
    if board.u_boot is None:
        raise ManifestError(
            f"cannot build for board {board.board}: it has no section u_boot",
            resolution="describe where U-Boot finds the disk and memory",
        )
    return board.u_boot


def _unpacked(linux: bytes) -> bytes:
    """The kernel as the CPU runs it: differences between two are small, and U-Boot starts it."""
    return gzip.decompress(linux) if linux.startswith(_GZIP) else linux
