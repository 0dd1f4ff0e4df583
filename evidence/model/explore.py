"""Every state that a device can be in.

`explore` follows, from the factory, every event from every state: each way in
which a boot can go, a power cut between any two durable steps of it (the
loader's own among them), an installation, a rollback by hand, a wish for the
rescue system, a factory reset, damage.

A state is a pair: the device, and its start record. What a boot does to the
device depends on the record only where the boot begins, so the boots of a device
are computed once and put together with every record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from evidence.model.boot import (
    BEHAVIOURS,
    POLICY,
    Behaviour,
    Boot,
    Ending,
    counting,
    initramfs,
    possible,
)
from evidence.model.device import Board, Device, Place, Wish, canonical, new
from evidence.model.records import lost, powered_off
from evidence.model.rescue import Visit
from evidence.model.starting import Started, overdue, start, wished, without_wish
from recovery import decide, plan
from recovery.generations import Generation
from recovery.slots import SLOTS, Slot, other_slot
from recovery.value import replace as with_fields

FRESH = "v8"
State = tuple[int, Wish]


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
    had been noted as healthy. after: what may be done when it is up (devices, not noted anew).
    verdict: what the boot was."""

    ending: Ending
    cuts: tuple[tuple[int, bool], ...]
    last: tuple[int, bool]
    reset: tuple[int, bool]
    after: tuple[int, ...] = ()
    verdict: decide.Final | None = None


@dataclass(frozen=True)
class Step:
    """One boot of a state. what: a slot, "rescue" or "nothing". ending: besides those of a slot
    "waiting", in rescue, for a person. cuts: states that a cut of the power can leave.
    after: what may be done while it is up."""

    what: str
    ending: str
    cuts: tuple[State, ...]
    last: State
    after: tuple[State, ...] = ()
    verdict: decide.Final | None = None
    installed: Slot | None = None


@dataclass(frozen=True)
class Loaded:
    """What the loader starts. cuts, off, rebooted: device numbers while and after it wrote."""

    started: Started
    cuts: tuple[int, ...]
    off: int
    rebooted: int


@dataclass(frozen=True)
class Visited:
    """A visit of the rescue system. installed: the slot that got another image."""

    ending: str
    passed: tuple[State, ...]
    installed: Slot | None


