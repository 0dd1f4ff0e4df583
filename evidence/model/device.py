"""A device as a value: everything that lasts, and the smallest form of it that decides the same.

What is left out keeps the model finite and changes no decision: times; texts
(whether there is a reason, not which); the history; names of versions and
numbers of generations (only which are equal, and which is newer); generations
that no record names and no slot could run; quarantines of versions that are no
longer on the device. So a life of any number of updates has a finite number of
states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from evidence.model.records import Kept, Kind, Known, factory, known
from recovery import starts
from recovery.generations import Generation
from recovery.slots import SLOTS, Slot
from recovery.state import Quarantine, StateRecord, Trial
from recovery.value import replace as with_fields

Artifact = Literal["whole", "refused", "crashes"]


@dataclass(frozen=True)
class Board:
    """What does not change.

    rescue: there is a rescue system. returns: what the firmware does when systemd-boot comes
    back because an artifact cannot be started, or on a Raspberry Pi, when the partition holds
    none: nothing, or it goes on to the rescue system. OVMF does, once a healthy boot has written
    the boot option for it (recovery/bootcontrol/firmware_options.py); by itself it looks at no
    second partition of a disk that it has started from. The Pi's walks over the partitions and
    meets rescue first, wherever it begins (tests/imager/test_raspberry_pi.py). most_starts: as in
    imager/initramfs/init, or less, but more than a trial has tries, for a smaller model.
    most_loads: as in recovery/starts.py, or less.
    """

    kind: Kind
    rescue: bool = True
    returns: Literal["", "rescue"] = ""
    most_starts: int = starts.MOST_UNFINISHED
    most_loads: int = starts.MOST_LOADS


@dataclass(frozen=True)
class Place:
    """A slot. version: "" when it holds nothing whole. root: the image is undamaged.
    artifact: undamaged; damaged so that the loader sees it; so that it does not."""

    version: str
    root: bool = True
    artifact: Artifact = "whole"

    @property
    def whole(self) -> bool:
        """Everything is as it was published."""
        return bool(self.version) and self.root and self.artifact == "whole"


@dataclass(frozen=True)
class Device:
    """Everything that lasts but the start record. state: the state partition's file system can
    be used. damage: how often something may still rot."""

    kept: Kept
    slots: tuple[Place, Place]
    record: StateRecord | None
    generations: tuple[Generation, ...]
    state: bool = True
    damage: int = 0

    def __hash__(self) -> int:
        """As of any value, but worked out once."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        told = (self.record, self.generations, self.state, self.damage)
        return hash((self.kept, self.slots, *told))

    def place(self, slot: Slot) -> Place:
        """The slot's content."""
        return self.slots[SLOTS.index(slot)]

    def with_place(self, slot: Slot, place: Place) -> Device:
        """The device with another content of the slot."""
        a, b = self.slots
        return replace(self, slots=(place, b) if slot == "a" else (a, place))

    def find(self, number: int | None) -> Generation | None:
        """The generation of that number."""
        return next((g for g in self.generations if g.number == number), None)

    def loader(self, board: Board) -> Known:
        """What the loader would do, as the rescue system sees it."""
        return known(board.kind, self.kept, "a")


@dataclass(frozen=True)
class Wish:
    """The start record, as far as it decides. image: the slot with the image whose starts are
    counted, "" for none that is on the device. one_shot: the firmware has been asked besides."""

    rescue: bool = False
    person: bool = False
    action: bool = False
    asked: int = 0
    image: Slot | Literal[""] = ""
    starts: int = 0
    rescued: int = 0
    one_shot: bool = False
    loads: int = 0

    def healthy(self, *, volatile: bool = False) -> Wish:
        """As `recovery.starts.healthy` has it: the code that ships decides."""
        after = starts.healthy(
            starts.Starts(
                rescue=self.rescue,
                action="reset" if self.action else "",
                reason=starts.ASKED_BY if self.person else "",
                asked=self.asked,
                starts=self.starts,
                rescued=self.rescued,
                loads=self.loads,
            ),
            volatile=volatile,
        )
        return replace(
            self,
            rescue=after.rescue,
            person=after.by_person,
            action=bool(after.action),
            asked=after.asked,
            image="",
            starts=after.starts,
            rescued=after.rescued,
            loads=after.loads,
        )


def new(board: Board, damage: int) -> Device:
    """From the factory, booted once."""
    made = Generation(1, "a", "gateway", "v1", "hash-v1", None, 0, "factory", "x")
    return Device(
        kept=factory(board.kind, rescue=board.rescue),
        slots=(Place("v1"), Place("")),
        record=StateRecord(next_generation=2, committed=1),
        generations=(made,),
        damage=damage,
    )


def root_hash(version: str) -> str:
    """Of the image of a version."""
    return f"hash-{version}"


def canonical(device: Device) -> Device:
    """The smallest device that decides the same (see the module)."""
    record = device.record
    named = record.referenced() if record is not None else frozenset()
    places = {slot: root_hash(device.place(slot).version) for slot in SLOTS}
    kept: list[Generation] = []
    newest: set[tuple[Slot, str]] = set()
    for item in sorted(device.generations, key=lambda g: -g.number):
        place = (item.slot, item.root_hash)
        fits = places[item.slot] == item.root_hash
        if item.number in named or (fits and place not in newest):
            kept.append(item)
        newest.add(place)
    kept.reverse()
    numbers = {item.number: rank for rank, item in enumerate(kept, 1)}
    versions: dict[str, str] = {"": ""}
    for version in (*(p.version for p in device.slots), *(g.version for g in kept)):
        versions.setdefault(version, f"v{len(versions)}")
    slots = tuple(replace(p, version=versions[p.version]) for p in device.slots)
    generations = tuple(
        with_fields(
            item,
            number=numbers[item.number],
            version=versions[item.version],
            root_hash=root_hash(versions[item.version]),
            parent=None,
            created=0,
            requested_by="x",
        )
        for item in kept
    )
    return replace(
        device,
        slots=(slots[0], slots[1]),
        generations=generations,
        record=None if record is None else _record(record, numbers, versions),
    )


def _record(record: StateRecord, numbers: dict[int, int], versions: dict[str, str]) -> StateRecord:
    gone = len(numbers) + 50  # The record of that generation is lost.

    def number(value: int | None) -> int | None:
        return None if value is None else numbers.get(value, gone)

    trial = record.trial
    if trial is not None:
        attempts = tuple(
            with_fields(a, boot_id="past", detail="x" if a.detail else "", time=0)
            for a in trial.attempts
        )
        trial = Trial(number(trial.generation) or gone, trial.tries, "past", attempts)
    probation = record.probation
    if probation is not None:
        probation = with_fields(
            probation,
            generation=number(probation.generation),
            since=0,
            failure="x" if probation.failure else "",
        )
    quarantined = tuple(
        Quarantine(version, "x", 0, 0)
        for version in sorted(
            versions[q.version] for q in record.quarantined if q.version in versions
        )
    )
    return StateRecord(
        next_generation=len(numbers) + 1,
        committed=number(record.committed) or gone,
        previous=number(record.previous),
        trial=trial,
        probation=probation,
        quarantined=quarantined,
        undo=number(record.undo),
    )
