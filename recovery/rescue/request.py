"""Asking the firmware for the rescue system, from a system that runs.

First the start record, which says why and what for; then the loader's own means
to start something else once. A power cut in between leaves the wish: the next
slot that starts finds it, in its initramfs, and asks the loader itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from recovery import efivars
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError, RefusedError
from recovery.partitions import partition_number
from recovery.starts import Action, open_starts, wish

ENTRY = "orbital-rescue.conf"
# The Boot Loader Interface of systemd-boot: its vendor GUID, and the variable that
# names the entry to start once.
ONE_SHOT = f"{efivars.DIRECTORY}/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


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
        efivars.write(root / ONE_SHOT, f"{ENTRY}\0".encode("utf-16-le"))
    elif config.boot_control == "tryboot":
        try:
            number = partition_number(config.rescue.partition, root)
        except OrbitalError as error:
            raise OSError(str(error)) from error
        from recovery.bootcontrol.tryboot import REBOOT_PARAMETER

        path = root / REBOOT_PARAMETER
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}")
