"""The board: one kind of hardware with its firmware, disk layout and emulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from manifests.fields import DebianPackage, KernelArgument, Module, Name, Summary, matching
from manifests.problem import Path, Problem, listed
from manifests.sizes import Size, size_text
from recovery.slots import SLOTS, Slot

Architecture = Literal["x86_64", "aarch64", "riscv64", "armhf"]
FirmwareKind = Literal["uefi", "bios", "u-boot", "raspberry-pi"]
BootControlKind = Literal["systemd-boot", "grub", "u-boot", "tryboot"]
Role = Literal["esp", "firmware", "boot", "environment", "slot", "state"]

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
# Boot controls whose record is a partition of its own.
_WITH_ENVIRONMENT: tuple[BootControlKind, ...] = ("grub", "u-boot")
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


class Watchdog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hardware watchdog that ends a hang.

    driver: kernel module.
    timeout_parameter: the module's parameter that sets the timeout.
    timeout_seconds: how long the hardware waits before it resets the machine.
    boot_stage: what arms it before the kernel runs: efi-driver (a driver that
        systemd-boot loads), loader (the commands of GRUB or U-Boot); none leaves hangs
        before the driver is loaded to a person.
    """

    driver: Module
    timeout_parameter: Module
    timeout_seconds: Annotated[
        int, Meta(ge=10, le=1000, extra={"expected": "seconds from 10 to 1000"})
    ]
    boot_stage: Literal["efi-driver", "loader", "none"] = "none"


class Partition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One partition of the disk (GPT).

    label: GPT partition label, unique on the disk; Linux finds the partition by it.
    role: what it is for.
    size: bytes; a whole number of MiB.
    slot: which slot it holds, with role slot; whose boot artifact, with role boot.
    grow: whether the first boot extends it to the end of the disk; only the last.
    """

    label: Label
    role: Role
    size: Size
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
    console: device of the serial console, e.g. ttyS0.
    kernel: the kernel and its modules.
    watchdog: the hardware watchdog; absent when there is none.
    u_boot: how U-Boot starts a slot; with firmware u-boot only.
    layout: the disk.
    qemu: how to emulate it; absent when that is not possible.
    """

    board: Name
    summary: Summary
    architecture: Architecture
    firmware: Firmware
    boot_control: BootControlKind
    console: Module
    kernel: Kernel
    layout: Layout
    watchdog: Watchdog | None = None
    u_boot: UBoot | None = None
    qemu: Qemu | None = None

    @property
    def boot_partition(self) -> Partition:
        """The partition that the firmware reads before any slot."""
        role = BOOT_ROLES[self.firmware.kind]
        return next(part for part in self.layout.partitions if part.role == role)

    @property
    def environment_partition(self) -> Partition | None:
        """The partition with the boot control's record, if it is one of its own."""
        found = (part for part in self.layout.partitions if part.role == "environment")
        return next(found, None)

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

    def _part(self, role: Role, slot: Slot) -> Partition:
        parts = self.layout.partitions
        return next(part for part in parts if part.role == role and part.slot == slot)

    @property
    def slot_labels(self) -> dict[str, str]:
        """Partition label of each slot."""
        return {slot: self.slot_partition(slot).label for slot in SLOTS}


def board_problems(board: Board) -> Iterator[Problem]:
    """What is wrong with a board whose values have the right types."""
    yield from _boot_problems(board)
    yield from _partition_problems(board.layout.partitions)
    yield from _role_problems(board)


def _boot_problems(board: Board) -> Iterator[Problem]:
    kind = board.firmware.kind
    allowed = BOOT_CONTROLS[kind]
    if board.boot_control not in allowed:
        yield Problem(
            ("boot_control",),
            f"{listed(allowed)} with firmware {kind}",
            f'"{board.boot_control}"',
            f"change boot_control or firmware.kind; {kind} firmware starts {listed(allowed)}",
        )
    if board.firmware.secure_boot and kind != "uefi":
        yield Problem(
            ("firmware", "secure_boot"),
            f"false with firmware {kind}",
            "true",
            "Secure Boot is a feature of UEFI firmware; remove secure_boot",
        )
    if board.watchdog and board.watchdog.boot_stage == "efi-driver" and kind != "uefi":
        yield Problem(
            ("watchdog", "boot_stage"),
            f"none with firmware {kind}",
            '"efi-driver"',
            "only UEFI firmware loads EFI drivers; set boot_stage: none",
        )
    if board.watchdog and board.watchdog.boot_stage == "loader" and kind not in ("bios", "u-boot"):
        yield Problem(
            ("watchdog", "boot_stage"),
            f"efi-driver or none with firmware {kind}" if kind == "uefi" else "none",
            '"loader"',
            "only GRUB and U-Boot run commands of the board before the kernel",
        )
    if (board.u_boot is not None) != (kind == "u-boot"):
        yield Problem(
            ("u_boot",),
            "a section u_boot" if kind == "u-boot" else f"no section with firmware {kind}",
            "nothing" if board.u_boot is None else "one",
            "describe where U-Boot finds the disk and memory" if kind == "u-boot" else "remove it",
        )
    if board.qemu and board.qemu.watchdog_device and not board.watchdog:
        yield Problem(
            ("qemu", "watchdog_device"),
            "no watchdog device on a board without a watchdog",
            f'"{board.qemu.watchdog_device}"',
            "describe it under watchdog, or remove watchdog_device",
        )


