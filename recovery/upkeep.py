"""What a healthy start does for the next ones. Nothing of it may make a boot unhealthy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from recovery.device import DeviceConfig
from recovery.shape import remove_damaged
from recovery.starts import note_healthy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def keep_up(
    config: DeviceConfig,
    root: Path,
    state: Path,
    *,
    volatile: bool,
    say: Callable[[str], None],
) -> None:
    """root: where /dev, /sys are found. state: the mounted state partition. say: one line."""
    note_healthy(config, root, volatile=volatile)
    if volatile:
        return
    if config.boot_control == "systemd-boot":
        from recovery.bootcontrol import firmware_options, loads

        firmware_options.ensure(config, root)
        loads.ensure(config, root)
    # Early boot put them aside, and this start was healthy without them.
    with suppress(OSError):
        for name in remove_damaged(state):
            say(f"removed {name}, which early boot had put aside")
