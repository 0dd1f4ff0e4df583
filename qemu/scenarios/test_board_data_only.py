"""A board that is nothing but a file (docs/porting.md): boots, updates, and falls back.

Any board with a section qemu: --board NAME.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server

pytestmark = pytest.mark.boot

# No snapshot: QEMU cannot save the state of an NVMe controller.
BOOT_SECONDS = 600


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    """The reference product on the board."""
    return Lab(tmp_path, board=request.config.getoption("--board"))


def test_a_board_of_data_alone_boots_updates_and_falls_back(
    lab: Lab, server: Server, artifacts: Path
) -> None:
    """One machine for all: the factory's version, a good update, and one that panics."""
    directory = artifacts / "machine"
    directory.mkdir()
    with lab.machine(directory) as machine:
        device = Device(machine)
        status = device.settle(BOOT_SECONDS)
        assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
        assert status["board"] == lab.product.board.board
        if "nvme" in lab.product.board.board:
            assert machine.run("findmnt -no SOURCE /state").output.startswith("/dev/nvme0n1p")

        lab.offer("2.0")
        device.update(server.url, "2.0")
        status = device.restart(BOOT_SECONDS)
        assert (status["version"], status["slot"], status["committed"]) == ("2.0", "b", True)
        device.settle(300, when=lambda found: not found["on_probation"])

        bad = lab.offer("3.0", "panic")
        device.update(server.url, bad)
        device.reboot()
        status = device.settle(900, when=lambda found: bool(found["quarantined"]))
        assert (status["version"], status["slot"], status["committed"]) == ("2.0", "b", True)
        assert [item["version"] for item in status["quarantined"]] == [bad]
