"""How it came to this: why each slot was given up, and what state and store look like."""

from __future__ import annotations

import os
import time

from recovery import decide
from recovery.errors import OrbitalError
from recovery.slots import SLOTS, BootControl, Slot, SlotState
from recovery.state import StateRecord, StateStore
from recovery.value import Value

_EVENTS = 3


class Story(Value):
    """What the records tell.

    loader: what the loader knows of each slot, in words. committed, trial: generations in
    words; empty when there is none. quarantined: versions with their reasons. events: the
    latest of the history, newest last. missing: packages of the committed generation whose
    images are not in the store. free: bytes of the state file system, -1 when unknown.
    """

    loader: tuple[tuple[Slot, str], ...]
    committed: str = ""
    trial: str = ""
    quarantined: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    packages: int = 0
    missing: tuple[str, ...] = ()
    free: int = -1

    def lines(self) -> list[str]:
        """For people."""
        found = [f"loader, slot {slot}: {words}" for slot, words in self.loader]
        found.append(f"committed: {self.committed or 'no record of it'}")
        if self.trial:
            found.append(f"trial: {self.trial}")
        found += [f"quarantined: {item}" for item in self.quarantined]
        if self.packages:
            lost = f", {len(self.missing)} lost: {', '.join(self.missing)}" if self.missing else ""
            found.append(f"package images: {self.packages}{lost}")
        if self.free >= 0:
            found.append(f"state: {self.free >> 20} MiB free")
        return found + [f"history: {item}" for item in self.events]


def tell(store: StateStore, boot_control: BootControl | None) -> Story:
    """What the records tell; what cannot be read is left out."""
    record = store.read()
    loader = tuple((slot, _loader_words(boot_control, slot)) for slot in SLOTS)
    events = tuple(_event_words(store))
    if record is None:
        return Story(loader, events=events, free=_free(store))
    committed = store.generations.load(record.committed)
    digests = sorted(committed.digests()) if committed is not None else []
    images = store.root / "store"
    missing = {digest for digest in digests if not (images / digest).is_file()}
    names = {
        f"{entry.name} {entry.version}"
        for entry in (committed.packages if committed is not None else ())
        if entry.digest in missing
    }
    return Story(
        loader,
        committed=_generation_words(store, record.committed),
        trial=_trial_words(store, record),
        quarantined=tuple(
            f"{' '.join((item.package, item.version)).strip()}: {item.reason}"
            for item in record.quarantined
        ),
        events=events,
        packages=len(digests),
        missing=tuple(sorted(names)),
        free=_free(store),
    )


def _generation_words(store: StateStore, number: int) -> str:
    found = store.generations.load(number)
    if found is None:
        return f"generation {number}, its record is lost"
    return f"generation {number}, version {found.version}, slot {found.slot}"


def _trial_words(store: StateStore, record: StateRecord) -> str:
    if record.trial is None:
        return ""
    return f"{_generation_words(store, record.trial.generation)}: {decide.explain(record.trial)}"


def _event_words(store: StateStore) -> list[str]:
    try:
        events = store.history.events()[-_EVENTS:]
    except OSError:
        return []
    return [
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(event.time))} {event.event} "
        f"{event.to_version}, slot {event.slot}" + (f": {event.reason}" if event.reason else "")
        for event in events
    ]


def _loader_words(boot_control: BootControl | None, slot: Slot) -> str:
    try:
        state = boot_control.slot_state(slot) if boot_control is not None else None
    except OrbitalError as error:
        return error.brief
    return "unknown" if state is None else _state_words(state)


def _state_words(state: SlotState) -> str:
    if state.successful:
        return "starts without counting"
    if state.tries_left is None:
        return "its record is lost" if state.bootable else "no entry"
    return f"{state.tries_left} tries left" if state.tries_left else "its tries are used up"


def _free(store: StateStore) -> int:
    try:
        found = os.statvfs(store.root)
    except OSError:
        return -1
    return found.f_bavail * found.f_frsize
