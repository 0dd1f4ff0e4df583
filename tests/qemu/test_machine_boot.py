"""The harness against a real QEMU, with a guest of one sector."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from qemu import faults, snapshot, storage
from qemu.errors import DeadlineExpired, MachineError, MachineExited
from qemu.hardware import Hardware
from qemu.machine import Machine
from tests.qemu import bootsector

pytestmark = pytest.mark.boot

# No UEFI: QEMU's own firmware starts a boot sector.
HARDWARE = Hardware(memory=64, cpus=1, secure_flash=False)


def make(tmp_path: Path, name: str = "machine") -> Machine:
    disk = tmp_path / "disk.raw"
    if not disk.exists():
        bootsector.write(disk)
    directory = tmp_path / name
    directory.mkdir()
    return Machine(HARDWARE, disk, directory, shell=False)


def test_a_power_cut_keeps_the_disk_and_the_machine_starts_again(tmp_path: Path) -> None:
    machine = make(tmp_path)
    with machine:
        machine.wait_console("BOOT", 30)
        with faults.cut_after_written(machine, 3 * 512) as cut:
            cut.wait(30)
        assert cut.happened
        assert not machine.running
        machine.start()
        machine.wait_console("BOOT", 30)
    with storage.open_disk(machine.disk) as disk:
        assert disk.read(8 * 512, 512) == disk.read(0, 512)
    assert (tmp_path / "disk.raw").read_bytes()[8 * 512 : 9 * 512] == bytes(512)
    assert (machine.directory / "console.log").read_text().count("] BOOT") == 2


def test_a_power_cut_at_a_console_pattern_comes_only_after_it(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        with faults.cut_at_console(machine, r"\.\.\.") as cut:
            cut.wait(30)
        assert "..." in machine.console.text


def test_a_moment_that_does_not_come_cuts_nothing(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        machine.wait_console("BOOT", 30)
        with (
            faults.cut_at_console(machine, "never printed") as cut,
            pytest.raises(DeadlineExpired, match="its moment did not come"),
        ):
            cut.wait(0.5)
        assert not cut.happened
        assert machine.running


def test_disk_errors_reach_the_guest_and_end(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        machine.wait_console(r"\.", 30)
        with faults.disk_errors(machine, operation="write"):
            machine.wait_console("EEE", 30)
        mark = machine.console.mark
        machine.wait_console(r"\.\.\.", 30, since=mark)


def test_disk_errors_of_some_sectors_leave_the_others_alone(tmp_path: Path) -> None:
    written = 8 * 512  # sector 9 of the first track
    with make(tmp_path) as machine:
        machine.wait_console(r"\.", 30)
        mark = machine.console.mark
        with faults.disk_errors(machine, operation="write", offset=range(0, written, 512)):
            machine.wait_console(r"\.\.\.", 30, since=mark)
        assert "E" not in machine.console.text[mark:]
        with faults.disk_errors(machine, operation="write", offset=(0, written)):
            machine.wait_console("EEE", 30, since=mark)


def test_a_stalled_disk_stands_still_and_goes_on(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        machine.wait_console(r"\.\.\.", 30)
        with faults.disk_stalled(machine):
            time.sleep(0.5)
            before = machine.written()
            time.sleep(1)
            # The first request after the limit may still pass.
            assert machine.written() - before <= 512
        mark = machine.console.mark
        machine.wait_console(r"\.\.\.", 30, since=mark)


def test_a_hang_stops_the_guest_until_a_reset(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        machine.wait_console(r"\.\.\.", 30)
        faults.hang(machine)
        time.sleep(0.3)
        mark = machine.console.mark
        time.sleep(1)
        assert machine.console.mark == mark
        events = machine.qmp.mark
        machine.reset()
        machine.wait_reset(10, since=events)
        machine.wait_console("BOOT", 30, since=mark)


def test_machines_continue_from_a_snapshot_each_with_its_own_disk(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        machine.wait_console(r"\.\.\.", 30)
        snapshot.save(machine, tmp_path / "saved")
        assert not machine.running
    saved = snapshot.load(tmp_path / "saved")
    assert saved is not None
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        with snapshot.restore(saved, directory) as machine:
            machine.wait_console(r"\.\.\.", 10)
            assert "BOOT" not in machine.console.text
            faults_disk = machine.disk
        assert faults_disk.parent == directory
    (tmp_path / "third").mkdir()
    with pytest.raises(MachineError, match=r"QEMU 7\.2\.22 Debian has saved it, this is "):
        snapshot.restore(replace(saved, emulator="7.2.22 Debian"), tmp_path / "third")


def test_a_machine_that_qemu_refuses_says_why(tmp_path: Path) -> None:
    disk = bootsector.write(tmp_path / "disk.raw")
    machine = Machine(HARDWARE, disk, tmp_path, shell=False, extra=("-device", "no-such-device"))
    with pytest.raises(MachineExited, match="no-such-device"):
        machine.start()


def test_waiting_on_a_machine_that_is_killed_ends_at_once(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        with faults.cut_at_console(machine, r"\.\.") as cut:
            started = time.monotonic()
            with pytest.raises(MachineExited, match="exit code -9"):
                machine.wait_console("never printed", 60)
            assert time.monotonic() - started < 30
        assert cut.happened


def test_an_opened_disk_refuses_a_running_machine(tmp_path: Path) -> None:
    with make(tmp_path) as machine:
        machine.wait_console("BOOT", 30)
        with (
            pytest.raises(MachineError, match="lock"),
            storage.open_disk(machine.disk, writable=True),
        ):
            pass
