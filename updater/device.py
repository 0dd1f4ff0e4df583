"""The device that is updated: its slots, boot partition, state and boot loader, in one value.

Tests and emulated devices build it over plain files and directories; the code
that installs is the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recovery.boot import load_report, running_generation
from recovery.bootcontrol.open import boot_partition, open_boot_control
from recovery.device import DeviceConfig
from recovery.device import load as load_config
from recovery.errors import StateError
from recovery.packages.host import PackageHost
from recovery.partitions import find_partition
from recovery.slots import SLOTS, BootControl, Slot, other_slot
from recovery.state import STATE_ROOT, StateStore
from updater.packages.device import PackageDevice
from updater.plan import Facts

ANCHOR = "usr/lib/orbital/trust/root.json"


@dataclass(frozen=True)
class Device:
    """Everything an update touches.

    slots: block device (or plain file) of each slot. boot_directory: where the
    boot partition is mounted; None without one. boot_slots: block device of each
    slot's boot artifact; empty where artifacts are files in the boot directory.
    anchor: TUF root metadata of the running image. boot_id: the kernel's name of
    this boot. generation: the one that runs.
    root: where /run and /usr are found. host: for packages; None for the
    device's own, made when there are packages. target: the slot to write, where no
    slot runs: in the rescue system. workers: of a transfer; None: as many as are quickest.
    """

    config: DeviceConfig
    store: StateStore
    boot_control: BootControl
    slots: Mapping[Slot, Path]
    boot_directory: Path | None
    anchor: Path
    boot_id: str
    generation: int
    root: Path = Path("/")
    host: PackageHost | None = None
    boot_slots: Mapping[Slot, Path] = field(default_factory=dict)
    target: Slot | None = None
    workers: int | None = None

    @property
    def packages(self) -> PackageDevice:
        """The device as a change of its packages sees it. Raises ManifestError."""
        from recovery.packages.system import SystemHost

        return PackageDevice(
            config=self.config,
            store=self.store,
            host=self.host or SystemHost(self.root),
            slot=self.boot_control.current_slot(),
            boot_id=self.boot_id,
            root=self.root,
        )

    @property
    def inactive(self) -> Slot:
        """The slot that does not run and is written; in the rescue system `target`."""
        return self.target or other_slot(self.boot_control.current_slot())

    def boot_artifact(self, slot: Slot) -> Path:
        """Where the loader finds the slot's boot artifact (ARCHITECTURE.md, Disk)."""
        if self.boot_slots:
            return self.boot_slots[slot]
        if self.boot_directory is None:
            raise StateError(
                "cannot place boot artifacts: the image names neither partitions nor a directory",
                resolution="check device.json; rebuild the image",
            )
        return self.boot_directory / "EFI" / "orbital" / f"{slot}.efi"

    def staged_artifact(self, slot: Slot) -> Path:
        """A boot artifact in a file while it is written; no entry ever names it."""
        return self.boot_artifact(slot).with_suffix(".new")

    def facts(self) -> Facts:
        """The sizes that planning needs. Raises StateError when a partition is not there."""
        slot = self.inactive
        try:
            slot_size = _medium_size(self.slots[slot])
            if self.boot_slots:
                return Facts(slot, slot_size, _medium_size(self.boot_slots[slot]), None)
            artifact = self.boot_artifact(slot)
            room = os.statvfs(artifact.parents[2])
        except OSError as error:
            raise StateError(
                f"cannot inspect slot {slot}: {error.strerror}",
                details=str(error.filename or self.slots[slot]),
                resolution="the disk is not partitioned as this image expects",
            ) from error
        free = room.f_bavail * room.f_frsize + _size(self.staged_artifact(slot))
        return Facts(slot, slot_size, free, _size(artifact))


def open_device(root: Path = Path("/")) -> Device:
    """This device. Mounts the boot partition.

    Raises ManifestError, StateError or BootControlError when it is not a
    device that was booted by Orbital, or when nothing it writes would last.
    """
    config = load_config(root)
    report = load_report(root)
    if report.volatile:
        raise StateError(
            "cannot change this device: its state partition could not be used at boot",
            details="; ".join(report.notes),
            resolution="repair the disk, then reboot",
        )
    store = StateStore(root / STATE_ROOT.relative_to("/"))
    record = store.read()
    return Device(
        config=config,
        store=store,
        boot_control=open_boot_control(config, root),
        slots={slot: find_partition(config.slots[slot], root) for slot in SLOTS},
        boot_directory=boot_partition(config, root) if config.boot_partition else None,
        anchor=root / ANCHOR,
        boot_id=report.boot_id,
        generation=running_generation(report, record, store.generations.all())
        if record is not None
        else report.generation,
        root=root,
        boot_slots={
            slot: find_partition(config.boot_slots[slot], root)
            for slot in SLOTS
            if slot in config.boot_slots
        },
    )


def _medium_size(path: Path) -> int:
    """Bytes of a block device or file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
