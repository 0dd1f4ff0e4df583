"""What must hold in every state, and where a device comes to rest from it.

`Quiet` lets nothing more happen from outside, for every combination of how the
two images behave and whether there is a network: boots follow each other without
a choice, so a device that does not come to rest runs in a circle. Start records that one
boot makes the same are followed together from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from evidence.model.boot import Behaviour
from evidence.model.changes import Change, members
from evidence.model.device import Board, Device, Wish
from evidence.model.explore import Explored, Model, Outcome, State
from recovery import decide
from recovery.rescue.decide import MOST_STARTS
from recovery.slots import SLOTS, Slot, other_slot

World = tuple[Behaviour, Behaviour]
CIRCLE = "never comes to rest"
# "early" is "mount" without its report, "settled" is "late" after repairs that the next boot
# makes, too: explored as events, they add no other way to rest.
WAYS: tuple[Behaviour, ...] = ("good", "kernel", "mount", "late", "ill", "crashing")
WORLDS: tuple[World, ...] = tuple(product(WAYS, WAYS))
NUMBERS = {world: number for number, world in enumerate(WORLDS)}


@dataclass(frozen=True)
class Rest:
    """Where a device comes to rest. where: a slot, "waiting" (in rescue, for a person),
    "circle". boots: until it is there. rescued: what the start record then counts."""

    where: str
    boots: int
    rescued: int = 0
    person: bool = False


@dataclass(frozen=True)
class First:
    """The first start of a device with each of a set of records. rest: it is at rest with it;
    else next is what it leaves, and installed the slot that got another image."""

    wishes: int
    rest: Rest | None = None
    next: State = (0, 0)
    installed: Slot | None = None


@dataclass
class Quiet:
    """Runs of a board's devices with nothing from outside."""

    model: Model
    network: bool
    rests: dict[int, Rest] = field(default_factory=dict)
    same: dict[Rest, Rest] = field(default_factory=dict)
    steps: dict[int, Outcome] = field(default_factory=dict)
    slots: dict[State, int] = field(default_factory=dict)

    def rest(self, state: State, world: int) -> Rest:
        """To rest: up, and the next boot the same; or waiting. world: as in WORLDS."""
        rests = self.rests
        path: list[int] = []
        met: set[int] = set()
        key = packed(state) * len(WORLDS) + world
        while key not in rests:
            if key in met:
                for circle in path:
                    rests[circle] = Rest("circle", 0)
                break
            met.add(key)
            path.append(key)
            done = self.step(state, world)
            if done.ending == "waiting":
                rests[key] = self.waits(state[1])
            elif done.ending == "up" and done.next == state:
                rests[key] = self.one(Rest(done.what, 1))
            else:
                state, world = done.next, after(world, done.installed)
                key = packed(state) * len(WORLDS) + world
        rest = rests[key]
        for passed in reversed(path):
            if passed not in rests:
                rests[passed] = self.one(
                    Rest(rest.where, rest.boots + 1, rest.rescued, rest.person)
                )
            rest = rests[passed]
        return rest

    def step(self, state: State, world: int) -> Outcome:
        """One start; what does not start does not matter in it."""
        slot = self.slots.get(state)
        if slot is None:
            wishes = self.model.wishes
            started = self.model.load(state[0], wishes.choice(wishes.all[state[1]])).started
            slot = SLOTS.index(started.what) if started.what in SLOTS else -1
            self.slots[state] = slot
        behaviour = WORLDS[world][slot] if slot >= 0 else WAYS[0]
        key = packed(state) * len(WAYS) + WAYS.index(behaviour)
        done = self.steps.get(key)
        if done is None:
            done = self.steps[key] = self.model.outcome(state, behaviour, self.network)
        return done

    def one(self, rest: Rest) -> Rest:
        """The same object for what is equal: there are millions."""
        return self.same.setdefault(rest, rest)

    def waits(self, wish: int) -> Rest:
        """In rescue."""
        found = self.model.wishes.all[wish]
        return self.one(Rest("waiting", 1, found.rescued, found.rescue and found.person))

    def firsts(self, number: int, wishes: int) -> dict[World, list[First]]:
        """The first starts of a device with a set of records, in each world."""
        model = self.model
        of: dict[str, dict[Behaviour, list[First]]] = {}
        for choice, those in list(model.wishes.choices.items()):
            part = wishes & those
            if not part:
                continue
            load = model.load(number, choice)
            what = load.started.what
            if what == "rescue":
                of.setdefault(what, {}).setdefault("good", []).extend(self._rescued(load.off, part))
                continue
            for behaviour in WAYS if what in SLOTS else WAYS[:1]:
                found = of.setdefault(what, {}).setdefault(behaviour, [])
                for end in model.course(number, choice, behaviour).ends:
                    found.extend(self._started(number, part, end, what))
        every = {}
        for world in worlds(model.devices[number]):
            ways: dict[str, Behaviour] = dict(zip(SLOTS, world, strict=True))
            lists = (found[ways.get(what, "good")] for what, found in of.items())
            every[world] = [first for found in lists for first in found]
        return every

    def _started(
        self, number: int, part: int, end: tuple[Change, int, str], what: str
    ) -> Iterator[First]:
        change, device, ending = end
        for wish, sources in self.model.wishes.sources(change):
            found = part & sources
            if found and ending == "up" and device == number and found >> wish & 1:
                yield First(1 << wish, Rest(what, 1))
                found ^= 1 << wish
            if found:
                yield First(found, None, (device, wish))

    def _rescued(self, number: int, part: int) -> Iterator[First]:
        for wish, those in list(self.model.wishes.visits.items()):
            found = part & those
            if not found:
                continue
            visited = self.model.visit(number, wish, self.network)
            if visited.ending == "waiting":
                for member in members(found):
                    yield First(1 << member, self.waits(member))
            else:
                yield First(found, None, visited.passed[-1], visited.installed)


