"""The words of the boot loader: slots, tries, boot control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from recovery.errors import BootControlError

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, Slot] = ("a", "b")


def other_slot(slot: Slot) -> Slot:
    """The slot that is not this one."""
    return "b" if slot == "a" else "a"


def no_slot_runs() -> BootControlError:
    """What a boot control says in the rescue system when it is asked for the running slot."""
    return BootControlError(
        "cannot name the running slot: this is the rescue system",
        resolution="name the slot, or run this in the installed system",
    )


@dataclass(frozen=True)
class SlotState:
    """What the boot loader knows of one slot.

    bootable: the loader has an entry for the slot and may start it.
    successful: the entry needs no tries any more (boot assessment passed).
    tries_left: starts that remain before the loader gives the slot up;
        None when successful or when the slot has no entry. None, too, for a
        slot that is bootable and not successful: the loader's record is lost,
        and it starts what it can without counting, until `tidy`.
    """

    bootable: bool
    successful: bool
    tries_left: int | None


class BootControl(Protocol):
    """One boot loader's record of slots and tries (vocabulary of Android's boot_control).

    Every change is durable when the method returns, and takes effect in one
    step: a power cut leaves the state before or the state after.
    Every method raises BootControlError when the record cannot be read or
    written.
    """

    def current_slot(self) -> Slot:
        """The slot that is running now."""

    def active_slot(self) -> Slot | None:
        """The slot the loader would start next, or None when none is left."""

    def slot_state(self, slot: Slot) -> SlotState:
        """What the loader knows of the slot."""

    def set_active(self, slot: Slot, tries: int) -> None:
        """Makes the loader start slot next, at most tries times, then the other one.

        A loader that cannot count so far grants what it can. The commit point
        of every update.
        """

    def mark_successful(self, slot: Slot) -> None:
        """Lets the loader start slot without counting. The commit point of every trial."""

    def mark_unbootable(self, slot: Slot) -> None:
        """Makes the loader never start slot again until the next set_active."""

    def tidy(self) -> None:
        """Repairs what interrupted changes and damage left, without changing what it means.

        Only a record that is lost gets a new meaning: the running slot first,
        and nothing known to be good.
        """