def _partition_problems(partitions: tuple[Partition, ...]) -> Iterator[Problem]:
    """Problems of single partitions and their labels."""
    labels: set[str] = set()
    for number, part in enumerate(partitions):
        place: Path = ("layout", "partitions", number)
        if part.label in labels:
            yield Problem(
                (*place, "label"),
                "a label that no other partition has",
                f'"{part.label}" a second time',
                "partitions are found by label; rename one of them",
            )
        labels.add(part.label)
        if part.size == 0 or part.size % ALIGNMENT:
            yield Problem(
                (*place, "size"),
                "a whole number of MiB, at least 1MiB",
                f'"{size_text(part.size)}"',
                f'write for example "{size_text(max(1, -(-part.size // ALIGNMENT)) * ALIGNMENT)}"',
            )
        if part.grow and number != len(partitions) - 1:
            yield Problem(
                (*place, "grow"),
                "true only on the last partition",
                f'true on "{part.label}", which others follow',
                "move this partition to the end of the list, or remove grow",
            )
        has_slot = part.role in ("slot", "boot")
        if has_slot != (part.slot is not None):
            yield Problem(
                (*place, "slot"),
                "slot: a or b" if has_slot else f"no slot with role {part.role}",
                "nothing" if part.slot is None else f'"{part.slot}"',
                'add "slot: a" or "slot: b"' if has_slot else "remove the key slot",
            )


def _role_problems(board: Board) -> Iterator[Problem]:
    """Problems of the partitions as a set: each role as often as it must be there."""
    partitions = board.layout.partitions
    place: Path = ("layout", "partitions")
    wanted: dict[Role, int] = {"state": 1, "environment": 0, "esp": 0, "firmware": 0}
    wanted[BOOT_ROLES[board.firmware.kind]] = 1
    if board.boot_control in _WITH_ENVIRONMENT:
        wanted["environment"] = 1
    for role, count in wanted.items():
        found = sum(part.role == role for part in partitions)
        if found != count:
            yield Problem(
                place,
                f"{count or 'no'} partition with role {role}"
                f" (firmware {board.firmware.kind}, boot control {board.boot_control})",
                str(found or "none"),
                f"{'add' if found < count else 'remove'} a partition with role {role}",
            )
    yield from _pair_problems(board, "slot", wanted=True)
    yield from _pair_problems(board, "boot", wanted=board.firmware.kind != "uefi")


def _pair_problems(board: Board, role: Role, *, wanted: bool) -> Iterator[Problem]:
    """Problems of the two partitions with the role, one for each slot, if they are wanted."""
    partitions = board.layout.partitions
    place: Path = ("layout", "partitions")
    pair = [part for part in partitions if part.role == role]
    if not wanted:
        if pair:
            yield Problem(
                place,
                f"no partition with role {role} with firmware {board.firmware.kind}",
                listed([part.label for part in pair]),
                "UEFI boot artifacts are files on the esp; remove these partitions",
            )
        return
    what = "slots" if role == "slot" else "boot partitions"
    if sorted(part.slot or "" for part in pair) != list(SLOTS):
        yield Problem(
            place,
            f"exactly two {what}, a and b",
            " and ".join(part.slot or "one without a name" for part in pair) or "none",
            f"describe one partition with slot: a and one with slot: b, both with role: {role}",
        )
    elif pair[0].size != pair[1].size:
        yield Problem(
            (*place, partitions.index(pair[1]), "size"),
            f'"{size_text(pair[0].size)}", the size of {pair[0].label}',
            f'"{size_text(pair[1].size)}"',
            f"an image must fit in either slot; make both {what} as large",
        )
