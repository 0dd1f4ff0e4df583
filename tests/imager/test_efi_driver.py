"""The watchdog driver: compiled the same each time, signed, for known hardware only."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from imager.firmware.efi_driver import build_watchdog_driver
from imager.signing import load_pe_signer, verify_pe
from imager.tools import Tools
from manifests.board import Watchdog
from recovery.errors import ManifestError, ToolError

WATCHDOG = Watchdog("i6300esb", "heartbeat", 60, "efi-driver")
EFI_BOOT_SERVICE_DRIVER = 11


def _build(tools: Tools, keys: Path, output: Path, watchdog: Watchdog = WATCHDOG) -> bytes:
    signer = load_pe_signer(keys, tools, time=1_760_000_000)
    build_watchdog_driver(watchdog, "x86_64", signer, output, tools)
    return output.read_bytes()


def test_the_driver_is_a_signed_boot_service_driver(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    data = _build(tools, keys, tmp_path / "driver.efi")
    verify_pe(tools, tmp_path / "driver.efi", keys / "secure-boot/db.pem")
    (header,) = struct.unpack_from("<I", data, 0x3C)
    (machine,) = struct.unpack_from("<H", data, header + 4)
    (subsystem,) = struct.unpack_from("<H", data, header + 24 + 68)
    assert (machine, subsystem) == (0x8664, EFI_BOOT_SERVICE_DRIVER)
    assert "orbital: firmware: watchdog armed".encode("utf-16-le") in data


def test_the_same_board_gives_the_same_bytes(tools: Tools, keys: Path, tmp_path: Path) -> None:
    assert _build(tools, keys, tmp_path / "1") == _build(tools, keys, tmp_path / "2")


def test_the_board_sets_the_timeout(tools: Tools, keys: Path, tmp_path: Path) -> None:
    # Each of the two stages counts half of the timeout, in ticks of 1/1024 s.
    for seconds, other in ((333, 777), (777, 333)):
        watchdog = msgspec.structs.replace(WATCHDOG, timeout_seconds=seconds)
        data = _build(tools, keys, tmp_path / f"{seconds}", watchdog)
        assert struct.pack("<I", seconds * 512) in data
        assert struct.pack("<I", other * 512) not in data


def test_a_timeout_that_the_hardware_cannot_count_does_not_compile(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    too_long = msgspec.structs.replace(WATCHDOG, timeout_seconds=2048)
    with pytest.raises(ToolError, match="cannot complete clang"):
        _build(tools, keys, tmp_path / "out", too_long)
    assert not (tmp_path / "out").exists()


def test_other_watchdogs_and_architectures_say_what_to_do(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="no EFI driver for it") as error:
        _build(tools, keys, tmp_path / "out", Watchdog("other_wdt", "timeout", 60, "efi-driver"))
    assert "boot_stage: none" in error.value.resolution
    signer = load_pe_signer(keys, tools, time=0)
    with pytest.raises(ManifestError, match="cannot build an EFI driver for riscv64"):
        build_watchdog_driver(WATCHDOG, "riscv64", signer, tmp_path / "out", tools)
