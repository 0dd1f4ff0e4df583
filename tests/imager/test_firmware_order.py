"""OVMF itself: where it goes when the loader cannot start the slot, or the slot does not come far.

The slot and the rescue system are programs of a few lines that say who they are and switch
off. Loader and drivers are those of the board, as is the disk's layout; the variables are read
and written as the device does (recovery.bootcontrol.firmware_options, loads).
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from imager.firmware.efi_driver import build_loads_driver
from imager.firmware.fat import make_fat
from imager.firmware.systemd_boot import (
    LOADER_CONF,
    LOADER_PATHS,
    driver_path,
    loader_source,
    rescue_entry,
)
from imager.layout import DiskLayout, plan_layout, sfdisk_script
from imager.signing import load_pe_signer
from imager.tools import Tools
from manifests.catalogue import find, load_board
from qemu import emulator
from qemu.gpt import read_partitions
from qemu.hardware import of_board
from recovery.bootcontrol.firmware_options import (
    FILES,
    Write,
    decode_option,
    decode_order,
    plan,
    rescue_option,
)
from recovery.bootcontrol.loads import ASKED, VARIABLE, Loads, decode, encode
from recovery.bootcontrol.systemd_boot import entry_name, entry_text
from recovery.efivars import GLOBAL
from recovery.gpt import parse_entry
from recovery.process import run

pytestmark = pytest.mark.boot

SECONDS = 600
LOADER = LOADER_PATHS["x86_64"]
PROGRAM = """
struct text { void *reset; unsigned long long (*output)(struct text *, const unsigned short *); };
struct runtime { char header[24]; void *others[10];
    void (*reset)(int, long long, long long, void *); };
struct system { char header[24]; void *v; long long r; void *ih, *i, *oh; struct text *out;
    void *eh, *e; struct runtime *runtime; };
unsigned long long efi_main(void *image, struct system *system)
{
    (void)image;
    system->out->output(system->out, L"\\r\\nSTARTED WHO\\r\\n");
    system->runtime->reset(2, 0, 0, 0); /* EfiResetShutdown */
    return 0;
}
"""


class Bench(NamedTuple):
    """A board of which only firmware, loader and two programs are left."""

    disk: Path
    variables: Path
    layout: DiskLayout
    tools: Tools
    loads: Path

    def put(self, label: str, files: dict[str, Path | bytes]) -> None:
        """A FAT with these files in the partition."""
        extent = self.layout.extent(label)
        image = self.disk.with_name(label)
        make_fat(image, extent.size, files, self.tools, name=label.upper(), built=0)
        with self.disk.open("r+b") as disk:
            disk.seek(extent.start)
            disk.write(image.read_bytes())

    def put_esp(self, artifact: Path | bytes) -> None:
        """The ESP, with slot a committed."""
        self.put(
            "esp",
            {
                LOADER: self.tools.file(loader_source("x86_64")),
                driver_path("loads", "x86_64"): self.loads,
                "loader/loader.conf": LOADER_CONF.encode(),
                f"loader/entries/{entry_name('a', None)}": entry_text("a", 1).encode(),
                "EFI/orbital/a.efi": artifact,
            },
        )

    def boot(self, board: str = "qemu-x86_64") -> str:
        """The console until a program switches off."""
        hardware = of_board(load_board(find("board", board)), self.tools.file("."))
        return run(
            [
                *emulator.command(hardware.binary),
                *("-machine", hardware.machine, "-cpu", "max", "-m", "256"),
                *("-nodefaults", "-display", "none", "-nic", "none", "-serial", "stdio"),
                *(
                    "-drive",
                    f"if=pflash,unit=0,format=raw,readonly=on,file={hardware.firmware_code}",
                ),
                *("-drive", f"if=pflash,unit=1,format=raw,file={self.variables}"),
                *("-blockdev", f"driver=file,node-name=disk,filename={self.disk}"),
                *("-device", f"{hardware.disk},drive=disk,bootindex=1", "-no-reboot"),
                *hardware.arguments,
            ],
            timeout=SECONDS,
        ).stdout

    def known(self) -> tuple[dict[int, bytes], tuple[int, ...]]:
        """The firmware's options and their order, as they are in its store."""
        found = self.values(GLOBAL)
        options = {
            int(name[4:], 16): data
            for name, data in found.items()
            if name.startswith("Boot") and len(name) == 8 and name[4:].isalnum()
        }
        return options, decode_order(found.get("BootOrder", b""))

    def values(self, vendor: str) -> dict[str, bytes]:
        """The vendor's variables, as they are in the firmware's store."""
        out = self.variables.with_suffix(".json")
        self.tools.run("virt-fw-vars", "--input", self.variables, "--output-json", out)
        return {
            item["name"]: bytes.fromhex(item["data"])
            for item in json.loads(out.read_text())["variables"]
            if item["guid"] == vendor
        }

    def write(self, writes: tuple[Write, ...], vendor: str = GLOBAL) -> None:
        """Puts variables into the store."""
        document = {
            "version": 2,
            "variables": [
                {"name": write.name, "guid": vendor, "attr": 7, "data": write.value.hex()}
                for write in writes
            ],
        }
        path = self.variables.with_suffix(".wanted")
        path.write_text(json.dumps(document))
        self.tools.run("virt-fw-vars", "--inplace", self.variables, "--set-json", path)


