"""Every state that a device can be in.

`explore` follows, from the factory, every event from every state: each way in
which a boot can go, a power cut between any two durable steps of it (the
loader's own among them), an installation, a rollback by hand, a wish for the
rescue system, a factory reset, damage.

A state is a pair: the device, and its start record. What a boot does to the
device depends on the record only where the boot begins, so the boots of a device
are computed once and put together with every record (`evidence.model.changes`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from evidence.model.boot import (
    BEHAVIOURS,
    POLICY,
    Behaviour,
    Boot,
    Ending,
    counting,
    possible,
)
from evidence.model.changes import Change, Choice, Wishes, begun
from evidence.model.device import Board, Device, Place, Wish, canonical, new
from evidence.model.records import lost, powered_off
from evidence.model.rescue import Visit
from evidence.model.starting import Started, start, without_wish
from recovery import plan
from recovery.generations import Generation
from recovery.slots import SLOTS, Slot, other_slot
from recovery.value import replace as with_fields

FRESH = "v8"
State = tuple[int, int]
"""Number of a device, number of a start record."""


@dataclass(frozen=True)
class Limits:
    """What happens besides boots, installations and cuts of the power.

    damage: how often something rots. by_hand: rollbacks, wishes, resets. crashes: some of the
    damage to boot artifacts is not seen by the loader.
    """

    damage: int = 0
    by_hand: bool = True
    crashes: bool = True


@dataclass(frozen=True)
class Ended:
    """A boot of a device from early boot on. cuts, last: device numbers, with whether the start
    had been noted as healthy. after: what may be done when it is up (devices, not noted anew)."""

    ending: Ending
    cuts: tuple[tuple[int, bool], ...]
    last: tuple[int, bool]
    reset: tuple[int, bool]
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """What the loader starts. cuts, off, rebooted: device numbers while and after it wrote."""

    started: Started
    cuts: tuple[int, ...]
    off: int
    rebooted: int


@dataclass(frozen=True)
class Visited:
    """A visit of the rescue system. ending: "restart", or "waiting" for a person. installed: the
    slot that got another image."""

    ending: str
    passed: tuple[State, ...]
    installed: Slot | None


@dataclass(frozen=True)
class Course:
    """What a start of a device does, whatever its start record. what: a slot or "nothing".

    cuts: changes and devices that a cut of the power can leave. ends: those that the start
    itself leaves, and how it ends; of these exactly one fits a record. after: what may be done
    while it is up.
    """

    what: str
    cuts: tuple[tuple[Change, int], ...]
    ends: tuple[tuple[Change, int, str], ...]
    after: tuple[tuple[Change, int], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How one start of a state ends. next: the state then; of a visit that waits, the last."""

    what: str
    ending: str
    next: State
    installed: Slot | None = None


