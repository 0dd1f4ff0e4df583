"""Letting the loader start a slot, so that every such start is counted first.

    start record: rescued + 1 → (the other slot's entry removed) → **set active**

Cut before the commit point: the loader finds no slot, or those it had, and rescue
comes again; a start was counted that never was, which ends things sooner, not later.

The other slot's entry goes when it cannot start or has had its turn. Else the slot
that starts now would see a committed slot that can start, and give way to it.
"""

from __future__ import annotations

from recovery.errors import BootControlError
from recovery.slots import BootControl, Slot, other_slot
from recovery.starts import MOST, StartFile
from recovery.value import replace


def count_start(starts: StartFile | None) -> int:
    """Counts a start by rescue before it is allowed; returns how many there were.

    Raises BootControlError when it cannot be counted: what is not counted might
    never end, so a person has to let it start.
    """
    if starts is None:
        raise BootControlError(
            "cannot count this start: the partition with the start record is not there",
            resolution="start a slot by hand: orbital rescue start",
        )
    before = starts.load()
    wanted = replace(
        before, rescue=False, asked=0, image="", starts=0, loads=0, rescued=before.rescued + 1
    )
    starts.save(wanted)
    after = starts.load()
    if after.rescued <= before.rescued and after.rescued < MOST:
        raise BootControlError(
            "cannot count this start: the start record does not hold what is written",
            details=str(starts.path),
            resolution="start a slot by hand: orbital rescue start",
        )
    return before.rescued


def activate(boot_control: BootControl, slot: Slot, *, tries: int, other_may_start: bool) -> None:
    """Makes the loader start the slot next. Raises BootControlError."""
    if not other_may_start:
        boot_control.mark_unbootable(other_slot(slot))
        # ↓ Power cut: no slot can start; rescue comes again.
    boot_control.set_active(slot, tries)
