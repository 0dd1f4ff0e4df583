"""The rescue system on a device of which little is left, from the artifacts that ship.

One telling scenario for each board in CI; the others are the campaign's (`-m campaign`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from qemu.device import Device
from qemu.faults import corrupt, partitions, read_partition, write_partition
from qemu.faulty import patient
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.server import Server

pytestmark = pytest.mark.boot

BOARDS = ("qemu-x86_64", "qemu-aarch64-uboot")
RESCUE_SECONDS = 300
# Reinstallation, first start and health, on a host that does other things as well.
BACK_SECONDS = 1200
ENTERED = r"orbital: rescue: entered"
_MIB = 1 << 20


@dataclass(frozen=True)
class Bench:
    """A factory disk, off, and a server whose address is the product's source."""

    lab: Lab
    machine: Machine
    server: Server

    def damage(self, *labels: str, length: int = 8 * _MIB) -> None:
        """Noise at the start of partitions: no superblock, table or header is left in them."""
        sizes = {part.label: part.size for part in partitions(self.machine.disk)}
        for label in labels:
            corrupt(self.machine.disk, label, length=min(length, sizes[label]))

    def back(self) -> Device:
        """The device, when it has settled again."""
        device = Device(self.machine)
        device.settle(BACK_SECONDS)
        return device


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path, artifacts: Path) -> Iterator[Bench]:
    """A board that has never been switched on."""
    lab = Lab(tmp_path, board=request.param)
    server = Server(lab.repository, artifacts)
    source = msgspec.structs.replace(lab.product.manifest.update, source=server.url)
    manifest = msgspec.structs.replace(lab.product.manifest, update=source)
    lab.product = patient(replace(lab.product, manifest=manifest))
    lab.offer(lab.version)
    server.start()
    directory = artifacts / "machine"
    directory.mkdir()
    machine = lab.machine(directory)
    machine.prepare()
    try:
        yield Bench(lab, machine, server)
    finally:
        machine.kill()
        server.close()


every_board = pytest.mark.parametrize("bench", BOARDS, indirect=True)
uefi = pytest.mark.parametrize("bench", BOARDS[:1], indirect=True)


@every_board
def test_a_device_of_which_only_rescue_is_left_comes_back_by_itself(bench: Bench) -> None:
    """Slots, state, and what starts them are noise; the network has the image."""
    uefi = bench.lab.product.board.firmware.kind == "uefi"
    # U-Boot's script is the board's: where it is lost nothing starts any more.
    bench.damage(*(("esp",) if uefi else ("boot-a",)), "root-a", "state")
    bench.machine.start()
    bench.machine.wait_console(ENTERED, RESCUE_SECONDS)
    status = bench.back().status()
    assert (status["version"], status["committed"]) == (bench.lab.version, True)
    assert bench.machine.console.search("installed") is not None


@pytest.mark.campaign
@every_board
def test_a_wish_starts_rescue_once(bench: Bench) -> None:
    bench.machine.start()
    device = bench.back()
    device.orbital("system", "rescue", "--reason", "a look around", check=False)
    bench.machine.wait_console(f"{ENTERED}.*a look around", RESCUE_SECONDS)
    bench.machine.wait_console("orbital rescue>", RESCUE_SECONDS)
    bench.machine.console.write(b"8\n")
    assert bench.back().status()["slot"] == "a"


@pytest.mark.campaign
@every_board
def test_a_factory_reset_makes_etc_new_and_keeps_the_slot(bench: Bench) -> None:
    bench.machine.start()
    device = bench.back()
    bench.machine.run("echo changed > /etc/owner; sync")
    device.orbital("system", "reset", check=False)
    bench.machine.wait_console(ENTERED, RESCUE_SECONDS)
    device = bench.back()
    assert bench.machine.run("test -e /etc/owner", check=False).returncode == 1
    assert device.status()["version"] == bench.lab.version


@pytest.mark.campaign
@every_board
@pytest.mark.parametrize(
    "damaged", [("root-a",), ("state",), ("boot",), ("boot", "root-a"), ("environment",)]
)
def test_damage_of_one_part_is_repaired(bench: Bench, damaged: tuple[str, ...]) -> None:
    boot = "esp" if bench.lab.product.board.firmware.kind == "uefi" else "boot-a"
    bench.damage(*(boot if label == "boot" else label for label in damaged))
    bench.machine.start()
    assert bench.back().status()["version"] == bench.lab.version


@pytest.mark.campaign
@uefi
def test_rescue_starts_when_the_entries_of_both_slots_are_gone(
    bench: Bench, change_esp: Callable[..., None]
) -> None:
    """The loader is there, and finds only the entry on the partition rescue."""
    change_esp(bench, "mdel", "::/loader/entries/orbital-a.conf")
    bench.machine.start()
    bench.machine.wait_console(ENTERED, RESCUE_SECONDS)
    assert bench.back().status()["slot"] == "a"


@pytest.mark.campaign
@uefi
def test_a_committed_slot_that_the_loader_cannot_start_leads_to_rescue(
    bench: Bench, change_esp: Callable[..., None], tmp_path: Path
) -> None:
    """Nothing counts its starts: systemd-boot comes back to the firmware, which goes on.

    It has a boot option for the rescue system, since the first healthy boot wrote one.
    """
    bench.machine.start()
    bench.back()
    bench.machine.stop()
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(6).randbytes(_MIB))
    change_esp(bench, "mcopy", "-o", noise, "::/EFI/orbital/a.efi")
    bench.machine.start()
    bench.machine.wait_console(ENTERED, RESCUE_SECONDS)
    status = bench.back().status()
    assert (status["slot"], status["version"]) == ("a", bench.lab.version)


@pytest.fixture
def change_esp(tmp_path: Path) -> Callable[..., None]:
    """Runs a program of mtools on the ESP of a device that is off."""

    def change(bench: Bench, program: str, *words: str | Path) -> None:
        esp = tmp_path / "esp"
        read_partition(bench.machine.disk, "esp", esp)
        bench.lab.tools.run(program, "-i", esp, *words)
        write_partition(bench.machine.disk, "esp", esp)

    return change
