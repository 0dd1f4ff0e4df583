"""Asking the firmware for the rescue system, from a system that runs.

First the start record, which says why and what for; then the loader's own means
to start something else once. A power cut in between leaves the wish: the next
slot that starts finds it, in its initramfs, and asks the loader itself.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

from recovery.device import DeviceConfig
from recovery.errors import OrbitalError, RefusedError
from recovery.partitions import partition_number
from recovery.starts import Action, open_starts, wish

ENTRY = "orbital-rescue.conf"
# The Boot Loader Interface of systemd-boot: its vendor GUID, and the variable that
# names the entry to start once.
ONE_SHOT = "sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
# Non-volatile, boot service access, runtime access (UEFI specification, 8.2).
_ATTRIBUTES = (7).to_bytes(4, "little")
# Linux, include/uapi/linux/fs.h: efivarfs makes what it does not know immutable.
_LONG = struct.calcsize("l") << 16
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80006601 | _LONG, 0x40006602 | _LONG, 0x10


def ask(
    config: DeviceConfig, who: str, reason: str = "", action: Action = "", root: Path = Path("/")
) -> None:
    """Makes the next start one of the rescue system. The caller restarts the machine.

    who: the person, for the record. Raises RefusedError when the device has no
    rescue system, StateError or BootControlError when the wish cannot be written.
    """
    file = open_starts(config, root)
    if file is None:
        raise RefusedError(
            "cannot start the rescue system: this device has none",
            details=f"board {config.board} has no partition with the role rescue",
            resolution="give the board one, and the device a new factory disk",
        )
    file.save(wish(file.load(), who, reason, action))
    # ↓ Power cut: the next slot's initramfs finds the wish and asks as we do now.
    with suppress(OSError):
        # Without it the slot's initramfs asks: one start more.
        ask_loader(config, root)


def ask_loader(config: DeviceConfig, root: Path = Path("/")) -> None:
    """Tells a loader that does not read the start record. Raises OSError."""
    if config.boot_control == "systemd-boot":
        set_variable(root / ONE_SHOT, ENTRY)
    elif config.boot_control == "tryboot":
        try:
            number = partition_number(config.rescue.partition, root)
        except OrbitalError as error:
            raise OSError(str(error)) from error
        from recovery.bootcontrol.tryboot import REBOOT_PARAMETER

        path = root / REBOOT_PARAMETER
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}")


def set_variable(path: Path, text: str) -> None:
    """Writes an EFI variable that holds a string. Raises OSError.

    In one write, as efivarfs wants it; the firmware makes it durable.
    """
    with suppress(OSError):
        _make_mutable(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, _ATTRIBUTES + f"{text}\0".encode("utf-16-le"))
    finally:
        os.close(fd)


def _make_mutable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(fd, _GET_FLAGS, flags, True)
        if flags[0] & _IMMUTABLE:
            flags[0] &= ~_IMMUTABLE
            fcntl.ioctl(fd, _SET_FLAGS, flags)
    finally:
        os.close(fd)
