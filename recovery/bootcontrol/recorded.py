"""Boot control for every loader whose whole record is one value: order, tries, success.

GRUB, U-Boot and the Raspberry Pi's firmware differ in where the record lies
and how it is written (`RecordStore`); what it means is the same for all:

* the loader starts the first slot of the order that is good or has tries left,
  and takes a try before the start of a slot that is not good;
* when none is left it starts the slots of the order in turn, uncounted;
* a slot that is not in the order has no entry; one with no tries left that is
  not good is exhausted.

A record of which no copy is valid is *lost*. The loader then starts the rescue
system, or without one slot a if that loads (see each store). Linux reads a lost
record as: both slots may start, none is known to be good, nothing counts.
`tidy` makes it again, from nothing but the slot that runs: that one first, then
the other, `DEFAULT_TRIES` each, none good. So whichever slot cannot start is
left again by counting, and the state record decides the rest
(`recovery.decide`): the committed generation is affirmed by its health checks;
one that nobody put on trial gives way to the committed one; a slot that holds
nothing is disarmed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from recovery.errors import BootControlError
from recovery.slots import SLOTS, Slot, SlotState, no_slot_runs, other_slot

# Of a slot whose count is not known, and beside "good" for a loader that does not
# know that word. RAUC's default (boot-attempts).
DEFAULT_TRIES = 3
_NO_ENTRY = SlotState(bootable=False, successful=False, tries_left=None)
_UNKNOWN = SlotState(bootable=True, successful=False, tries_left=None)


@dataclass(frozen=True)
class Count:
    """left: starts that remain while the slot is not good. good: needs no tries."""

    left: int = 0
    good: bool = False


GOOD = Count(left=DEFAULT_TRIES, good=True)


@dataclass(frozen=True)
class Record:
    """What a loader knows. order: the slots that have an entry, the one to start first."""

    order: tuple[Slot, ...]
    a: Count = Count()
    b: Count = Count()

    def count(self, slot: Slot) -> Count:
        """The slot's count; without meaning when the slot is not in the order."""
        return self.a if slot == "a" else self.b

    def live(self) -> tuple[Slot, ...]:
        """The slots that are good or have tries left, the one to start first."""
        return tuple(s for s in self.order if self.count(s).good or self.count(s).left)

    def state(self, slot: Slot) -> SlotState:
        """The slot in the words of `recovery.slots`."""
        count = self.count(slot)
        if slot not in self.order:
            return _NO_ENTRY
        if count.good:
            return SlotState(bootable=True, successful=True, tries_left=None)
        return SlotState(bootable=count.left > 0, successful=False, tries_left=count.left)

    def activated(self, slot: Slot, tries: int) -> Record:
        """The slot first, with tries."""
        others = tuple(other for other in self.order if other != slot)
        return self._with(slot, Count(left=tries), (slot, *others))

    def successful(self, slot: Slot) -> Record:
        """The slot, where it is in the order, needs no tries."""
        return self._with(slot, GOOD, self.order)

    def unbootable(self, slot: Slot) -> Record:
        """The slot has no entry."""
        return self._with(slot, Count(), tuple(other for other in self.order if other != slot))

    def _with(self, slot: Slot, count: Count, order: tuple[Slot, ...]) -> Record:
        changed = replace(self, order=order)
        return replace(changed, a=count) if slot == "a" else replace(changed, b=count)


class RecordStore(Protocol):
    """Where one loader's record lies. Every method raises BootControlError."""

    # The most tries that the record can hold.
    most_tries: int

    def load(self) -> Record | None:
        """The record that counts; None when no copy of it is valid."""

    def save(self, record: Record) -> None:
        """Makes record the one that counts, in one step, durably."""

    def fresh(self, current: Slot) -> Record:
        """The record to begin with again when it is lost and slot current runs."""

    def repair(self) -> None:
        """Makes damaged copies again from the one that counts, and what the loader needs besides.

        Never changes what the record means.
        """


def counted_afresh(current: Slot) -> Record:
    """What runs first, then the other slot; nothing is known to be good."""
    unknown = Count(left=DEFAULT_TRIES)
    return Record((current, other_slot(current)), unknown, unknown)


class Recorded:
    """Boot control over a store; conforms to `recovery.slots.BootControl`."""

    def __init__(self, store: RecordStore, current: Slot | None) -> None:
        """current: the running slot, as verified by the caller; None in the rescue system."""
        self._store = store
        self._current = current

    def current_slot(self) -> Slot:
        """The slot that is running now. Raises BootControlError in the rescue system."""
        if self._current is None:
            raise no_slot_runs()
        return self._current

    def active_slot(self) -> Slot | None:
        """The slot the loader would start next, or None when none is left."""
        record = self._store.load()
        if record is None:
            return SLOTS[0]
        return next(iter(record.live()), None)

    def slot_state(self, slot: Slot) -> SlotState:
        """What the loader knows of the slot."""
        record = self._store.load()
        return _UNKNOWN if record is None else record.state(slot)

    def set_active(self, slot: Slot, tries: int) -> None:
        """One write of the record. The commit point of every update.

        Grants as many of the tries as the loader can count.
        """
        if tries < 1:
            raise BootControlError(f"cannot activate slot {slot}: {tries} tries")
        granted = min(tries, self._store.most_tries)
        record = self._store.load() or self._fresh()
        self._store.save(record.activated(slot, granted))

    def mark_successful(self, slot: Slot) -> None:
        """One write of the record. The commit point of every trial."""
        loaded = self._store.load()
        record = loaded or self._fresh()
        if slot not in record.order:
            raise BootControlError(
                f"cannot mark slot {slot} successful: it has no boot entry",
                resolution="the slot has been given up; install again",
            )
        if record.successful(slot) != loaded:
            self._store.save(record.successful(slot))

    def mark_unbootable(self, slot: Slot) -> None:
        """One write of the record. The commit point of giving a generation up."""
        loaded = self._store.load()
        record = loaded or self._fresh()
        if record.unbootable(slot) != loaded:
            self._store.save(record.unbootable(slot))

    def tidy(self) -> None:
        """Makes a damaged copy, or a lost record, again."""
        if self._store.load() is None:
            self._store.save(self._fresh())
        self._store.repair()

    def _fresh(self) -> Record:
        """What a lost record is made again from: the slot that runs; nothing in the rescue system.

        There a slot that starts is one that was verified, and named by `set_active`.
        """
        return Record(()) if self._current is None else self._store.fresh(self._current)
