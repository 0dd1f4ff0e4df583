"""The recovery button: U-Boot's script on a board whose GPIO chip has a key.

QEMU's virt machine has a PL061 when it has no ACPI, and QMP's system_powerdown holds the key at its
line 3 down for 100 ms. Debian's U-Boot for it has no command gpio, so the condition reads the
chip's register; a board whose U-Boot has the command says e.g. gpio input 5.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from imager.signing import load_pe_signer
from imager.tools import Tools
from manifests.catalogue import find, load_board
from qemu import emulator
from qemu.deadline import Deadline
from qemu.errors import MachineError
from qemu.hardware import of_board
from qemu.qmp import Qmp
from recovery.process import run
from recovery.slots import SLOTS
from tests.imager.test_u_boot_loader import BOARDS, SECONDS, Bench, fit_of, loader_disk, small

pytestmark = pytest.mark.boot

# GPIODATA of lines 3 (ARM DDI 0190B, 3.3.1), of the chip at QEMU's hw/arm/virt.c, VIRT_GPIO.
PRESSED = "itest.b *9030020 == 8"


@pytest.fixture(scope="module")
def bench(tools: Tools, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Slot a and rescue can start; slot a is what the factory's record starts."""
    board = small(load_board(find("board", BOARDS[0])))
    board = msgspec.structs.replace(board, rescue_button=PRESSED)
    disk = tmp_path_factory.mktemp("button") / "disk"
    layout = loader_disk(board, disk, load_pe_signer(keys, tools, time=0), tools)
    made = Bench(board, layout, disk, tools)
    with disk.open("r+b") as out:
        for label, name in ((f"boot-{SLOTS[0]}", "a"), ("rescue", "rescue")):
            out.seek(layout.extent(label).start)
            out.write(fit_of(made, name, ""))
    return made


@contextmanager
def _finger(path: Path) -> Iterator[None]:
    """Holds the key of the machine with that QMP socket down, from as soon as there is one."""
    lifted = threading.Event()

    def press() -> None:
        deadline = Deadline(SECONDS)
        while not lifted.wait(0.02) and not deadline.expired:
            try:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(path))
                break
            except OSError:
                connection.close()
        else:
            return
        qmp = Qmp(connection, path.with_suffix(".log"))
        try:
            while not lifted.wait(0.02):
                qmp.execute("system_powerdown")
        except MachineError:
            pass  # It has ended.
        finally:
            qmp.close()

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    try:
        yield
    finally:
        lifted.set()
        thread.join()


@pytest.fixture
def start(bench: Bench, tmp_path: Path) -> Callable[..., str]:
    """Starts the board, with the button held or not; the console until the first reset."""

    def once(*, held: bool) -> str:
        hardware = of_board(bench.board, bench.tools.file("."))
        monitor = tmp_path / "qmp"
        disk = tmp_path / "disk"
        disk.write_bytes(bench.disk.read_bytes())
        command = [
            *emulator.command(hardware.binary),
            *("-machine", f"{hardware.machine},acpi=off", "-cpu", hardware.cpu),
            *("-m", str(hardware.memory), "-nodefaults", "-display", "none", "-nic", "none"),
            *(f"-{hardware.firmware_option}", str(hardware.firmware_code)),
            *("-blockdev", f"driver=file,node-name=disk,filename={disk}"),
            *("-device", f"{hardware.disk},drive=disk", "-device", hardware.watchdog),
            *("-serial", "stdio", "-action", "reboot=shutdown,watchdog=reset"),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
        ]
        if not held:
            return run(command, timeout=SECONDS).stdout
        with _finger(monitor):
            return run(command, timeout=SECONDS).stdout

    return once


def test_a_held_button_starts_rescue_and_one_that_is_not_held_starts_the_slot(
    start: Callable[..., str],
) -> None:
    console = start(held=True)
    assert "orbital: firmware: starting the rescue system" in console
    assert "FIT of slot rescue" in console
    console = start(held=False)
    assert "FIT of slot a" in console
    assert "rescue" not in console