def packed(state: State) -> int:
    """A number for a state."""
    number, wish = state
    return number << 16 | wish


def after(world: int, installed: Slot | None) -> int:
    """What rescue installs is good."""
    if installed is None:
        return world
    a, b = WORLDS[world]
    return NUMBERS["good" if installed == "a" else a, "good" if installed == "b" else b]


def worlds(device: Device) -> Iterator[World]:
    """Every way in which the two images may behave; an empty slot has one."""
    ways = [WAYS if device.place(slot).version else WAYS[:1] for slot in SLOTS]
    yield from product(*ways)


def startable(board: Board, device: Device, slot: Slot) -> bool:
    """Whether the slot is whole and nothing forbids to start it: it has not failed here."""
    place, record = device.place(slot), device.record
    if not place.whole:
        return False
    if record is None:
        return True
    known = device.loader(board).of(slot)
    committed = device.find(record.committed)
    if committed is not None and (committed.slot, committed.version) == (slot, place.version):
        probation = record.probation
        return probation is None or not (probation.failure or probation.boots >= probation.limit)
    trial = record.trial
    tried = device.find(trial.generation) if trial is not None else None
    if tried is not None and trial is not None and tried.slot == slot:
        return known.bootable and not decide.verdict_of(trial)
    return record.quarantine_of(place.version) is None and known.bootable


@dataclass
class Findings:
    """What a check counted. wrong: each with the state that shows it, the first of its kind."""

    runs: int = 0
    longest: int = 0
    reached: int = 0
    waited: int = 0
    gave_up: int = 0
    started: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    often: dict[str, int] = field(default_factory=dict)

    def count(self, rest: Rest, runs: int, *, candidate: bool, network: bool) -> str:
        """Counts runs that come to rest there, and says what is wrong with it. candidate: there
        is a healthy slot that may be started."""
        self.runs += runs
        if rest.where == "circle":
            return CIRCLE
        if rest.where != "waiting":
            self.reached += runs
        elif not rest.person and rest.rescued >= MOST_STARTS:
            self.gave_up += runs
        else:
            self.waited += runs
            if candidate and not rest.person:
                return "a healthy candidate is not reached"
            if network and not rest.person:
                return "waits although it could install"
        return ""

    def note(self, kind: str, explored: Explored, number: int, wishes: int, more: str = "") -> None:
        """Something that must not be, with each of a set of records."""
        if kind not in self.wrong:
            wish = explored.model.wishes.all[next(members(wishes))]
            device = explored.model.devices[number]
            told = in_words(explored.model.board, device, wish)
            self.wrong[kind] = f"{more} {told}".strip()
        self.often[kind] = self.often.get(kind, 0) + wishes.bit_count()


def check_states(explored: Explored, findings: Findings) -> None:
    """What holds in every state: the committed image, and what the loader would start."""
    model = explored.model
    unrescued = 0
    for number, wish in enumerate(model.wishes.all):
        unrescued |= int(wish.rescued == 0) << number
    for number, wishes in explored.found.items():
        device = model.devices[number]
        record = device.record
        if record is None:
            continue
        # Afterwards rescue may have put another image into the committed slot.
        if not model.limits.damage and wishes & unrescued:
            for kind in _wrong_without_rescue(model.board, device):
                findings.note(kind, explored, number, wishes & unrescued)
        for choice, those in list(model.wishes.choices.items()):
            part = wishes & those
            if not part:
                continue
            started = model.load(number, choice).started.what
            if started not in SLOTS:
                continue
            findings.started += part.bit_count()
            if _mistrusted(device, started):
                findings.note("a quarantined version is started by itself", explored, number, part)


