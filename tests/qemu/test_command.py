"""`orbital qemu`, as typed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orbital.main import main
from orbital.qemu import converse
from qemu.hardware import Hardware
from qemu.machine import Machine
from tests.qemu import bootsector


def test_a_missing_disk_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["qemu", "run", str(tmp_path / "absent.img"), "--no-secure-boot"]) == 3
    assert "orbital image factory" in capsys.readouterr().err


def test_secure_boot_needs_keys_or_an_explicit_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = bootsector.write(tmp_path / "disk.raw")
    assert main(["qemu", "run", str(disk)]) == 6
    assert "--no-secure-boot" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["8080", "0:80", "a:b", "8080:70000"])
def test_a_wrong_forward_is_wrong_usage(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = bootsector.write(tmp_path / "disk.raw")
    with pytest.raises(SystemExit) as stop:
        main(["qemu", "run", str(disk), "--forward", value])
    assert stop.value.code == 2
    assert "8080:80" in capsys.readouterr().err


@pytest.mark.boot
def test_the_escape_keys_reset_and_switch_off(tmp_path: Path) -> None:
    disk = bootsector.write(tmp_path / "disk.raw")
    hardware = Hardware(memory=64, cpus=1, secure_flash=False)
    keyboard, fingers = os.pipe()
    with Machine(hardware, disk, tmp_path, shell=False) as machine:
        talk = threading.Thread(target=converse, args=(machine, keyboard))
        talk.start()
        machine.wait_console("BOOT", 30)
        mark = machine.console.mark
        os.write(fingers, b"\x01r")
        machine.wait_console("BOOT", 30, since=mark)
        assert talk.is_alive()
        os.write(fingers, b"typed \x01x")
        talk.join(10)
        assert not talk.is_alive()
    os.close(fingers)
    os.close(keyboard)
