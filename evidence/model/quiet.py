"""Runs of a device with nothing from outside, for every way in which its images may behave.

A world says how the two images behave, and whether there is a network: then boots follow
each other without a choice, and a device that does not come to rest runs in a circle. Start
records that one boot makes the same are followed together from there.

Millions of runs: states, worlds and ways to rest are numbers here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from evidence.model.boot import Behaviour
from evidence.model.changes import Change, Choice, members
from evidence.model.explore import Model, State
from recovery.slots import SLOTS, Slot

World = tuple[Behaviour, Behaviour]
# "early" is "mount" without its report, "settled" is "late" after repairs that the next boot
# makes, too: explored as events, they add no other way to rest.
WAYS: tuple[Behaviour, ...] = ("good", "kernel", "mount", "late", "ill", "crashing")
WORLDS: tuple[World, ...] = tuple(product(WAYS, WAYS))
_NUMBERS = {world: number for number, world in enumerate(WORLDS)}
_UNKNOWN, _PENDING = -1, -2
_NOTHING = len(SLOTS)


@dataclass(frozen=True)
class Rest:
    """Where a device comes to rest. where: a slot, "waiting" (in rescue, for a person), "circle",
    or "early circle", one with a start in it that does not reach the initramfs. boots: until
    it is there. rescued: what the start record then counts."""

    where: str
    boots: int
    rescued: int = 0
    person: bool = False


CIRCLES = (Rest("circle", 0), Rest("early circle", 0))
Step = tuple[int, int, Slot | None]
"""The number of the rest that it is, or of none; the state that it leads to; the slot that got
another image."""
End = tuple[Change, int, str]
First = tuple[int, int, int, Slot | None]
"""A set of start records, and the step that they share."""


@dataclass
class Quiet:
    """Of a board's devices. rests: by number; the circles first."""

    model: Model
    network: bool
    rests: list[Rest] = field(default_factory=lambda: [*CIRCLES])
    _numbers: dict[Rest, int] = field(default_factory=lambda: {CIRCLES[0]: 0, CIRCLES[1]: 1})
    _later: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 1})
    _known: dict[int, list[int]] = field(default_factory=dict)
    _steps: dict[int, list[Step | None]] = field(default_factory=dict)
    _slots: dict[int, int] = field(default_factory=dict)

    def firsts(self, number: int, wishes: int) -> Iterator[tuple[tuple[int, ...], list[First]]]:
        """The first starts of a device with a set of records: worlds, and what happens in all of
        them. Each record is in each world once."""
        model = self.model
        versions = [place.version for place in model.devices[number].slots]
        every = tuple(
            world
            for world, ways in enumerate(WORLDS)
            if all(way == WAYS[0] or version for way, version in zip(ways, versions, strict=True))
        )
        for choice, those in list(model.wishes.choices.items()):
            part = wishes & those
            if not part:
                continue
            load = model.load(number, choice)
            what = load.started.what
            if what == "rescue":
                yield every, list(self._rescued(load.off, part))
            elif what in SLOTS:
                slot = SLOTS.index(what)
                for way in WAYS if versions[slot] else WAYS[:1]:
                    found = list(
                        self._started(number, part, model.course(number, choice, way).ends)
                    )
                    yield tuple(world for world in every if WORLDS[world][slot] == way), found
            else:
                course = model.course(number, choice, WAYS[0])
                yield every, list(self._started(number, part, course.ends))

    def _started(self, number: int, part: int, ends: tuple[End, ...]) -> Iterator[First]:
        for change, device, ending in ends:
            for wish, sources in self.model.wishes.sources(change):
                found = part & sources
                if found and ending == "up" and device == number and found >> wish & 1:
                    what = self.model.load(number, self.choice(wish)).started.what
                    yield 1 << wish, self.of(Rest(what, 1)), 0, None
                    found ^= 1 << wish
                if found:
                    yield found, _UNKNOWN, packed((device, wish)), None

    def _rescued(self, number: int, part: int) -> Iterator[First]:
        for wish, those in list(self.model.wishes.visits.items()):
            found = part & those
            if not found:
                continue
            visited = self.model.visit(number, wish, self.network)
            if visited.ending == "waiting":
                for member in members(found):
                    yield 1 << member, self.waits(member), 0, None
            else:
                yield found, _UNKNOWN, packed(visited.passed[-1]), visited.installed

    def after(self, first: First, world: int) -> int:
        """The number of the rest that a first start leads to in a world."""
        _, rest, state, installed = first
        if rest >= 0:
            return rest
        if installed is not None:
            world = improved(world, installed)
        known = self._known.get(state)
        rest = _UNKNOWN if known is None else known[world]
        return self.later(rest if rest >= 0 else self.rest(state, world))

    def rest(self, state: int, world: int) -> int:
        """To rest: up, and the next boot the same; or waiting."""
        path: list[tuple[int, int]] = []
        while True:
            known = self._known.get(state)
            if known is None:
                known = self._known[state] = [_UNKNOWN] * len(WORLDS)
            rest = known[world]
            if rest >= 0:
                break
            if rest == _PENDING:
                circle = path[path.index((state, world)) :]
                rest = int(any(self.is_early(*there) for there in circle))
                break
            known[world] = _PENDING
            path.append((state, world))
            rest, state, installed = self.step(state, world)
            if rest >= 0:
                known[world] = rest
                path.pop()
                break
            if installed is not None:
                world = improved(world, installed)
        for state, world in reversed(path):
            rest = self._known[state][world] = self.later(rest)
        return rest

    def is_early(self, state: int, world: int) -> bool:
        """Whether the start of a slot ends before its initramfs."""
        slot = self._slots[state]
        if slot == _NOTHING:
            return False
        place = self.model.devices[unpacked(state)[0]].slots[slot]
        return WORLDS[world][slot] == "kernel" or place.artifact == "crashes"

    def step(self, state: int, world: int) -> Step:
        """One start; how an image behaves that does not start does not matter in it."""
        slot = self._slots.get(state)
        if slot is None:
            number, wish = unpacked(state)
            what = self.model.load(number, self.choice(wish)).started.what
            slot = self._slots[state] = SLOTS.index(what) if what in SLOTS else _NOTHING
            self._steps[state] = [None] * len(WAYS)
        steps = self._steps[state]
        way = 0 if slot == _NOTHING else (world // len(WAYS), world % len(WAYS))[slot]
        done = steps[way]
        if done is None:
            done = steps[way] = self._step(unpacked(state), WAYS[way])
        return done

    def _step(self, state: State, way: Behaviour) -> Step:
        done = self.model.outcome(state, way, self.network)
        if done.ending == "waiting":
            return self.waits(state[1]), 0, None
        if done.ending == "up" and done.next == state:
            return self.of(Rest(done.what, 1)), 0, None
        return _UNKNOWN, packed(done.next), done.installed

    def choice(self, wish: int) -> Choice:
        """What the loader sees in the record."""
        return self.model.wishes.choice(self.model.wishes.all[wish])

    def of(self, rest: Rest) -> int:
        """Its number."""
        number = self._numbers.get(rest)
        if number is None:
            number = self._numbers[rest] = len(self.rests)
            self.rests.append(rest)
        return number

    def later(self, number: int) -> int:
        """The same rest, seen from one boot before."""
        found = self._later.get(number)
        if found is None:
            rest = self.rests[number]
            found = self.of(Rest(rest.where, rest.boots + 1, rest.rescued, rest.person))
            self._later[number] = found
        return found

    def waits(self, wish: int) -> int:
        """In rescue."""
        found = self.model.wishes.all[wish]
        return self.of(Rest("waiting", 1, found.rescued, found.rescue and found.person))


def packed(state: State) -> int:
    """A number for a state."""
    number, wish = state
    return number << 16 | wish


def unpacked(state: int) -> State:
    """The state of a number."""
    return state >> 16, state & 0xFFFF


def improved(world: int, installed: Slot) -> int:
    """What rescue installs is good."""
    a, b = WORLDS[world]
    return _NUMBERS["good" if installed == "a" else a, "good" if installed == "b" else b]
