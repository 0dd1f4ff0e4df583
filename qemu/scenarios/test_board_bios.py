"""What GRUB's script does on the board with a BIOS; what every board does is in test_boards.py.

Without Linux, in seconds: tests/imager/test_grub_loader.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu.device import Device
from qemu.fixtures import MachineFactory, SnapshotStore
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.server import Server
from qemu.snapshot import Snapshot
from recovery.bootcontrol import grubenv
from recovery.bootcontrol.copies import OFFSETS
from recovery.bootcontrol.recorded import GOOD, Count, Record

pytestmark = [pytest.mark.boot, pytest.mark.campaign]

BOARD = "qemu-x86_64-bios"


@pytest.fixture(scope="module")
def board_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The reference product on the board."""
    return Lab(tmp_path_factory.mktemp(BOARD), board=BOARD)


@pytest.fixture(scope="module")
def board_factory_device(board_lab: Lab, snapshots: SnapshotStore) -> Snapshot:
    """The factory disk after its first boot, running and settled."""

    def make(directory: Path) -> Machine:
        machine = board_lab.machine(directory)
        machine.start()
        device = Device(machine)
        device.settle()
        device.rest()
        machine.run("sync")
        return machine

    return snapshots.get(f"factory-{BOARD}", make)


@pytest.fixture
def board_device(board_factory_device: Snapshot, machines: MachineFactory) -> Device:
    """A device that runs version 1.0 from the factory in slot a."""
    return Device(machines.restore(board_factory_device))


@pytest.fixture
def board_server(board_lab: Lab, serve: Callable[[Path], Server]) -> Server:
    """A web server with the lab's repository."""
    board_lab.offer(board_lab.version)
    return serve(board_lab.repository)


def _environment(device: Device) -> list[Record]:
    """Both copies of the record, read from the running device."""
    size = OFFSETS[1] + grubenv.SIZE
    data = device.machine.run(f"head -c {size} /dev/disk/by-partlabel/environment").raw
    return [grubenv.decode(data[offset : offset + grubenv.SIZE]).record for offset in OFFSETS]


def test_grub_arms_the_watchdog_and_counts_every_try(
    board_device: Device, board_lab: Lab, board_server: Server
) -> None:
    machine = board_device.machine
    assert _environment(board_device) == [Record(("a",), a=GOOD)] * 2
    version = board_lab.offer("3.0", "panic")
    board_device.update(board_server.url, version)
    granted = _environment(board_device)
    assert granted[0] == granted[1]
    tries = board_lab.product.manifest.trial.tries
    assert granted[0] == Record(("b", "a"), a=GOOD, b=Count(tries))
    mark = machine.console.mark
    board_device.reboot()
    board_device.fallen_back()
    console = machine.console.text[mark:]
    assert re.findall(r"slot b is on trial, (\d) tries left", console) == [
        str(left) for left in reversed(range(tries))
    ]
    assert re.findall(r"starting slot (\w)", console) == ["b"] * tries + ["a"]
    assert console.count("orbital: firmware: watchdog armed") == tries + 1
    assert len(re.findall(r"(?<!end )Kernel panic - not syncing", console)) == tries
    after = _environment(board_device)
    assert after[0] == after[1]
    assert after[0].live() == ("a",)
