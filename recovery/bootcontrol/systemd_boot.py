"""systemd-boot: one Type #1 entry for each slot, boot assessment in the file's name.

    loader/entries/orbital-a.conf        needs no tries (successful)
    loader/entries/orbital-b+3.conf      3 tries left
    loader/entries/orbital-b+2-1.conf    2 left, 1 done
    loader/entries/orbital-b+0-3.conf    exhausted
    loader/entries/orbital-a+3.conf      with "# successful": about to be activated again
    EFI/orbital/a.efi, b.efi             what the entries start

Names and counting: Boot Loader Specification, "Boot counting". The loader
starts the entry with the highest `version` (here: an activation number, one
more for each `set_active`), exhausted entries last.

FAT gives no atomicity across sectors, and a rename that is cut may leave the old
name, the new one, both, or (on Linux, see recovery.durable) the new one empty.
So an entry that counts is never renamed here: the one that replaces it is
written beside it, complete, and then the old one is removed. The firmware's
own renames (counting) leave the old name, the new one, or both.
So several files may exist for one slot. The newest activation counts; of the
same activation the name without a counter, else the one with the fewest tries
left: a try once consumed stays consumed. Files with other names are never
touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from recovery import durable
from recovery.errors import BootControlError
from recovery.slots import SLOTS, Slot, SlotState, no_slot_runs

_NAME = re.compile(r"orbital-([ab])(?:\+([0-9]{1,4})(?:-([0-9]{1,4}))?)?\.conf", re.ASCII)
# No device activates slots so often; Python refuses to read numbers of thousands of digits.
_DIGITS = 18
# A comment to the loader.
_SUCCESSFUL = "# successful"
_NO_ENTRY = SlotState(bootable=False, successful=False, tries_left=None)


def entry_name(slot: Slot, tries: int | None) -> str:
    """File name of a slot's entry; tries None: needs no tries."""
    return f"orbital-{slot}.conf" if tries is None else f"orbital-{slot}+{tries}.conf"


def entry_text(slot: Slot, activation: int, *, successful: bool = False) -> str:
    """Content of a slot's entry. activation: 1 or more; the highest one is started.

    successful: it is, though its name may have a counter.
    """
    return (
        f"{_SUCCESSFUL}\n" * successful + f"title Orbital (slot {slot})\n"
        "sort-key orbital\n"
        f"version {activation}\n"
        f"efi /EFI/orbital/{slot}.efi\n"
    )


@dataclass(frozen=True)
class Entry:
    """One file of ours. tries_left None: it needs no tries."""

    path: Path
    slot: Slot
    activation: int
    tries_left: int | None

    @property
    def standing(self) -> tuple[int, bool, int, str]:
        """Of two entries of one slot, the one with the greater standing counts."""
        tries = self.tries_left
        return (self.activation, tries is None, -(tries or 0), self.path.name)


