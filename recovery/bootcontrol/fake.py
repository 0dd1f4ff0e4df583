"""Boot control in memory, with the counting of a loader: for tests of everything above it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recovery.errors import BootControlError
from recovery.slots import Slot, SlotState


@dataclass(frozen=True)
class FakeEntry:
    """activation: the highest one is started. tries_left None: successful."""

    activation: int
    tries_left: int | None


class FakeBootControl:
    """Conforms to `recovery.slots.BootControl`; `boot` plays the loader."""

    def __init__(self, current: Slot = "a") -> None:
        """A factory device: slot `current` runs and is successful, the other one is empty."""
        self.entries: dict[Slot, FakeEntry] = {current: FakeEntry(1, None)}
        self._current: Slot = current

    def boot(self) -> Slot | None:
        """Starts the slot that the loader picks, consuming a try; None when there is none."""
        ranked = sorted(
            self.entries, key=lambda slot: (self._live(slot), self.entries[slot].activation)
        )
        if not ranked:
            return None
        self._current = ranked[-1]
        entry = self.entries[self._current]
        if entry.tries_left:
            self.entries[self._current] = replace(entry, tries_left=entry.tries_left - 1)
        return self._current

    def current_slot(self) -> Slot:
        """The slot that is running now."""
        return self._current

    def active_slot(self) -> Slot | None:
        """The slot the loader would start next, or None when none is left."""
        live = [slot for slot in self.entries if self._live(slot)]
        return max(live, key=lambda slot: self.entries[slot].activation, default=None)

    def slot_state(self, slot: Slot) -> SlotState:
        """What the loader knows of the slot."""
        entry = self.entries.get(slot)
        if entry is None:
            return SlotState(bootable=False, successful=False, tries_left=None)
        tries = entry.tries_left
        return SlotState(bootable=tries != 0, successful=tries is None, tries_left=tries)

    def set_active(self, slot: Slot, tries: int) -> None:
        """Makes the loader start slot next."""
        if tries < 1:
            raise BootControlError(f"cannot activate slot {slot}: {tries} tries")
        newest = max((entry.activation for entry in self.entries.values()), default=0)
        self.entries[slot] = FakeEntry(newest + 1, tries)

    def mark_successful(self, slot: Slot) -> None:
        """Lets the loader start slot without counting."""
        if slot not in self.entries:
            raise BootControlError(f"cannot mark slot {slot} successful: it has no boot entry")
        self.entries[slot] = replace(self.entries[slot], tries_left=None)

    def mark_unbootable(self, slot: Slot) -> None:
        """Makes the loader never start slot again."""
        self.entries.pop(slot, None)

    def tidy(self) -> None:
        """Has nothing to tidy."""

    def _live(self, slot: Slot) -> bool:
        return self.entries[slot].tries_left != 0