@dataclass
class Model:
    """A board and everything that has been computed about its devices, which have numbers."""

    board: Board
    limits: Limits
    numbers: dict[Device, int] = field(default_factory=dict)
    as_met: dict[Device, int] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    loads: dict[tuple[int, Choice], Loaded] = field(default_factory=dict)
    boots: dict[tuple[int, Behaviour], Ended] = field(default_factory=dict)
    courses: dict[tuple[int, Choice, Behaviour], Course] = field(default_factory=dict)
    visits: dict[tuple[int, Wish, bool], Visited] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """No record is known."""
        self.wishes = Wishes(self.board)

    def number(self, device: Device) -> int:
        """Of the device in its smallest form."""
        known = self.as_met.get(device)
        if known is not None:
            return known
        smallest = canonical(device)
        found = self.numbers.get(smallest)
        if found is None:
            found = self.numbers[smallest] = len(self.devices)
            self.devices.append(smallest)
        self.as_met[device] = found
        return found

    def off(self, device: Device, *, rebooted: bool) -> int:
        """The device when nothing runs. rebooted: by its own software."""
        kept = powered_off(self.board.kind, device.kept, rebooted=rebooted)
        return self.number(device if kept is device.kept else replace(device, kept=kept))

    def boot(self, number: int, untouched: Behaviour) -> Ended:
        """The boot of the slot that the loader starts, from early boot on."""
        key = (number, untouched)
        if key not in self.boots:
            started = without_wish(self.board, self.devices[number])
            assert started.what in SLOTS
            slot: Slot = started.what
            boot = Boot(self.board, started.device, slot, started.is_try)
            ending = boot.run(untouched)
            up = ending == "up"
            self.boots[key] = Ended(
                ending,
                tuple(
                    dict.fromkeys(
                        (self.off(device, rebooted=False), noted) for device, noted in boot.states
                    )
                ),
                (self.off(boot.device, rebooted=ending != "reset"), boot.noted),
                (self.off(boot.device, rebooted=False), boot.noted),
                tuple(dict.fromkeys(self.changes(boot))) if up else (),
            )
        return self.boots[key]

    def visit(self, number: int, wish: Wish, network: bool) -> Visited:
        """A visit of the rescue system. number: of the device when it runs."""
        key = (number, begun(wish), network)
        if key not in self.visits:
            visit = Visit(self.board, self.devices[number], key[1], network)
            ending = visit.run()
            passed = tuple(
                (self.off(device, rebooted=False), self.wishes.number(w))
                for device, w in visit.states
            )
            last = (self.off(visit.device, rebooted=True), self.wishes.number(visit.wish))
            self.visits[key] = Visited(ending, (*dict.fromkeys(passed), last), visit.installed)
        return self.visits[key]

    def load(self, number: int, choice: Choice) -> Loaded:
        """What the loader starts. choice: what it sees in the start record."""
        key = (number, choice)
        if key not in self.loads:
            started = start(self.board, self.devices[number], asked=choice[0], overdue=choice[1])
            self.loads[key] = Loaded(
                started,
                tuple(self.off(cut, rebooted=False) for cut in started.cuts),
                self.off(started.device, rebooted=False),
                self.off(started.device, rebooted=True),
            )
        return self.loads[key]

    def course(self, number: int, choice: Choice, untouched: Behaviour) -> Course:
        """One start of a slot, or of nothing. untouched: how the image behaves when undamaged."""
        key = (number, choice, untouched)
        if key not in self.courses:
            self.courses[key] = self._course(number, choice, untouched)
        return self.courses[key]

    def _course(self, number: int, choice: Choice, untouched: Behaviour) -> Course:
        device, load = self.devices[number], self.load(number, choice)
        started, at = load.started, load.off
        cuts = [(Change(), cut) for cut in load.cuts]
        loads: Literal["", "loads"] = "loads" if started.loads else ""
        if started.what not in SLOTS:
            counted = Change(loader=loads)
            return Course("nothing", (*cuts, (counted, at)), ((counted, at, "reset"),))
        slot: Slot = started.what
        behaviour = possible(device, slot, untouched=untouched)
        change = Change(
            loader=loads,
            slot=slot,
            opens=behaviour != "mount",
            early=behaviour not in ("mount", "early"),
            volatile=not device.state,
            repair=self.asks_for_state(started, device, behaviour),
        )
        if started.loads:
            cuts.append((change, at))
        if behaviour == "kernel":
            return Course(slot, tuple(cuts), ((change, at, "reset"),))
        cuts.append((replace(change, stage="written"), at))
        ends = [(replace(change, stage="asking"), load.rebooted, "restart")]
        if change.repair:
            asking = replace(change, stage="state")
            cuts.append((asking, at))
            ends.append((asking, load.rebooted, "restart"))
        ended = self.boot(number, behaviour)
        healthy, counted = replace(change, stage="healthy"), replace(change, stage="counted")

        def then(noted: bool) -> Change:
            return healthy if noted else counted

        cuts += [(then(noted), n) for n, noted in (*ended.cuts, ended.reset)]
        last = then(ended.last[1])
        ends.append((last, ended.last[0], ended.ending))
        after = [(healthy, n) for n in ended.after]
        if ended.ending == "up" and self.limits.by_hand and self.board.rescue:
            after.append((replace(last, by_hand=True), ended.last[0]))
        return Course(slot, tuple(cuts), tuple(ends), tuple(after))

    def asks_for_state(self, started: Started, device: Device, behaviour: Behaviour) -> bool:
        """ask_for_rescue in recovery.early: the state partition cannot be used."""
        if device.state or not self.board.rescue or behaviour in ("mount", "early"):
            return False
        assert started.what in SLOTS
        return not counting(self.board, started.device, started.what, started.is_try)

    def edges(self, number: int, choice: Choice) -> tuple[tuple[Change, int], ...]:
        """All that one start of a slot, or of nothing, can lead to, whichever way it goes."""
        found: dict[tuple[Change, int], None] = {}
        started = self.load(number, choice).started
        for behaviour in BEHAVIOURS if started.what in SLOTS else BEHAVIOURS[:1]:
            course = self.course(number, choice, behaviour)
            found.update(dict.fromkeys(course.cuts))
            for change, device, _ in course.ends:
                found[replace(change, powered=True), device] = None
            for change, device in course.after:
                found[replace(change, powered=change.by_hand), device] = None
        return tuple(found)

    def rescue_edges(self, number: int, choice: Choice) -> tuple[tuple[Change, int], ...]:
        """What a start of rescue can leave before it writes."""
        load = self.load(number, choice)
        found = [(Change(), cut) for cut in load.cuts]
        if choice[0] and self.board.kind in ("grub", "u-boot"):
            found.append((Change(loader="asked"), load.off))
        if self.board.kind == "systemd-boot":
            found.append((Change(loader="overdue" if choice[1] else "loads"), load.off))
        return tuple(found)

    def successors(self, number: int, wishes: int) -> Iterator[tuple[int, int, int]]:
        """What one event can make of a device with a set of start records: devices with sets, and
        from how many pairs of a record and its result."""
        for change, after in self.rotten(number):
            yield after, *self.wishes.image(change, wishes)
        for choice, bits in list(self.wishes.choices.items()):
            part = wishes & bits
            if not part:
                continue
            load = self.load(number, choice)
            rescue = load.started.what == "rescue"
            edges = self.rescue_edges if rescue else self.edges
            for change, after in edges(number, choice):
                yield after, *self.wishes.image(change, part)
            for wish, those in list(self.wishes.visits.items()) if rescue else ():
                if not part & those:
                    continue
                for network in (True, False):
                    for after, written in self.visit(load.off, wish, network).passed:
                        yield after, 1 << written, (part & those).bit_count()

    def outcome(self, state: State, untouched: Behaviour, network: bool) -> Outcome:
        """How one start of whatever starts ends, when nothing cuts it."""
        number, wish = state
        choice = self.wishes.choice(self.wishes.all[wish])
        load = self.load(number, choice)
        if load.started.what == "rescue":
            visited = self.visit(load.off, self.wishes.all[wish], network)
            return Outcome("rescue", visited.ending, visited.passed[-1], visited.installed)
        course = self.course(number, choice, untouched)
        for change, device, ending in course.ends:
            after = self.wishes.after(change, wish)
            if after >= 0:
                return Outcome(course.what, ending, (device, after))
        raise AssertionError(f"no end fits {self.wishes.all[wish]}")

    def rotten(self, number: int) -> Iterator[tuple[Change, int]]:
        """What rots."""
        device = self.devices[number]
        for damage in damaged(self.board, device, self.limits):
            yield Change(powered=True), self.number(damage)
        if device.damage:
            spent = replace(device, damage=device.damage - 1)
            yield Change(stage="lost"), self.number(spent)

    def changes(self, boot: Boot) -> Iterator[int]:
        """What a person or a timer may do to the device while it is up, in all its steps."""
        record, running, device = boot.device.record, boot.running, boot.device
        if record is None or running is None or record.trial is not None or not device.state:
            return
        if running.number != record.committed:
            return
        number = max(record.next_generation, *(g.number + 1 for g in device.generations))
        workings = []
        if record.probation is None:
            slot = other_slot(running.slot)
            working = Boot(self.board, device, boot.slot, boot.is_try, running)
            working.do(plan.release(record, slot))
            working.to(working.device.with_place(slot, Place("")))
            working.to(working.device.with_place(slot, Place(FRESH)))
            _install(working, number, slot, FRESH, running)
            workings.append(working)
        previous = device.find(record.previous)
        if self.limits.by_hand and previous is not None and boot.known().of(previous.slot).bootable:
            working = Boot(self.board, device, boot.slot, boot.is_try, running)
            if record.probation is not None:
                working.to(replace(device, record=with_fields(record, probation=None)))
            _install(working, number, previous.slot, previous.version, running)
            workings.append(working)
        for working in workings:
            for state, _ in working.states:
                yield self.off(state, rebooted=False)
            yield self.off(working.device, rebooted=True)