def _program(who: str, directory: Path, tools: Tools) -> Path:
    (directory / "program.c").write_text(PROGRAM.replace("WHO", who))
    tools.run(
        *("clang", "--target=x86_64-unknown-windows", "-Os", "-ffreestanding", "-fshort-wchar"),
        *("-c", "program.c", "-o", "program.o"),
        cwd=directory,
    )
    tools.run(
        *("lld-link", "/subsystem:efi_application", "/entry:efi_main", "/nodefaultlib"),
        *(f"/out:{who}.efi", "program.o"),
        cwd=directory,
    )
    return directory / f"{who}.efi"


@pytest.fixture
def bench(tools: Tools, keys: Path, tmp_path: Path) -> Bench:
    board = load_board(find("board", "qemu-x86_64"))
    layout = plan_layout(board)
    disk = tmp_path / "disk"
    with disk.open("wb") as out:
        out.truncate(layout.size)
    tools.run("sfdisk", "--quiet", disk, stdin=sfdisk_script(layout))
    variables = tmp_path / "variables"
    assert board.qemu is not None and board.qemu.firmware_variables is not None
    variables.write_bytes(tools.file(board.qemu.firmware_variables.lstrip("/")).read_bytes())
    loads_driver = tmp_path / "loads.efi"
    build_loads_driver("x86_64", load_pe_signer(keys, tools, time=0), loads_driver, tools)
    made = Bench(disk, variables, layout, tools, loads_driver)
    made.put_esp(_program("slot", tmp_path, tools))
    entry = rescue_entry(LOADER).encode()
    rescue = _program("rescue", tmp_path, tools)
    made.put("rescue", {LOADER: rescue, "loader/entries/orbital-rescue.conf": entry})
    return made


def test_with_the_option_the_firmware_goes_on_to_rescue_and_keeps_it(bench: Bench) -> None:
    assert "STARTED slot" in bench.boot()
    known, order = bench.known()
    assert order, "the firmware has made no option of its own"
    with bench.disk.open("rb") as disk:
        disk.seek(512)
        header, table = disk.read(512), disk.read(128 * 128)
        part = {p.label: p for p in read_partitions(lambda at, n: _read(bench.disk, at, n))}[
            "rescue"
        ]
    entry = parse_entry(header, table, part.number)
    assert uuid.UUID(bytes_le=entry.guid) == uuid.UUID(part.id)
    writes = plan(known, order, order[0], rescue_option(entry, FILES["x86_64"]))
    assert [write.name for write in writes][-1] == "BootOrder"
    bench.write(writes)
    # An ordinary start: the slot, and the option is kept as it was written.
    assert "STARTED slot" in bench.boot()
    known, order = bench.known()
    assert plan(known, order, order[0], rescue_option(entry, FILES["x86_64"])) == ()
    options = [decode_option(known[number]) for number in order]
    names = [option.description for option in options if option is not None]
    assert "Orbital rescue" in names[1:] and names.count("Orbital rescue") == 1
    # The artifact rots.
    bench.put_esp(b"MZ" + b"noise" * 5000)
    assert "STARTED rescue" in bench.boot()
    known, order = bench.known()
    assert plan(known, order, order[0], rescue_option(entry, FILES["x86_64"])) == ()


def test_starts_that_do_not_come_far_are_counted_and_then_rescue_has_its_turn(
    bench: Bench,
) -> None:
    """The slot's program never gets as far as early boot, which would take the count back."""
    name, vendor = Path(VARIABLE).name.split("-", 1)
    assert "STARTED slot" in bench.boot()
    assert name not in bench.values(vendor), "Linux has not said yet that it takes counts back"
    bench.write((Write(name, encode(Loads(0, 2))),), vendor)
    for count in (1, 2):
        assert "STARTED slot" in bench.boot()
        assert decode(bench.values(vendor)[name]) == Loads(count, 2)
    console = bench.boot()
    assert "STARTED rescue" in console and "too many starts, starting rescue" in console
    # systemd-boot has taken the wish. Rescue takes the count back; did it not come, then slots
    # have as many starts again.
    assert decode(bench.values(vendor)[name]) == Loads(ASKED, 2)
    assert "STARTED slot" in bench.boot()
    assert decode(bench.values(vendor)[name]) == Loads(1, 2)


@pytest.mark.parametrize("value", [b"\x05", b"\x05\x00"])
def test_a_count_that_is_none_counts_nothing(bench: Bench, value: bytes) -> None:
    name, vendor = Path(VARIABLE).name.split("-", 1)
    bench.write((Write(name, value),), vendor)
    assert "STARTED slot" in bench.boot()
    assert bench.values(vendor).get(name, b"") == value


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
