"""From a board to its kind of firmware."""

from __future__ import annotations

from imager.firmware.grub import Grub
from imager.firmware.kind import Firmware
from imager.firmware.raspberry_pi import RaspberryPiFirmware
from imager.firmware.uefi import Uefi
from manifests.board import Board
from recovery.errors import ManifestError


def firmware_of(board: Board) -> Firmware:
    """The board's kind of firmware. Raises ManifestError when images cannot be built for it."""
    if board.firmware.kind == "uefi":
        return Uefi()
    if board.firmware.kind == "bios":
        return Grub()
    if board.firmware.kind == "raspberry-pi":
        return RaspberryPiFirmware()
    raise ManifestError(
        f"cannot build for board {board.board}: firmware {board.firmware.kind} is not supported",
        resolution="use a board with uefi or bios firmware",
    )