def _install(working: Boot, number: int, slot: Slot, version: str, running: Generation) -> None:
    made = Generation(
        number, slot, "gateway", version, f"hash-{version}", running.number, 0, "update", "x"
    )
    assert working.device.record is not None
    working.do(
        plan.install(
            working.device.record, made, running.version, tries=POLICY.tries, boot_id="now",
            reason="x",
        )
    )  # fmt: skip


def damaged(board: Board, device: Device, limits: Limits) -> Iterator[Device]:
    """Something on the disk rots."""
    if not device.damage:
        return
    device = replace(device, damage=device.damage - 1)
    for slot in SLOTS:
        place = device.place(slot)
        if place.version:
            yield device.with_place(slot, replace(place, root=False))
            yield device.with_place(slot, replace(place, artifact="refused"))
            if limits.crashes:
                yield device.with_place(slot, replace(place, artifact="crashes"))
    yield replace(device, kept=lost(board.kind, rescue=board.rescue))
    yield replace(device, state=False)
    yield replace(device, record=None, generations=())


@dataclass
class Explored:
    """model: with all its devices and records. found: of each device the set of its records."""

    model: Model
    found: dict[int, int]
    states: int
    transitions: int
    complete: bool


def explore(board: Board, limits: Limits, most: int = 0) -> Explored:
    """All reachable powered-off states. most: stop there (0: never); then it is a sample."""
    model = Model(board, limits)
    explored = Explored(model, {}, 0, 0, complete=True)
    waiting: dict[int, int] = {}
    queue: deque[int] = deque()

    def reach(number: int, found: int) -> None:
        before = explored.found.get(number, 0)
        new = found & ~before
        if new:
            explored.found[number] = before | new
            explored.states += new.bit_count()
            if number not in waiting:
                queue.append(number)
            waiting[number] = waiting.get(number, 0) | new

    reach(model.number(new(board, limits.damage)), 1 << model.wishes.number(Wish()))
    while queue:
        if most and explored.states >= most:
            explored.complete = False
            return explored
        number = queue.popleft()
        for after, wishes, count in model.successors(number, waiting.pop(number)):
            explored.transitions += count
            reach(after, wishes)
    return explored
