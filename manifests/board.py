"""The board: one kind of hardware with its firmware, disk layout and emulation."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from manifests.fields import (
    DebianPackage,
    FileName,
    KernelArgument,
    Module,
    Name,
    Summary,
    matching,
)
from manifests.sizes import Size
from recovery.slots import SLOTS, Slot

Architecture = Literal["x86_64", "aarch64", "riscv64", "armhf"]
FirmwareKind = Literal["uefi", "bios", "u-boot", "raspberry-pi"]
BootControlKind = Literal["systemd-boot", "grub", "u-boot", "tryboot"]
BootStage = Literal["efi-driver", "loader", "firmware", "none"]
Role = Literal["esp", "firmware", "boot", "environment", "rescue", "slot", "state"]

# Which boot control can work under which firmware, and what of the disk that
# firmware reads before any slot.
BOOT_CONTROLS: dict[FirmwareKind, tuple[BootControlKind, ...]] = {
    "uefi": ("systemd-boot",),
    "bios": ("grub",),
    "u-boot": ("u-boot",),
    "raspberry-pi": ("tryboot",),
}
BOOT_ROLES: dict[FirmwareKind, Role] = {
    "uefi": "esp",
    "bios": "firmware",
    "u-boot": "firmware",
    "raspberry-pi": "firmware",
}
BOOT_STAGES: dict[FirmwareKind, tuple[BootStage, ...]] = {
    "uefi": ("efi-driver", "none"),
    "bios": ("loader", "none"),
    "u-boot": ("loader", "none"),
    "raspberry-pi": ("firmware", "none"),
}
ALIGNMENT = 1 << 20
"""Partitions start and end on whole MiB: flash erase blocks, and what sfdisk does."""

Label = Annotated[
    str,
    matching(
        r"^[a-z0-9][a-z0-9_-]{0,35}$", "a label of lower case letters, digits, - and _ (at most 36)"
    ),
]


Address = Annotated[
    str, matching(r"^0x[0-9a-f]{1,16}$", "an address in hexadecimal, e.g. 0x40400000")
]
DeviceTree = Annotated[
    str,
    matching(
        r"^([A-Za-z0-9][A-Za-z0-9_.,+-]*/)*[A-Za-z0-9][A-Za-z0-9_.,+-]*\.dtb$",
        "a relative path that ends in .dtb",
    ),
]


Console = Annotated[
    str, matching(r"^[A-Za-z0-9]+(,[0-9]+[neo]?[78]?r?)?$", 'a console such as "ttyS0,115200"')
]
Archive = Annotated[
    str,
    matching(r"^([A-Za-z0-9_.+~-]+/)*[A-Za-z0-9_.+~-]+\.deb$", "a relative path that ends in .deb"),
]
ConfigLine = Annotated[
    str, matching(r"^[ -~]{1,98}$", "one line of at most 98 printable characters")
]


class Firmware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What starts the boot loader.

    kind: the firmware's interface.
    secure_boot: whether it verifies what it starts (UEFI Secure Boot with our keys).
    """

    kind: FirmwareKind
    secure_boot: bool = False


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The kernel and its modules.

    package: Debian package of the kernel.
    archive: the package itself, where it is not Debian's: a .deb file of the board's
        maker, a path from the folder of the board file.
    initramfs_modules: loaded by the initramfs in this order (after the watchdog's,
        each with what it needs) so that the root can be found and mounted.
    modules: kept in the image (each with what it needs); all others are dropped.
    command_line: the board's own kernel arguments; the imager adds the console,
        Orbital's and the system's.
    device_tree: the board's device tree, a path among those of the kernel package, e.g.
        broadcom/bcm2711-rpi-4-b.dtb; absent when the firmware brings its own.
    """

    package: DebianPackage
    initramfs_modules: tuple[Module, ...] = ()
    modules: tuple[Module, ...] = ()
    command_line: tuple[KernelArgument, ...] = ()
    device_tree: DeviceTree | None = None
    archive: Archive | None = None


class Watchdog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hardware watchdog that ends a hang.

    driver: kernel module.
    timeout_parameter: the module's parameter that sets the timeout.
    timeout_seconds: how long the hardware waits before it resets the machine.
    boot_stage: what arms it before the kernel runs: efi-driver (a driver that
        systemd-boot loads), loader (the commands of GRUB or U-Boot), firmware (of the
        Raspberry Pi); none leaves hangs before the driver is loaded to a person.
    """

    driver: Module
    timeout_parameter: Module
    timeout_seconds: Annotated[
        int, Meta(ge=10, le=1000, extra={"expected": "seconds from 10 to 1000"})
    ]
    boot_stage: BootStage = "none"


class Partition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One partition of the disk (GPT).

    label: GPT partition label, unique on the disk; Linux finds the partition by it.
    role: what it is for.
    size: bytes; a whole number of MiB.
    start: bytes from the start of the disk, where the hardware wants it there; without
        it, the partition follows the one before (the first one begins at 1MiB).
    slot: which slot it holds, with role slot; whose boot artifact, with role boot.
    grow: whether the first boot extends it to the end of the disk; only the last.
    """

    label: Label
    role: Role
    size: Size
    start: Size | None = None
    slot: Slot | None = None
    grow: bool = False


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The disk.

    partitions: in the order they lie on the disk.
    """

    partitions: Annotated[tuple[Partition, ...], Meta(min_length=1)]


class UBoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How U-Boot starts a slot of the board. Addresses are in RAM and do not overlap.

    interface, device: the disk, as U-Boot's commands name it, e.g. mmc 0.
    kernel_address: where the kernel runs.
    artifact_address: where the boot artifact (FIT) is read to.
    scratch_address: 512 KiB for the environment.
    watchdog_commands: arm the watchdog before the kernel starts, with
        watchdog.boot_stage loader.
    """

    interface: Name
    device: Annotated[int, Meta(ge=0, le=99, extra={"expected": "a number from 0 to 99"})]
    kernel_address: Address
    artifact_address: Address
    scratch_address: Address
    watchdog_commands: tuple[str, ...] = ()


class RaspberryPi(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the firmware of a Raspberry Pi reads from each slot's boot partition.

    package: Debian package (section non-free-firmware) with the firmware's second
        stage; absent where the EEPROM holds all of it.
    files: which of its files.
    config: lines for config.txt, after the imager's own.
    without_updates: build although the kernel cannot ask the firmware for a try
        (tryboot), as Debian's cannot: the device never starts an update. For bringing
        a board up.
    """

    package: DebianPackage | None = None
    files: tuple[FileName, ...] = ()
    config: tuple[ConfigLine, ...] = ()
    without_updates: bool = False


class Qemu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How QEMU emulates the board, for tests and demonstrations.

    binary: name of the QEMU program.
    machine: value of -machine.
    cpu: value of -cpu.
    cores: number of CPUs.
    memory: bytes of RAM.
    firmware_code: firmware image, a path in the tools tree; absent for QEMU's own.
    firmware_option: how QEMU gets it: pflash (flash memory), bios (-bios) or kernel
        (-kernel, for a second stage after QEMU's own firmware).
    firmware_variables: template of the firmware's variable store, a path in the
        tools tree; absent when the firmware has none.
    disk_device, network_device, random_device: device models.
    watchdog_device: device model of the watchdog; absent when the board has none.
    arguments: more arguments, as they are.
    """

    binary: Name
    machine: str
    cpu: str
    memory: Size
    firmware_code: str | None = None
    firmware_option: Literal["pflash", "bios", "kernel"] = "pflash"
    firmware_variables: str | None = None
    cores: Annotated[int, Meta(ge=1, le=64, extra={"expected": "a number from 1 to 64"})] = 2
    disk_device: str = "virtio-blk-pci"
    network_device: str = "virtio-net-pci"
    random_device: str = "virtio-rng-pci"
    watchdog_device: str | None = None
    arguments: tuple[str, ...] = ()


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of hardware: all that an image has to know of it.

    board: name of the board and of its file.
    summary: one line for people.
    architecture: of its CPU.
    firmware: what starts the boot loader.
    boot_control: what counts tries and chooses the slot.
    console: the serial console, e.g. ttyS0, with its speed where the driver does not know it.
    kernel: the kernel and its modules.
    watchdog: the hardware watchdog; absent when there is none.
    u_boot: how U-Boot starts a slot; with firmware u-boot only.
    raspberry_pi: what its firmware reads; with firmware raspberry-pi only.
    layout: the disk.
    rescue_button: what holds when the device is started with its rescue button pressed, a
        condition in U-Boot's shell, e.g. gpio input 5; with firmware u-boot only.
    qemu: how to emulate it; absent when that is not possible.
    """

    board: Name
    summary: Summary
    architecture: Architecture
    firmware: Firmware
    boot_control: BootControlKind
    console: Console
    kernel: Kernel
    layout: Layout
    watchdog: Watchdog | None = None
    u_boot: UBoot | None = None
    raspberry_pi: RaspberryPi | None = None
    rescue_button: ConfigLine | None = None
    qemu: Qemu | None = None

    @property
    def boot_partition(self) -> Partition:
        """The partition that the firmware reads before any slot."""
        role = BOOT_ROLES[self.firmware.kind]
        return next(part for part in self.layout.partitions if part.role == role)

    @property
    def environment_partition(self) -> Partition | None:
        """The partition with the start record, and the boot control's if that is no file."""
        return self._only("environment")

    @property
    def rescue_partition(self) -> Partition | None:
        """The partition with the rescue system, if the board has one; the first, if two."""
        return self._only("rescue")

    @property
    def rescue_partitions(self) -> tuple[Partition, ...]:
        """All that hold the rescue system: the same bytes."""
        return tuple(part for part in self.layout.partitions if part.role == "rescue")

    @property
    def boot_slot_labels(self) -> dict[str, str]:
        """Label of the partition with each slot's boot artifact; empty where they are files."""
        parts = self.layout.partitions
        return {part.slot: part.label for part in parts if part.role == "boot" and part.slot}

    @property
    def state_partition(self) -> Partition:
        """The partition mounted on /state."""
        return next(part for part in self.layout.partitions if part.role == "state")

    def slot_partition(self, slot: Slot) -> Partition:
        """The partition with a slot's root image."""
        return self._part("slot", slot)

    def boot_slot_partition(self, slot: Slot) -> Partition:
        """The partition with a slot's boot artifact, where it has one (`boot_slot_labels`)."""
        return self._part("boot", slot)

    def _only(self, role: Role) -> Partition | None:
        return next((part for part in self.layout.partitions if part.role == role), None)

    def _part(self, role: Role, slot: Slot) -> Partition:
        parts = self.layout.partitions
        return next(part for part in parts if part.role == role and part.slot == slot)

    @property
    def slot_labels(self) -> dict[str, str]:
        """Partition label of each slot."""
        return {slot: self.slot_partition(slot).label for slot in SLOTS}