def _wrong_without_rescue(board: Board, device: Device) -> Iterator[str]:
    assert device.record is not None
    committed = device.find(device.record.committed)
    if committed is None or device.place(committed.slot).version != committed.version:
        yield "a committed image is lost"
    elif not board.rescue and not device.loader(board).active:
        yield "nothing can start"
    for slot in SLOTS:
        if not device.place(slot).version and device.loader(board).of(slot).bootable:
            yield "a half-written slot may be started"


def _mistrusted(device: Device, slot: Slot) -> bool:
    """Whether the slot's version is quarantined, and nothing makes it right to start it."""
    record, version = device.record, device.place(slot).version
    assert record is not None
    trusted = {
        found.version
        for number in (record.committed, record.previous)
        if (found := device.find(number)) is not None
    }
    return (
        record.trial is None
        and record.quarantine_of(version) is not None
        and version not in trusted
    )


def check_rest(explored: Explored, findings: Findings, *, network: bool) -> None:
    """From every state, in every world, to rest."""
    model = explored.model
    quiet = Quiet(model, network)
    for number, wishes in explored.found.items():
        device = model.devices[number]
        good = [startable(model.board, device, slot) for slot in SLOTS]
        for world, firsts in quiet.firsts(number, wishes).items():
            candidate = any(fit and way == "good" for fit, way in zip(good, world, strict=True))
            for first in firsts:
                rest, boots = first.rest, 0
                if rest is None:
                    then = after(NUMBERS[world], first.installed)
                    rest, boots = quiet.rest(first.next, then), 1
                findings.longest = max(findings.longest, rest.boots + boots)
                kind = findings.count(
                    rest, first.wishes.bit_count(), candidate=candidate, network=network
                )
                if kind == CIRCLE:
                    kind = judged_circle(model.board, device, world)
                if kind:
                    findings.note(kind, explored, number, first.wishes, f"{world}")


def judged_circle(board: Board, device: Device, world: World) -> str:
    """What is wrong with a device that restarts for ever; "" when nobody promised otherwise:
    without a rescue system a committed image that does not start has no way out."""
    if "kernel" in world or any(place.artifact == "crashes" for place in device.slots):
        if not board.rescue:
            return ""
        if board.kind in ("systemd-boot", "tryboot"):
            return "never comes to rest: a kernel ends before the initramfs counts its start"
    firmware_ends = board.kind in ("systemd-boot", "tryboot") and not board.returns
    refused = any(place.artifact == "refused" for place in device.slots)
    if board.rescue and firmware_ends and refused:
        return "never comes to rest: the firmware does not go on when an artifact is refused"
    if board.rescue:
        return "never comes to rest"
    # The loader's word counts: to be told that a slot is good is the commit point.
    known = device.loader(board)
    slot = known.active or "a"
    if not known.of(slot).successful:
        slot = other_slot(slot)
    if not known.of(slot).successful:
        return ""
    good = world[SLOTS.index(slot)] == "good" and startable(board, device, slot)
    return "never comes to rest although the committed image is good" if good else ""


def in_words(board: Board, device: Device, wish: Wish) -> str:
    """A state, short."""
    known = device.loader(board)
    record = device.record
    loader = ", ".join(
        f"{slot}: "
        + ("good" if s.successful else f"{s.tries_left} tries" if s.bootable else "no start")
        for slot, s in (("a", known.a), ("b", known.b))
    )
    slots = ", ".join(
        f"{slot}={p.version or 'nothing'}{'' if p.root else ' (root rotten)'}"
        f"{'' if p.artifact == 'whole' else f' (artifact {p.artifact})'}"
        for slot, p in zip(SLOTS, device.slots, strict=True)
    )
    told = (
        "no state record"
        if record is None
        else (
            f"committed {record.committed}, previous {record.previous}, "
            f"trial {record.trial.generation if record.trial else None}"
            f"{f' after {len(record.trial.attempts)}' if record.trial else ''}, "
            f"probation {record.probation.boots if record.probation else None}, "
            f"quarantined {[q.version for q in record.quarantined]}"
        )
    )
    generations = ", ".join(f"{g.number}={g.slot}:{g.version}" for g in device.generations)
    return (
        f"[slots {slots}; loader {loader}; {told}; generations {generations}; "
        f"state {'usable' if device.state else 'unusable'}; rescue asked {wish.rescue}/{wish.asked}"
        f"{' by a person' if wish.person else ''}{' action' if wish.action else ''}, "
        f"starts {wish.image}:{wish.starts}, rescued {wish.rescued}, one-shot {wish.one_shot}]"
    )
