"""QEMU's command line as a function of the machine."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from manifests.board import Board
from manifests.catalogue import find, load_board
from qemu.errors import MachineError
from qemu.hardware import Forward, Hardware, Wiring, command_line, of_board

WIRING = Wiring(disk=Path("/d,1/disk"), qmp=Path("/s/qmp"), console=Path("/s/console"))


def option(command: list[str], name: str) -> list[str]:
    """The values of an option."""
    return [value for key, value in itertools.pairwise(command) if key == name]


def board() -> Board:
    return load_board(find("board", "qemu-x86_64"))


def test_the_reference_board_becomes_a_machine() -> None:
    hardware = of_board(board(), Path("/tools"))
    assert hardware.firmware_code == Path("/tools/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
    assert hardware.memory == 1024
    command = command_line(hardware, WIRING)
    assert len(option(command, "-accel")) == 1
    assert option(command, "-action") == ["watchdog=reset"]
    assert "driver=cfi.pflash01,property=secure,value=on" in option(command, "-global")


def test_a_boards_devices_and_arguments_are_used() -> None:
    emulation = board().qemu
    assert emulation is not None
    changed = msgspec.structs.replace(
        emulation, network_device="e1000", watchdog_device=None, arguments=("-accel", "tcg")
    )
    command = command_line(of_board(msgspec.structs.replace(board(), qemu=changed)), WIRING)
    assert option(command, "-accel") == ["tcg"]
    assert any(value.startswith("e1000,netdev=") for value in option(command, "-device"))
    assert "-action" not in command


def test_errors_of_any_disk_reach_the_guest() -> None:
    virtio, nvme = (
        next(value for value in option(command, "-device") if "drive=image0" in value)
        for command in (
            command_line(of_board(load_board(find("board", name))), WIRING)
            for name in ("qemu-x86_64", "qemu-x86_64-nvme")
        )
    )
    assert "werror=report,rerror=report" in virtio
    # QEMU refuses to start an NVMe controller with these.
    assert nvme == "nvme,serial=orbital,id=disk0,drive=image0,bootindex=1"


def test_a_board_without_emulation_is_refused() -> None:
    with pytest.raises(MachineError, match="it has no section qemu"):
        of_board(msgspec.structs.replace(board(), qemu=None))


def test_paths_with_commas_reach_qemu_whole() -> None:
    blockdev = option(command_line(Hardware(), WIRING), "-blockdev")[0]
    assert blockdev.endswith("filename=/d,,1/disk")


def test_the_watchdog_resets_the_machine() -> None:
    command = command_line(Hardware(), WIRING)
    assert option(command, "-action") == ["watchdog=reset"]
    assert "i6300esb,id=watchdog0" in option(command, "-device")


def test_only_the_loopback_is_forwarded() -> None:
    wiring = Wiring(
        disk=Path("/d"), qmp=Path("/q"), console=Path("/c"), forwards=(Forward(8080, 80),)
    )
    (network,) = option(command_line(Hardware(), wiring), "-netdev")
    assert network == "user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80"


def test_a_machine_without_network_has_none() -> None:
    wiring = Wiring(disk=Path("/d"), qmp=Path("/q"), console=Path("/c"), network=False)
    command = command_line(Hardware(), wiring)
    assert option(command, "-netdev") == []
    assert option(command, "-nic") == ["none"]


def test_secure_flash_needs_its_options() -> None:
    firmware = Hardware(firmware_code=Path("/code"), firmware_variables=Path("/template"))
    wiring = Wiring(
        disk=Path("/d"), qmp=Path("/q"), console=Path("/c"), variables=Path("/own/variables")
    )
    command = command_line(firmware, wiring)
    drives = option(command, "-drive")
    assert "readonly=on" in drives[0] and "file=/code" in drives[0]
    assert "file=/own/variables" in drives[1] and "readonly" not in drives[1]
    assert "driver=cfi.pflash01,property=secure,value=on" in option(command, "-global")
