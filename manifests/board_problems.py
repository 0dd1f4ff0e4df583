"""What can be wrong with a board whose values have the right types: where, and what to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from manifests.board import (
    ALIGNMENT,
    BOOT_CONTROLS,
    BOOT_ROLES,
    BOOT_STAGES,
    Board,
    BootControlKind,
    BootStage,
    Partition,
    Role,
)
from manifests.problem import Path, Problem, listed
from manifests.sizes import size_text
from recovery.slots import SLOTS

# Boot controls whose record is a partition of its own.
_WITH_ENVIRONMENT: tuple[BootControlKind, ...] = ("grub", "u-boot")
_STAGE_FIXES: dict[BootStage, str] = {
    "efi-driver": "only UEFI firmware loads EFI drivers",
    "loader": "only GRUB and U-Boot run commands of the board before the kernel",
    "firmware": "only the Raspberry Pi's firmware arms its watchdog by itself",
    "none": "the watchdog is armed by its driver alone",
}


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
    if board.watchdog and board.watchdog.boot_stage not in BOOT_STAGES[kind]:
        allowed_stages = listed(BOOT_STAGES[kind])
        yield Problem(
            ("watchdog", "boot_stage"),
            f"{allowed_stages} with firmware {kind}",
            f'"{board.watchdog.boot_stage}"',
            f"{_STAGE_FIXES[board.watchdog.boot_stage]}; choose {allowed_stages}",
        )
    if (board.u_boot is not None) != (kind == "u-boot"):
        yield Problem(
            ("u_boot",),
            "a section u_boot" if kind == "u-boot" else f"no section with firmware {kind}",
            "nothing" if board.u_boot is None else "one",
            "describe where U-Boot finds the disk and memory" if kind == "u-boot" else "remove it",
        )
    if (board.raspberry_pi is not None) != (kind == "raspberry-pi"):
        wanted = kind == "raspberry-pi"
        yield Problem(
            ("raspberry_pi",),
            "a section raspberry_pi" if wanted else f"no section with firmware {kind}",
            "nothing" if wanted else "one",
            "say which firmware files a boot partition needs" if wanted else "remove it",
        )
    pi = board.raspberry_pi
    if pi is not None and bool(pi.package) != bool(pi.files):
        yield Problem(
            ("raspberry_pi", "package" if pi.files else "files"),
            "both package and files, or neither",
            "files alone" if pi.files else "a package without files",
            "name the package that has the files, and the files to copy from it",
        )
    if kind == "raspberry-pi" and not board.kernel.device_tree:
        yield Problem(
            ("kernel", "device_tree"),
            "a device tree with firmware raspberry-pi",
            "nothing",
            "the firmware starts no 64-bit kernel without one, e.g. broadcom/bcm2711-rpi-4-b.dtb",
        )
    if board.rescue_button and (kind != "u-boot" or board.rescue_partition is None):
        yield Problem(
            ("rescue_button",),
            "no button without firmware u-boot and a partition with role rescue",
            f'"{board.rescue_button}"',
            "only U-Boot asks a button; remove it, or add the partition",
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
    end, before = ALIGNMENT, "the partition table"
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
        if part.start is not None and (part.start < end or part.start % ALIGNMENT):
            at = -(-max(end, part.start) // ALIGNMENT) * ALIGNMENT
            yield Problem(
                (*place, "start"),
                f"a whole number of MiB from {size_text(end)}, where {before} ends",
                f'"{size_text(part.start)}"',
                f'partitions must not overlap; write "{size_text(at)}" or more, or remove start',
            )
        end = max(end, part.start or 0) + part.size
        before = f'"{part.label}"'
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
    # The start record, without which nothing asks for rescue, is in the environment.
    rescue = board.rescue_partition is not None
    wanted: dict[Role, int] = {"state": 1, "environment": int(rescue), "esp": 0, "firmware": 0}
    wanted[BOOT_ROLES[board.firmware.kind]] = 1
    wanted["rescue"] = int(rescue) * (2 if board.firmware.kind == "raspberry-pi" else 1)
    if board.boot_control in _WITH_ENVIRONMENT:
        wanted["environment"] = 1
    for role, count in wanted.items():
        found = sum(part.role == role for part in partitions)
        if found != count:
            yield Problem(
                place,
                f"{count or 'no'} partition{'s' if count > 1 else ''} with role {role}"
                f" (firmware {board.firmware.kind}, boot control {board.boot_control}"
                f"{', with rescue' if rescue else ''})",
                str(found or "none"),
                f"{'add' if found < count else 'remove'} a partition with role {role}",
            )
    if board.firmware.kind == "raspberry-pi":
        yield from _order_problems(board)
    yield from _pair_problems(board, "slot", wanted=True)
    yield from _pair_problems(board, "boot", wanted=board.firmware.kind != "uefi")


def _order_problems(board: Board) -> Iterator[Problem]:
    """Problems of the order of what the Raspberry Pi's firmware starts from.

    It reads autoboot.txt from the first partition only, and where that is lost starts the first
    one that it can: that must be rescue, which knows how to go on. When it cannot start a slot's
    boot partition it goes on to the one behind it, or to the first: rescue again, and never the
    other slot, which may have failed.
    """
    roles = [part.role for part in board.layout.partitions]
    order: list[Role] = ["firmware", "rescue", "boot", "rescue", "boot"]
    wanted = [role for role in order if role in roles]
    found = [role for role in roles if role in order]
    if "firmware" in roles and (roles[0] != "firmware" or found != wanted):
        yield Problem(
            ("layout", "partitions"),
            f"{', '.join(wanted)} in this order, firmware as the first of all",
            ", ".join(roles),
            "sort them: the firmware counts partitions",
        )


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


@dataclass(frozen=True)
class Contents:
    """What an image puts on the board, in bytes. room: what its boot artifact may have."""

    name: str
    root: int
    boot: int
    room: int


def size_problems(board: Board, contents: Contents) -> Iterator[Problem]:
    """What of the board is too small for an image."""
    places = board.layout.partitions
    slot = board.slot_partition("a")
    if contents.root > slot.size:
        needed = _whole(contents.root)
        yield Problem(
            ("layout", "partitions", places.index(slot), "size"),
            f'at least "{needed}", for the root image of {contents.name}',
            f'"{size_text(slot.size)}"',
            f'write "{needed}" or more for both slots, drop packages, or set image.compression',
        )
    if contents.boot > contents.room:
        part = board.boot_slot_partition("a") if board.boot_slot_labels else board.boot_partition
        # An ESP holds three artifacts.
        missing = contents.boot - contents.room
        needed = _whole(part.size + missing * (1 if board.boot_slot_labels else 3))
        yield Problem(
            ("layout", "partitions", places.index(part), "size"),
            f'at least "{needed}", for the boot artifact of {contents.name}',
            f'"{size_text(part.size)}"',
            f'write "{needed}" or more, or drop initramfs modules',
        )


def _whole(size: int) -> str:
    return size_text(-(-size // ALIGNMENT) * ALIGNMENT)
