"""The board with a BIOS and GRUB keeps the promises of the reference board.

What `board_device` stands for is any board; only the last section knows GRUB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu import gpt, storage
from qemu.device import Device
from qemu.fixtures import MachineFactory, SnapshotStore
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.server import Server
from qemu.snapshot import Snapshot
from recovery.bootcontrol import grubenv
from recovery.bootcontrol.copies import OFFSETS
from recovery.bootcontrol.recorded import GOOD, Count, Record

pytestmark = pytest.mark.boot

BOARD = "qemu-x86_64-bios"
BOOT_SECONDS = 600
# Long enough for every granted try to end in the watchdog (60 s each).
FALLBACK_SECONDS = 900


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
        Device(machine).settle(BOOT_SECONDS)
        machine.run("systemctl is-system-running --wait", BOOT_SECONDS, check=False)
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


def test_the_factory_device_is_settled_and_committed(board_device: Device) -> None:
    status = board_device.status()
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    assert status["board"] == BOARD
    failed = board_device.machine.run("systemctl list-units --failed --no-legend --plain").output
    assert failed == ""


def test_updates_go_to_b_and_back_to_a_and_keep_the_configuration(
    board_device: Device, board_lab: Lab, board_server: Server
) -> None:
    board_lab.offer("2.0")
    board_device.machine.run("echo 'set by the owner' > /etc/owner")
    done = board_device.update(board_server.url, "2.0")
    assert done["installed"]["slot"] == "b"
    status = board_device.restart(BOOT_SECONDS)
    assert (status["version"], status["slot"], status["committed"]) == ("2.0", "b", True)
    assert board_device.machine.run("cat /etc/owner").output == "set by the owner\n"
    board_device.settle(300, when=lambda found: not found["on_probation"])

    board_lab.offer("2.1")
    board_device.update(board_server.url, "2.1")
    status = board_device.restart(BOOT_SECONDS)
    assert (status["version"], status["slot"], status["committed"]) == ("2.1", "a", True)


# fault → what the outcome is called. One for each stage: kernel, before the kernel's
# watchdog driver (only the loader's arming ends this one), userspace.
FAULTS = {
    "panic": "fell-back",
    "hang-before-watchdog-driver": "fell-back",
    "unhealthy": "rolled-back",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_release_ends_with_the_old_version_running(
    fault: str, board_device: Device, board_lab: Lab, board_server: Server
) -> None:
    version = board_lab.offer(f"3.{list(FAULTS).index(fault)}", fault)
    board_device.update(board_server.url, version)
    board_device.reboot()
    status = board_device.settle(FALLBACK_SECONDS, when=lambda found: bool(found["quarantined"]))
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    assert [item["version"] for item in status["quarantined"]] == [version]
    last = [event["event"] for event in board_device.history()]
    assert [event for event in last if event in FAULTS.values()] == [FAULTS[fault]]


@pytest.mark.parametrize("label", ["root-b", "boot-b"])
def test_a_slot_that_rots_before_its_first_start_falls_back(
    label: str, board_device: Device, board_lab: Lab, board_server: Server
) -> None:
    board_lab.offer("2.0")
    board_device.update(board_server.url, "2.0")
    board_device.machine.run("sync")
    board_device.machine.stop()
    with storage.open_disk(board_device.machine.disk, writable=True) as disk:
        part = gpt.by_label(gpt.read_partitions(disk.read), label)
        for offset in range(1 << 20, part.size, 256 << 10):
            disk.write(part.offset + offset, b"rot" * 1365 + b"!")
    board_device.machine.start()
    status = board_device.settle(FALLBACK_SECONDS, when=lambda found: bool(found["quarantined"]))
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    assert [item["version"] for item in status["quarantined"]] == ["2.0"]


# GRUB


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
    board_device.settle(FALLBACK_SECONDS, when=lambda found: bool(found["quarantined"]))
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
