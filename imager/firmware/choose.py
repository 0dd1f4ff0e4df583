"""From a board to its kind of firmware."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imager.firmware.grub import Grub
from imager.firmware.kind import Firmware
from imager.firmware.raspberry_pi import RaspberryPiFirmware
from imager.firmware.u_boot import UBootFirmware
from imager.firmware.uefi import Uefi
from manifests.board import Board, FirmwareKind

_KINDS: Mapping[FirmwareKind, Callable[[], Firmware]] = {
    "bios": Grub,
    "raspberry-pi": RaspberryPiFirmware,
    "u-boot": UBootFirmware,
    "uefi": Uefi,
}


def firmware_of(board: Board) -> Firmware:
    """The board's kind of firmware."""
    return _KINDS[board.firmware.kind]()