class SystemdBoot:
    """Boot control on an EFI system partition that is mounted at esp."""

    def __init__(self, esp: Path, current: Slot | None) -> None:
        """current: the running slot, as verified by the caller; None in the rescue system."""
        self._esp = esp
        self._entries = esp / "loader/entries"
        self._current = current

    def current_slot(self) -> Slot:
        """The slot that is running now. Raises BootControlError in the rescue system."""
        if self._current is None:
            raise no_slot_runs()
        return self._current

    def active_slot(self) -> Slot | None:
        """The slot the loader would start next, or None when none is left."""
        bootable = [
            entry
            for slot in SLOTS
            if (entry := self._entry(slot)) is not None and entry.tries_left != 0
        ]
        return max(bootable, key=lambda entry: entry.activation).slot if bootable else None

    def slot_state(self, slot: Slot) -> SlotState:
        """What the loader knows of the slot."""
        entry = self._entry(slot)
        if entry is None:
            return _NO_ENTRY
        tries = entry.tries_left
        return SlotState(bootable=tries != 0, successful=tries is None, tries_left=tries)

    def set_active(self, slot: Slot, tries: int) -> None:
        """Writes an entry with a new activation number. The commit point of every update.

        First goes what would lose against the new entry and has no counter: when
        all tries are used up, the loader would start it. That is what earlier
        cuts left, also of the other slot; and the slot's own entry, if it is
        successful, gets a name that counts (and says that it still is).
        Before the last rename: the loader starts what it would have started.
        After it: the loader starts slot next.
        """
        if tries < 1:
            raise BootControlError(f"cannot activate slot {slot}: {tries} tries")
        artifact = self._esp / f"EFI/orbital/{slot}.efi"
        if not artifact.is_file():
            raise BootControlError(
                f"cannot activate slot {slot}: no boot artifact", details=str(artifact)
            )
        try:
            self._remove_superseded()
            path = self._entries / entry_name(slot, tries)
            present = self._entry(slot)
            if present is not None and present.tries_left is None and present.path != path:
                text = entry_text(slot, present.activation, successful=True)
                durable.replace_file(path, text.encode())
                durable.remove_file(present.path)
            known = self._all()
            activation = max((entry.activation for entry in known), default=0) + 1
            durable.make_directory(self._entries)
            durable.replace_file(path, entry_text(slot, activation).encode())
            self._remove([entry for entry in known if entry.slot == slot and entry.path != path])
        except OSError as error:
            raise _failed(f"activate slot {slot}", error) from error

    def mark_successful(self, slot: Slot) -> None:
        """Writes the entry without a counter. The commit point of every trial.

        Not a rename of the counted entry: on FAT a power cut can lose both
        names of a rename (recovery.durable). Before the new name appears the
        counted entry counts; after it, the new one does, and the old is removed.
        """
        try:
            entry = self._entry(slot)
            if entry is None:
                raise BootControlError(
                    f"cannot mark slot {slot} successful: it has no boot entry",
                    resolution="the slot has been given up; install again",
                )
            path = self._entries / entry_name(slot, None)
            if entry.path != path:
                durable.replace_file(path, entry_text(slot, entry.activation).encode())
            self._remove(
                [other for other in self._all() if other.slot == slot and other.path != path]
            )
        except OSError as error:
            raise _failed(f"mark slot {slot} successful", error) from error

    def mark_unbootable(self, slot: Slot) -> None:
        """Removes the slot's entries, the one that counts last, so that it is one step."""
        try:
            self._remove([entry for entry in self._all() if entry.slot == slot])
        except OSError as error:
            raise _failed(f"mark slot {slot} unbootable", error) from error

    def tidy(self) -> None:
        """Removes what cut renames left, without changing what the loader's record means.

        A left-over name matters: the firmware cannot rename onto a name that
        exists, so the loader would start the slot without counting.
        """
        try:
            self._remove_superseded()
            if self._entries.is_dir():
                durable.remove_leftovers(self._entries)
        except OSError as error:
            raise _failed("tidy the boot entries", error) from error

    def _remove_superseded(self) -> None:
        """Of each slot all entries but the one that counts."""
        known = self._all()
        for slot in SLOTS:
            mine = [entry for entry in known if entry.slot == slot]
            self._remove(sorted(mine, key=lambda entry: entry.standing)[:-1])

    def _remove(self, entries: list[Entry]) -> None:
        for entry in sorted(entries, key=lambda entry: entry.standing):
            durable.remove_file(entry.path)

    def _entry(self, slot: Slot) -> Entry | None:
        """The entry of the slot that counts."""
        mine = [entry for entry in self._all() if entry.slot == slot]
        return max(mine, key=lambda entry: entry.standing, default=None)

    def _all(self) -> list[Entry]:
        """Every entry of ours that the loader would show."""
        try:
            paths = sorted(self._entries.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed("read the boot entries", error) from error
        return [entry for path in paths if (entry := _parse(path)) is not None]


def _parse(path: Path) -> Entry | None:
    """The entry in the file, or None when it is not one of ours or could not be started."""
    match = _NAME.fullmatch(path.name.lower())
    if match is None or not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise _failed(f"read {path.name}", error) from error
    values = {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}
    slot: Slot = "a" if match[1] == "a" else "b"
    if values.get("efi", "").lower() != f"/efi/orbital/{slot}.efi":
        return None
    version = values.get("version", "")
    number = version.isascii() and version.isdigit() and len(version) <= _DIGITS
    activation = int(version) if number else 0
    tries = None if match[2] is None else int(match[2])
    if tries and _SUCCESSFUL in lines:
        tries = None
    return Entry(path, slot, activation, tries)


def _failed(what: str, error: OSError) -> BootControlError:
    return BootControlError(
        f"cannot {what}: {error.strerror or error}",
        details=str(error.filename or ""),
        resolution="check the boot partition: it may be damaged or full",
    )
