"""Opens the boot control of the board that a device is."""

from __future__ import annotations

import os
from pathlib import Path

from recovery import process
from recovery.boot import running_image
from recovery.device import DeviceConfig
from recovery.errors import BootControlError, OrbitalError
from recovery.partitions import backing_labels, find_partition, partition_number
from recovery.slots import SLOTS, BootControl, Slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from recovery.bootcontrol.recorded import RecordStore

BOOT_DIRECTORY = "run/orbital/boot"
# dirsync: directory entries reach the disk in the order in which they are made.
BOOT_OPTIONS = "umask=0077,nosuid,nodev,noexec,noatime,dirsync"


def open_boot_control(config: DeviceConfig, root: Path = Path("/")) -> BootControl:
    """The loader's record, with its partition mounted. Raises BootControlError."""
    return _open(config, root, lambda: verified_slot(config, root))


def open_in_rescue(config: DeviceConfig, root: Path = Path("/")) -> BootControl:
    """The same in the rescue system, where no slot runs. Raises BootControlError."""
    return _open(config, root, lambda: None)


def _open(config: DeviceConfig, root: Path, current: Callable[[], Slot | None]) -> BootControl:
    if config.boot_control == "systemd-boot":
        from recovery.bootcontrol.systemd_boot import SystemdBoot

        return SystemdBoot(boot_partition(config, root), current())
    if config.boot_control in ("grub", "u-boot", "tryboot"):
        from recovery.bootcontrol.recorded import Recorded

        return Recorded(_record_store(config, root), current())
    raise BootControlError(
        f"cannot drive boot control {config.boot_control!r}",
        details="known: grub, systemd-boot, tryboot, u-boot",
        resolution="check boot_control in the board's manifest",
    )


def _record_store(config: DeviceConfig, root: Path) -> RecordStore:
    """Where the loader keeps its record of order and tries."""
    try:
        if config.boot_control == "tryboot":
            from recovery.bootcontrol.tryboot import TrybootFile

            numbers = {slot: partition_number(config.boot_slots[slot], root) for slot in SLOTS}
            directory = boot_partition(config, root)
            return TrybootFile(directory, numbers, root, rescue=_rescue_number(config, root))
        environment = find_partition(config.environment, root)
    except (OSError, KeyError, OrbitalError) as error:
        raise BootControlError(
            "cannot find the boot control's record", details=str(error)
        ) from error
    if config.boot_control == "grub":
        from recovery.bootcontrol.grub import GrubEnvironment

        return GrubEnvironment(environment)
    from recovery.bootcontrol.uboot import UbootEnvironment

    return UbootEnvironment(environment)


def _rescue_number(config: DeviceConfig, root: Path) -> int:
    """Number of the rescue system's partition; 0 on a device that has none."""
    if not config.rescue.partition:
        return 0
    try:
        return partition_number(config.rescue.partition, root)
    except OrbitalError:
        return 0


def boot_partition(config: DeviceConfig, root: Path = Path("/")) -> Path:
    """The directory where the partition with the boot artifacts is mounted; mounts it if needed.

    It stays unmounted until somebody needs it: a FAT that is not mounted
    cannot be hurt by a power cut. With another root than "/" the directory is
    used as it is.
    """
    directory = root / BOOT_DIRECTORY
    if root != Path("/") or os.path.ismount(directory):
        return directory
    try:
        device = find_partition(config.boot_partition, root)
        directory.mkdir(parents=True, exist_ok=True)
        process.run(
            ["mount", "-t", "vfat", "-o", BOOT_OPTIONS, device, directory],
            timeout=60,
        )
    except (OSError, OrbitalError) as error:
        raise BootControlError(
            f"cannot mount the boot partition {config.boot_partition!r}", details=str(error)
        ) from error
    return directory


def verified_slot(config: DeviceConfig, root: Path = Path("/")) -> Slot:
    """The running slot as the initramfs named it, checked against the device that / is on.

    Raises BootControlError when they differ: nothing may be written then.
    """
    try:
        slot = running_image(root).slot
        labels = backing_labels(_root_device(root), root)
    except (OSError, OrbitalError) as error:
        raise BootControlError("cannot tell which slot runs", details=str(error)) from error
    if labels and config.slots[slot] not in labels:
        raise BootControlError(
            f"cannot trust the running slot: the initramfs named {slot}",
            details=f"the root file system is on {', '.join(labels)}",
        )
    return slot


def _root_device(root: Path) -> str:
    """major:minor of the file system on /: the top of the stack of mounts there."""
    found = ""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] == "/":
            found = fields[2]
    return found
