"""What a start does to the start record, apart from the device: changes, and sets of records.

What a boot does to the device does not depend on the start record, but for what the
loader and rescue look at in it; and what it does to the start record does not depend on
the device, but for what a `Change` names. So each change is worked out once for a record,
and a device is followed with all its records at once: a set is an int, a record a bit.
Nothing is left out by that: a state is still a device and a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from evidence.model.boot import initramfs
from evidence.model.device import Board, Wish
from evidence.model.starting import overdue, wished
from recovery.slots import Slot

Choice = tuple[bool, bool]
"""What the loader sees in a record: it asks for rescue; the loader has counted enough loads."""

Stage = Literal["loaded", "written", "asking", "state", "counted", "healthy", "lost"]


@dataclass(frozen=True)
class Change:
    """A change of the start record, to each of what `results` says; to nothing where the start
    takes another way.

    loader: what the loader's script or driver counts. slot, opens, early: what is started,
    whether the initramfs can open it, and whether it reaches early boot. repair: rescue may be
    asked for, since the state partition cannot be used. volatile: it cannot be used. stage: how
    far the start comes; before "healthy" nothing was noted. by_hand: then a person asks for
    rescue. powered: a wish of the firmware is still there, besides that the power may be cut.
    """

    stage: Stage = "loaded"
    loader: Literal["", "asked", "loads", "overdue"] = ""
    slot: Slot = "a"
    opens: bool = True
    early: bool = True
    repair: bool = False
    volatile: bool = False
    by_hand: bool = False
    powered: bool = False

    def __hash__(self) -> int:
        """As of any value, but worked out once."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        told = (self.early, self.repair, self.volatile, self.by_hand, self.powered)
        return hash((self.stage, self.loader, self.slot, self.opens, told))

    def results(self, board: Board, wish: Wish) -> tuple[Wish, ...]:
        """The records, as long as the power stays."""
        if self.stage == "lost":
            return () if wish == Wish() else (Wish(),)
        if self.loader == "asked":
            # The script counts the asking first, so that a rescue that does not come ends.
            wish = replace(wish, asked=wish.asked + 1)
        elif self.loader == "loads":
            wish = replace(wish, loads=min(wish.loads + 1, board.most_loads))
        elif self.loader == "overdue":
            # The wish; then the count begins again; systemd-boot takes the wish as it reads it.
            asked = replace(wish, one_shot=True)
            return asked, replace(asked, loads=0), replace(wish, one_shot=False, loads=0)
        if self.stage == "loaded":
            return (wish,)
        written: tuple[Wish, ...] = (wish,)
        asks = False
        if board.rescue:
            written, asks = initramfs(board, wish, self.slot, "good" if self.opens else "mount")
        if self.stage == "written":
            return written
        if self.stage == "asking":
            return written[-1:] if asks else ()
        counted = written[-1]
        if self.early:
            counted = replace(counted, loads=0)
        # ask_for_rescue in recovery.early, once.
        repairs = self.repair and not counted.rescued and not counted.asked
        if asks or repairs != (self.stage == "state"):
            return ()
        if self.stage == "state":
            return (replace(counted, rescue=True),)
        last = counted.healthy(volatile=self.volatile) if self.stage == "healthy" else counted
        return tuple(_asked_by_hand(board, last)) if self.by_hand else (last,)


def _asked_by_hand(board: Board, wish: Wish) -> Iterator[Wish]:
    """recovery.rescue.request.ask, cut and whole, for rescue or for a factory reset."""
    for action in (False, True):
        asked = replace(wish, rescue=True, person=True, action=action, asked=0)
        yield asked
        if board.kind in ("systemd-boot", "tryboot"):
            yield replace(asked, one_shot=True)


def unpowered(board: Board, wish: Wish) -> Wish:
    """The record after a cut: the Pi's firmware forgets what a reboot was asked for."""
    return replace(wish, one_shot=False) if board.kind == "tryboot" else wish


def begun(wish: Wish) -> Wish:
    """What rescue writes first (`recovery.rescue.visit.begin`); the rest of a visit depends on
    nothing else of the record."""
    return Wish(action=wish.action, rescued=wish.rescued)


@dataclass
class Wishes:
    """The start records of a model, by number, and sets of them."""

    board: Board
    all: list[Wish] = field(default_factory=list)
    numbers: dict[Wish, int] = field(default_factory=dict)
    choices: dict[Choice, int] = field(default_factory=dict)
    visits: dict[Wish, int] = field(default_factory=dict)
    _one: dict[tuple[Change, int], tuple[int, int]] = field(default_factory=dict)
    _many: dict[Change, dict[int, tuple[int, int]]] = field(default_factory=dict)
    _after: dict[Change, dict[int, int]] = field(default_factory=dict)
    _sources: dict[Change, list[tuple[int, int]]] = field(default_factory=dict)

    def number(self, wish: Wish) -> int:
        """Of the record."""
        found = self.numbers.get(wish)
        if found is None:
            found = self.numbers[wish] = len(self.all)
            self.all.append(wish)
            choice, visit = self.choice(wish), begun(wish)
            self.choices[choice] = self.choices.get(choice, 0) | 1 << found
            self.visits[visit] = self.visits.get(visit, 0) | 1 << found
        return found

    def choice(self, wish: Wish) -> Choice:
        """What the loader sees."""
        asked = self.board.rescue and wished(self.board, wish)
        return asked, overdue(self.board, wish)

    def after(self, change: Change, number: int) -> int:
        """The one record that the change makes, if the power stays; -1 for none."""
        known = self._after.setdefault(change, {})
        if number not in known:
            results = change.results(self.board, self.all[number])
            known[number] = self.number(results[0]) if results else -1
        return known[number]

    def image(self, change: Change, wishes: int) -> tuple[int, int]:
        """What the change makes of a set, and of how many pairs of a record and its result."""
        known = self._many.setdefault(change, {})
        if wishes not in known:
            made, count = 0, 0
            for number in members(wishes):
                bits, pairs = self._image(change, number)
                made, count = made | bits, count + pairs
            known[wishes] = made, count
        return known[wishes]

    def _image(self, change: Change, number: int) -> tuple[int, int]:
        key = (change, number)
        if key not in self._one:
            results = change.results(self.board, self.all[number])
            if change.stage != "lost":
                cut = tuple(unpowered(self.board, wish) for wish in results)
                results = (*results, *cut) if change.powered else cut
            bits = 0
            for wish in dict.fromkeys(results):
                bits |= 1 << self.number(wish)
            self._one[key] = bits, bits.bit_count()
        return self._one[key]

    def sources(self, change: Change) -> list[tuple[int, int]]:
        """Each record that the change makes, with the set of those that it is made of. Only
        when all records are known."""
        if change not in self._sources:
            found: dict[int, int] = {}
            for number in range(len(self.all)):
                after = self.after(change, number)
                if after >= 0:
                    found[after] = found.get(after, 0) | 1 << number
            self._sources[change] = list(found.items())
        return self._sources[change]


def members(wishes: int) -> Iterator[int]:
    """The numbers in a set."""
    while wishes:
        lowest = wishes & -wishes
        yield lowest.bit_length() - 1
        wishes ^= lowest
