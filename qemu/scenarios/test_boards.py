"""Every board keeps the promises of the reference board, from the artifact that ships.

Boots are shared: each scenario takes one machine through all it can. CI takes a board
with U-Boot through updates and a damaged slot and boots the one with BIOS; the full
matrix is the campaign (`-m campaign`).
One board only: `-k qemu-armhf`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manifests.catalogue import find, load_board, names
from qemu.device import Device
from qemu.faults import corrupt
from qemu.faulty import patient
from qemu.lab import Lab
from qemu.promises import FILE, Evidence
from qemu.scenarios.counting import count
from qemu.server import Server

pytestmark = pytest.mark.boot

BOARDS = [name for name in names("board") if load_board(find("board", name)).qemu]
# fault → the promise it is about, and what history calls the outcome
FAULTS = {
    "panic": ("panic", "fell-back"),
    "hang-before-watchdog-driver": ("hang", "fell-back"),
    "unhealthy": ("failed health", "rolled-back"),
}


# Another architecture and other firmware than those of the reference board, which is in the other
# scenarios of CI.
_CI = ("qemu-aarch64-uboot",)
_ONLY_BOOTED_IN_CI = ("qemu-x86_64-bios",)


@pytest.fixture(
    params=[
        name if name in _CI else pytest.param(name, marks=pytest.mark.campaign) for name in BOARDS
    ]
)
def board(request: pytest.FixtureRequest) -> str:
    """Each board that can be emulated."""
    return str(request.param)


@pytest.fixture
def board_lab(board: str, tmp_path: Path) -> Lab:
    """The reference product on the board."""
    lab = Lab(tmp_path, board=board)
    lab.product = patient(lab.product)
    return lab


@pytest.fixture
def board_server(board_lab: Lab, serve: Callable[[Path], Server]) -> Server:
    """A web server with the lab's repository."""
    board_lab.offer(board_lab.version)
    return serve(board_lab.repository)


@pytest.fixture
def board_device(board_lab: Lab, artifacts: Path) -> Iterator[Device]:
    """The factory disk, switched on."""
    directory = artifacts / "machine"
    directory.mkdir()
    with board_lab.machine(directory) as machine:
        yield Device(machine)


@pytest.fixture
def evidence(board: str, request: pytest.FixtureRequest) -> Evidence:
    """Where promises that were kept are noted."""
    return Evidence(request.config.getoption("--artifacts") / FILE, board)


def boots(device: Device, evidence: Evidence) -> None:
    """Waits until the factory disk has booted, and looks at what came up."""
    with evidence.of("factory disk boots", "1.0, slot a"):
        status = device.settle()
        assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
        assert status["board"] == evidence.board
        assert device.machine.run("cat /run/orbital/watchdog").output.strip() == "armed"


@pytest.mark.parametrize("board", _ONLY_BOOTED_IN_CI)
def test_a_board_boots_from_its_factory_disk(board_device: Device, evidence: Evidence) -> None:
    boots(board_device, evidence)


def test_a_board_updates_and_falls_back(
    board_device: Device, board_lab: Lab, board_server: Server, evidence: Evidence
) -> None:
    device, machine = board_device, board_device.machine
    boots(device, evidence)

    board_lab.offer_package("counter", version="1.0")
    device.install(board_server.url, "counter")
    before = count(device)
    machine.run("echo 'set by the owner' > /etc/owner; sync")

    # By delta, on every architecture: what is decoded here is what was encoded on the host.
    board_lab.offer("2.0", delta_from=("1.0",))
    with evidence.of("damaged slot", "2.0 in slot b overwritten before its first start"):
        done = device.update(board_server.url, "2.0")["installed"]
        assert (done["notes"], done["wasted"]) == ([], 0)
        assert done["fetched"] < done["full"] / 100
        machine.run("sync")
        machine.stop()
        for offset in range(1 << 20, 100 << 20, 1 << 20):
            corrupt(machine.disk, "root-b", offset=offset, length=256 << 10)
        machine.start()
        status = device.fallen_back()
        assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
        assert device.packages()["counter"]["enabled"] is True

    with evidence.of("good update", "2.0, slot b, tried, checked, committed"):
        device.update(board_server.url, "2.0")
        status = device.restart()
        assert (status["version"], status["slot"], status["committed"]) == ("2.0", "b", True)
        assert machine.run("cat /etc/owner").output == "set by the owner\n"

    with evidence.of("package set follows", "back to 1.0 and forward with its state"):
        assert device.packages()["counter"]["version"] == "1.0"
        assert count(device) >= before


@pytest.mark.campaign
def test_a_board_survives_every_bad_release(
    board_device: Device, board_lab: Lab, board_server: Server, evidence: Evidence
) -> None:
    device = board_device
    device.settle()
    watchdog = board_lab.product.board.watchdog
    for number, (fault, (promise, outcome)) in enumerate(FAULTS.items()):
        if promise == "hang" and (watchdog is None or watchdog.boot_stage == "none"):
            continue  # Nothing in this machine ends it: documented, and absent from the table.
        version = board_lab.offer(f"3.{number}", fault)
        with evidence.of(promise, f"{version} with {fault}: back on 1.0"):
            device.update(board_server.url, version)
            device.reboot()
            status = device.fallen_back(version)
            assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
            events = [event["event"] for event in device.history()]
            verdicts = [event for event in events if event in ("fell-back", "rolled-back")]
            assert verdicts[-1] == outcome
