"""Boards with U-Boot keep the promises of the reference board.

One machine a board, from the factory's first boot on: what the tests ask of it they ask
relative to what it runs, so each can be run alone. Only the last section knows U-Boot.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest

from manifests.catalogue import Product
from qemu import gpt, storage
from qemu.device import Device, Document
from qemu.lab import Lab
from qemu.server import Server
from recovery.bootcontrol import ubootenv
from recovery.bootcontrol.recorded import GOOD

# One board does the most important of this in CI: test_boards.py.
pytestmark = [pytest.mark.boot, pytest.mark.campaign]

BOARDS = ("qemu-aarch64-uboot", "qemu-riscv64", "qemu-armhf")
# RISC-V and 32-bit Arm are slow to emulate; a trial that is merely slow is not to fail.
DEADLINE_SECONDS = 900


class Board(NamedTuple):
    """A device of a board that has settled, its lab, and a web server with the lab's releases."""

    device: Device
    lab: Lab
    server: Server

    def settled(self) -> Document:
        """The status, with nothing open."""
        return self.device.settle(when=lambda found: not found["on_probation"])

    def fall_back(self, version: str) -> tuple[Document, str]:
        """Waits until the version is quarantined; what the console said from the reboot on."""
        console = self.device.machine.console
        mark = console.mark
        self.device.reboot()
        return self.device.fallen_back(version), console.text[mark:]

    def start(self, version: str) -> Document:
        """Switches the machine on and waits until the version is quarantined."""
        self.device.machine.start()
        return self.device.fallen_back(version)


@pytest.fixture(scope="module", params=BOARDS)
def board(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The board's machine after its first boot."""
    name = request.param
    directory = (request.config.getoption("--artifacts") / f"board-{name}").resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    lab = Lab(tmp_path_factory.mktemp(name), board=name)
    lab.product = _patient(lab.product)
    lab.offer(lab.version)
    server = Server(lab.repository, directory)
    server.start()
    machine = lab.machine(directory)
    try:
        with machine:
            device = Device(machine)
            device.settle()
            yield Board(device, lab, server)
    finally:
        server.close()
        machine.disk.unlink(missing_ok=True)


def _patient(product: Product) -> Product:
    trial = msgspec.structs.replace(product.manifest.trial, deadline_seconds=DEADLINE_SECONDS)
    return replace(product, manifest=msgspec.structs.replace(product.manifest, trial=trial))


def _running(status: Document) -> tuple[str, str, bool]:
    return status["version"], status["slot"], status["committed"]


def test_the_factory_device_is_settled_and_committed(board: Board) -> None:
    status = board.settled()
    assert status["committed"] is True
    assert status["board"] == board.lab.product.board.board
    assert status["architecture"] == board.lab.product.board.architecture
    machine = board.device.machine
    assert machine.run("systemctl list-units --failed --no-legend --plain").output == ""
    assert machine.run("cat /run/orbital/watchdog").output == "armed\n"


def test_an_update_goes_to_the_other_slot_and_keeps_the_configuration(board: Board) -> None:
    before = board.settled()
    version = board.lab.offer("2.0")
    board.device.machine.run("echo 'set by the owner' > /etc/owner")
    board.device.update(board.server.url, version)
    status = board.device.restart()
    other = "b" if before["slot"] == "a" else "a"
    assert _running(status) == (version, other, True)
    assert board.device.machine.run("cat /etc/owner").output == "set by the owner\n"


# fault → what the outcome is called, and a sign of it on the console for each try.
FAULTS = {
    "panic": ("fell-back", "Kernel panic"),
    "hang-initramfs": ("fell-back", "orbital: initramfs: watchdog started"),
    "unhealthy": ("rolled-back", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_release_ends_with_the_old_version_running(fault: str, board: Board) -> None:
    outcome, sign = FAULTS[fault]
    before = board.settled()
    version = board.lab.offer(f"3.{list(FAULTS).index(fault)}", fault)
    board.device.update(board.server.url, version)
    status, console = board.fall_back(version)
    assert _running(status) == _running(before)
    last = [event["event"] for event in board.device.history()][-1]
    assert last == outcome
    tries = re.findall(r"slot (\w) is on trial, (\d) tries left", console)
    if outcome == "fell-back":
        # Every granted try was used, by the loader, before it started.
        other = "b" if before["slot"] == "a" else "a"
        granted = board.lab.product.manifest.trial.tries
        assert tries == [(other, str(left)) for left in reversed(range(granted))]
        assert console.count(sign) >= len(tries)


@pytest.mark.parametrize("part", ["root", "boot"])
def test_a_slot_that_rots_before_its_first_start_falls_back(part: str, board: Board) -> None:
    before = board.settled()
    version = board.lab.offer("2.1" if part == "root" else "2.2")
    board.device.update(board.server.url, version)
    machine = board.device.machine
    machine.run("sync")
    machine.stop()
    with storage.open_disk(machine.disk, writable=True) as disk:
        label = f"{part}-{'b' if before['slot'] == 'a' else 'a'}"
        found = gpt.by_label(gpt.read_partitions(disk.read), label)
        for offset in range(1 << 20, found.size, 256 << 10):
            disk.write(found.offset + offset, b"rot" * 1365 + b"!")
    assert _running(board.start(version)) == _running(before)


def test_a_hang_before_the_kernels_watchdog_driver_falls_back(board: Board) -> None:
    """Only the loader's arming ends this one."""
    watchdog = board.lab.product.board.watchdog
    assert watchdog is not None
    if watchdog.boot_stage == "none":
        pytest.skip("Debian's kernel of this board has no driver for a watchdog that QEMU has")
    before = board.settled()
    version = board.lab.offer("3.9", "hang-before-watchdog-driver")
    board.device.update(board.server.url, version)
    status, console = board.fall_back(version)
    assert _running(status) == _running(before)
    granted = board.lab.product.manifest.trial.tries
    assert console.count("orbital: firmware: watchdog armed") == granted + 1


# U-Boot


def test_the_running_slot_is_good_in_the_record(board: Board) -> None:
    """After whatever U-Boot and Linux wrote: two copies, one flag apart, the newer one counts."""
    slot = board.settled()["slot"]
    data = board.device.machine.run(
        f"head -c {2 * ubootenv.SIZE} /dev/disk/by-partlabel/environment"
    ).raw
    copies = [ubootenv.decode(data[at : at + ubootenv.SIZE]) for at in (0, ubootenv.SIZE)]
    assert (copies[0].flag - copies[1].flag) % 256 in (1, 255)
    newer = copies[ubootenv.second_is_newer(copies[0].flag, copies[1].flag)]
    record = ubootenv.record_of(newer)
    assert record.order[0] == slot
    assert record.count(slot) == GOOD
