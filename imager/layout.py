"""Where each partition of a board lies on the disk. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from manifests.board import ALIGNMENT, Board, Partition
from recovery.errors import ManifestError

SECTOR = 512
# Room that GPT needs at the end: 32 sectors of entries and a header; and at the
# start the same after the protective MBR. One alignment unit holds either.
RESERVED = ALIGNMENT

# Type GUIDs of the Discoverable Partitions Specification
# (https://uapi-group.org/specifications/specs/discoverable_partitions_specification/).
_ROOT_TYPES = {
    "x86_64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "aarch64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "riscv64": "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
    "armhf": "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
}
_ROLE_TYPES = {
    "esp": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "boot": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "environment": "0fc63daf-8483-4772-8e79-3d69d8477de4",
    # systemd-boot reads entries on it; firmware that looks for a loader, every FAT.
    "rescue": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "state": "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
}
# Of the partition that firmware reads before any slot. BIOS: GRUB's core image (GRUB
# manual, "BIOS installation"); U-Boot: a FAT, whose type makes U-Boot look there first
# (doc/develop/bootstd/overview.rst, part_get_bootable); others: a FAT (Microsoft basic data).
_FIRMWARE_TYPES = {
    "bios": "21686148-6449-6e6f-744e-656564454649",
    "u-boot": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "raspberry-pi": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
}
_NAMESPACE = uuid.UUID("9a1cbb4c-0b0e-5b52-9d0e-9c1f0d3d5a01")


@dataclass(frozen=True)
class Extent:
    """A partition in its place. start and size in bytes; uuid of the partition."""

    partition: Partition
    start: int
    size: int
    type_uuid: str
    uuid: str

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.size


@dataclass(frozen=True)
class DiskLayout:
    """All partitions of a disk of size bytes."""

    size: int
    disk_uuid: str
    extents: tuple[Extent, ...]

    def extent(self, label: str) -> Extent:
        """The partition with the label."""
        return next(extent for extent in self.extents if extent.partition.label == label)


def stable_uuid(*words: str) -> str:
    """A UUID that depends on the words only: the same image gets the same identifiers."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(words)))


def plan_layout(board: Board, size: int | None = None) -> DiskLayout:
    """Puts the board's partitions on a disk.

    size: of the disk in bytes; None means the smallest that fits. A larger disk
    extends the partition marked grow, as the first boot would.

    Raises ManifestError when they do not fit.
    """
    starts = _starts(board)
    last = board.layout.partitions[-1]
    needed = starts[-1] + last.size + RESERVED
    if size is None:
        size = needed
    size -= size % ALIGNMENT
    if size < needed:
        raise ManifestError(
            f"cannot lay out board {board.board} on a disk of {size >> 20} MiB:"
            f" its partitions need {needed >> 20} MiB",
            resolution="choose a larger --size, or make partitions smaller in the board file",
        )
    extents = []
    for part, start in zip(board.layout.partitions, starts, strict=True):
        length = size - RESERVED - start if part.grow else part.size
        identity = stable_uuid(board.board, "partition", part.label)
        extents.append(Extent(part, start, length, _type(board, part), identity))
    return DiskLayout(size, stable_uuid(board.board, "disk"), tuple(extents))


def _starts(board: Board) -> list[int]:
    """Where each partition begins: after the one before, or where the board wants it."""
    starts, end = [], RESERVED
    for part in board.layout.partitions:
        starts.append(end if part.start is None else part.start)
        end = starts[-1] + part.size
    return starts


def _type(board: Board, part: Partition) -> str:
    if part.role == "slot":
        return _ROOT_TYPES[board.architecture]
    # The Raspberry Pi's EEPROM takes basic data and EFI system partitions only.
    raspberry_pi = board.firmware.kind == "raspberry-pi"
    if part.role == "firmware" or (raspberry_pi and part.role in ("boot", "rescue")):
        return _FIRMWARE_TYPES[board.firmware.kind]
    return _ROLE_TYPES[part.role]


def sfdisk_script(layout: DiskLayout) -> str:
    """The partition table as sfdisk reads it."""
    lines = [
        "label: gpt",
        f"label-id: {layout.disk_uuid}",
        f"sector-size: {SECTOR}",
        "unit: sectors",
    ]
    lines += [
        f"start={extent.start // SECTOR}, size={extent.size // SECTOR}, type={extent.type_uuid},"
        f' uuid={extent.uuid}, name="{extent.partition.label}"'
        for extent in layout.extents
    ]
    return "\n".join(lines) + "\n"