@dataclass
class Model:
    """A board and everything that has been computed about its devices, which have numbers."""

    board: Board
    limits: Limits
    numbers: dict[Device, int] = field(default_factory=dict)
    as_met: dict[Device, int] = field(default_factory=dict)
    loads: dict[tuple[int, bool, bool], Loaded] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    boots: dict[tuple[int, Behaviour], Ended] = field(default_factory=dict)
    visits: dict[tuple[int, Wish, bool], Visited] = field(default_factory=dict)

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
        return self.number(replace(device, kept=kept))

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
                boot.verdict,
            )
        return self.boots[key]

    def visit(self, number: int, wish: Wish, network: bool) -> Visited:
        """A visit of the rescue system."""
        key = (number, wish, network)
        if key not in self.visits:
            visit = Visit(self.board, self.devices[number], wish, network)
            ending = visit.run()
            passed = tuple((self.off(device, rebooted=False), w) for device, w in visit.states)
            self.visits[key] = Visited(ending, passed, visit.installed)
        return self.visits[key]

    def load(self, number: int, wish: Wish) -> Loaded:
        """What the loader starts."""
        asked = self.board.rescue and wished(self.board, wish)
        key = (number, asked, overdue(self.board, wish))
        if key not in self.loads:
            started = start(self.board, self.devices[number], wish)
            self.loads[key] = Loaded(
                started,
                tuple(self.off(cut, rebooted=False) for cut in started.cuts),
                self.off(started.device, rebooted=False),
                self.off(started.device, rebooted=True),
            )
        return self.loads[key]

    def steps(self, state: State, untouched: Behaviour, network: bool) -> Step:
        """One boot of whatever starts. untouched: how the image behaves while undamaged."""
        number, wish = state
        device, load = self.devices[number], self.load(number, wish)
        started, at = load.started, load.off
        loaded = tuple((cut, wish) for cut in load.cuts)
        if started.what == "nothing":
            return Step("nothing", "reset", (*loaded, (at, wish)), (at, wish))
        if started.what == "rescue":
            if self.board.kind in ("grub", "u-boot") and wished(self.board, wish):
                # Its script counts the asking first, so that a rescue that does not come ends.
                wish = replace(wish, asked=wish.asked + 1)
                loaded = (*loaded, (at, wish))
            visited = self.visit(at, wish, network)
            passed = visited.passed
            return Step(
                "rescue", visited.ending, (*loaded, *passed), passed[-1],
                installed=visited.installed,
            )  # fmt: skip
        if started.uncounted:
            wish = replace(wish, loads=min(wish.loads + 1, self.board.most_loads))
            loaded = (*loaded, (at, wish))
        slot: Slot = started.what
        behaviour = possible(device, slot, untouched=untouched)
        if behaviour == "kernel":
            return Step(slot, "reset", (*loaded, (at, wish)), (at, wish))
        written: tuple[Wish, ...] = (wish,)
        asks = False
        if self.board.rescue:
            written, asks = initramfs(self.board, wish, slot, behaviour)
        passed = (*loaded, *((at, self.unpowered(item)) for item in written))
        if asks:
            after = (load.rebooted, written[-1])
            return Step(slot, "restart", passed, after)
        counted = written[-1]
        if not device.state and self.asks_for_state(started, counted, behaviour):
            asked = replace(counted, rescue=True)
            after = (load.rebooted, asked)
            return Step(slot, "restart", (*passed, (at, asked)), after)
        ended = self.boot(number, behaviour)
        noted = counted.healthy(volatile=not device.state)

        def then(item: tuple[int, bool]) -> State:
            return item[0], noted if item[1] else counted

        cuts = (*passed, *(then(item) for item in ended.cuts), then(ended.reset))
        return Step(
            slot, ended.ending, cuts, then(ended.last), tuple((n, noted) for n in ended.after),
            ended.verdict,
        )  # fmt: skip

    def asks_for_state(self, started: Started, wish: Wish, behaviour: Behaviour) -> bool:
        """ask_for_rescue in recovery.early: the state partition cannot be used."""
        if not self.board.rescue or wish.rescued or wish.asked or behaviour in ("mount", "early"):
            return False
        assert started.what in SLOTS
        return not counting(self.board, started.device, started.what, started.is_try)

    def unpowered(self, wish: Wish) -> Wish:
        """The wish after a cut: the Pi's firmware forgets what a reboot was asked for."""
        return replace(wish, one_shot=False) if self.board.kind == "tryboot" else wish

    def successors(self, state: State) -> Iterator[State]:
        """Every state that one event can lead to."""
        number, wish = state
        for rotten in damaged(self.board, self.devices[number], self.limits):
            yield self.number(rotten), wish
        if self.devices[number].damage and wish != Wish():
            yield (
                self.number(replace(self.devices[number], damage=self.devices[number].damage - 1)),
                Wish(),
            )
        started = self.load(number, wish).started
        behaviours = BEHAVIOURS if started.what in SLOTS else BEHAVIOURS[:1]
        networks = (True, False) if started.what == "rescue" else (False,)
        for behaviour in behaviours:
            for network in networks:
                step = self.steps(state, behaviour, network)
                for device, then in step.cuts:
                    yield device, self.unpowered(then)
                yield step.last
                yield step.last[0], self.unpowered(step.last[1])
                for device, then in step.after:
                    yield device, self.unpowered(then)
                if step.ending == "up" and self.limits.by_hand and self.board.rescue:
                    device, then = step.last
                    for action in (False, True):
                        wished = replace(then, rescue=True, person=True, action=action, asked=0)
                        yield device, wished
                        if self.board.kind in ("systemd-boot", "tryboot"):
                            yield device, replace(wished, one_shot=True)

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
    yield replace(device, kept=lost(board.kind))
    yield replace(device, state=False)
    yield replace(device, record=None, generations=())


@dataclass
class Explored:
    """model: with all its devices. found: each state, with the one that it came from."""

    model: Model
    found: dict[State, State | None]
    transitions: int
    complete: bool


def explore(board: Board, limits: Limits, most: int = 0) -> Explored:
    """All reachable powered-off states. most: stop there (0: never); then it is a sample."""
    model = Model(board, limits)
    first = (model.number(new(board, limits.damage)), Wish())
    found: dict[State, State | None] = {first: None}
    queue, transitions = deque([first]), 0
    while queue:
        if most and len(found) >= most:
            return Explored(model, found, transitions, complete=False)
        state = queue.popleft()
        for after in model.successors(state):
            transitions += 1
            if after not in found:
                found[after] = state
                queue.append(after)
    return Explored(model, found, transitions, complete=True)
