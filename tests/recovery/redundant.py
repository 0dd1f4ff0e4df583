"""Boot controls whose record has two copies in a partition, and faults of the disk below them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recovery.slots import BootControl, Slot, SlotState
from tests.recovery.loaders import GrubBench, UbootBench

UNKNOWN = SlotState(bootable=True, successful=False, tries_left=None)
# What a boot control says when its record is lost.
NO_RECORD = ("a", UNKNOWN, UNKNOWN)

RedundantBench = GrubBench | UbootBench
REDUNDANT: dict[str, Callable[[Path], RedundantBench]] = {"grub": GrubBench, "u-boot": UbootBench}


def observed(control: BootControl) -> tuple[Slot | None, SlotState, SlotState]:
    """Everything a boot control says."""
    return control.active_slot(), control.slot_state("a"), control.slot_state("b")


def put(path: Path, offset: int, data: bytes) -> None:
    """What a fault does to the disk."""
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(data)


def both_copies(bench: RedundantBench) -> None:
    """Writes the record once more, so that both copies of either kind are valid."""
    bench.control.set_active("b", 2)
    bench.control.set_active("b", 2)
