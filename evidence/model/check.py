"""What must hold in every state, and where a device comes to rest from it.

`Quiet` lets nothing more happen from outside, for every combination of how the
two images behave and whether there is a network: boots follow each other without
a choice, so a device that does not come to rest runs in a circle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from evidence.model.boot import Behaviour
from evidence.model.explore import Explored, Model, State, Step
from recovery import decide
from recovery.rescue.decide import MOST_STARTS
from recovery.slots import SLOTS, Slot, other_slot

World = tuple[Behaviour, Behaviour]
# "early" is "mount" without its report, "settled" is "late" after repairs that the next boot
# makes, too: explored as events, they add no other way to rest.
WAYS: tuple[Behaviour, ...] = ("good", "kernel", "mount", "late", "ill", "crashing")


@dataclass(frozen=True)
class Rest:
    """Where a device comes to rest. where: a slot, "waiting" (in rescue, for a person),
    "circle". boots: until it is there. rescued: what the start record then counts."""

    where: str
    boots: int
    rescued: int = 0
    person: bool = False


@dataclass
class Quiet:
    """Runs of a board's devices with nothing from outside."""

    model: Model
    network: bool
    rests: dict[tuple[State, World], Rest] = field(default_factory=dict)

    def rest(self, state: State, world: World) -> Rest:
        """To rest: up, and the next boot the same; or waiting."""
        path: list[tuple[State, World]] = []
        met: set[tuple[State, World]] = set()
        key = (state, world)
        while key not in self.rests:
            if key in met:
                for circle in path:
                    self.rests[circle] = Rest("circle", 0)
                break
            met.add(key)
            path.append(key)
            step = self.step(*key)
            if step.ending == "waiting":
                wish = key[0][1]
                self.rests[key] = Rest("waiting", 1, wish.rescued, wish.rescue and wish.person)
            elif step.ending == "up" and step.last == key[0]:
                self.rests[key] = Rest(step.what, 1)
            else:
                key = (step.last, self.after(key[1], step))
        end = self.rests[key]
        for boots, passed in enumerate(reversed(path)):
            if passed not in self.rests:
                more = boots + (0 if path[-1] == key else 1)
                self.rests[passed] = Rest(end.where, end.boots + more, end.rescued, end.person)
        return self.rests[(state, world)]

    def step(self, state: State, world: World) -> Step:
        """One boot."""
        what = self.model.load(*state).started.what
        behaviour = world[SLOTS.index(what)] if what in SLOTS else "good"
        return self.model.steps(state, behaviour, self.network)

    def after(self, world: World, step: Step) -> World:
        """What rescue installs is good."""
        if step.installed is None:
            return world
        return ("good", world[1]) if step.installed == "a" else (world[0], "good")


def worlds(model: Model, state: State) -> Iterator[World]:
    """Every way in which the two images may behave; an empty slot has one."""
    device = model.devices[state[0]]
    ways = [WAYS if device.place(slot).version else WAYS[:1] for slot in SLOTS]
    yield from product(*ways)


def startable(model: Model, state: State, slot: Slot) -> bool:
    """Whether the slot is whole and nothing forbids to start it: it has not failed here."""
    device = model.devices[state[0]]
    place, record = device.place(slot), device.record
    if not place.whole:
        return False
    if record is None:
        return True
    known = device.loader(model.board).of(slot)
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
    without_rescue: int = 0
    started: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    often: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str, explored: Explored, state: State, more: str = "") -> None:
        """Something that must not be."""
        if kind not in self.wrong:
            self.wrong[kind] = f"{more} {in_words(explored.model, state)}".strip()
        self.often[kind] = self.often.get(kind, 0) + 1


def check_states(explored: Explored, findings: Findings) -> None:
    """What holds in every state: the committed image, and what the loader would start."""
    model = explored.model
    for state in explored.found:
        device = model.devices[state[0]]
        record = device.record
        if record is None:
            continue
        committed = device.find(record.committed)
        if not model.limits.damage and state[1].rescued == 0:
            # Afterwards rescue may have put another image into the committed slot.
            if committed is None or device.place(committed.slot).version != committed.version:
                findings.note("a committed image is lost", explored, state)
            elif not model.board.rescue and not device.loader(model.board).active:
                findings.note("nothing can start", explored, state)
            for slot in SLOTS:
                if not device.place(slot).version and device.loader(model.board).of(slot).bootable:
                    findings.note("a half-written slot may be started", explored, state)
        what = model.load(*state).started.what
        if what not in SLOTS:
            continue
        started: Slot = what
        findings.started += 1
        version = device.place(started).version
        trusted = {
            found.version
            for number in (record.committed, record.previous)
            if (found := device.find(number)) is not None
        }
        if (
            record.trial is None
            and record.quarantine_of(version) is not None
            and version not in trusted
        ):
            findings.note("a quarantined version is started by itself", explored, state)


def check_rest(
    explored: Explored, findings: Findings, *, network: bool, part: tuple[int, int] = (1, 1)
) -> None:
    """From every state, in every world, to rest. part: K of N, of the states."""
    model = explored.model
    quiet = Quiet(model, network)
    for number, state in enumerate(explored.found):
        if number % part[1] != part[0] - 1:
            continue
        good = [startable(model, state, slot) for slot in SLOTS]
        for world in worlds(model, state):
            rest = quiet.rest(state, world)
            findings.runs += 1
            findings.longest = max(findings.longest, rest.boots)
            candidate = any(fit and way == "good" for fit, way in zip(good, world, strict=True))
            if rest.where == "circle":
                kind = judged_circle(model, state, world)
                if kind:
                    findings.note(kind, explored, state, f"{world}")
                else:
                    findings.without_rescue += 1
            elif rest.where != "waiting":
                findings.reached += 1
            elif rest.person:
                findings.waited += 1
            elif rest.rescued >= MOST_STARTS:
                findings.gave_up += 1
            else:
                findings.waited += 1
                if candidate:
                    findings.note("a healthy candidate is not reached", explored, state, f"{world}")
                elif network:
                    findings.note("waits although it could install", explored, state, f"{world}")


def judged_circle(model: Model, state: State, world: World) -> str:
    """What is wrong with a device that restarts for ever; "" when nobody promised otherwise:
    without a rescue system a committed image that does not start has no way out."""
    device = model.devices[state[0]]
    if "kernel" in world or any(place.artifact == "crashes" for place in device.slots):
        if not model.board.rescue:
            return ""
        if model.board.kind in ("systemd-boot", "tryboot"):
            return "never comes to rest: a kernel ends before the initramfs counts its start"
    firmware_ends = model.board.kind in ("systemd-boot", "tryboot") and not model.board.returns
    refused = any(place.artifact == "refused" for place in device.slots)
    if model.board.rescue and firmware_ends and refused:
        return "never comes to rest: the firmware does not go on when an artifact is refused"
    if model.board.rescue:
        return "never comes to rest"
    # The loader's word counts: to be told that a slot is good is the commit point.
    known = device.loader(model.board)
    slot = known.active or "a"
    if not known.of(slot).successful:
        slot = other_slot(slot)
    if not known.of(slot).successful:
        return ""
    good = world[SLOTS.index(slot)] == "good" and startable(model, state, slot)
    return "never comes to rest although the committed image is good" if good else ""


def in_words(model: Model, state: State) -> str:
    """A state, short."""
    device, wish = model.devices[state[0]], state[1]
    known = device.loader(model.board)
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


def trace(explored: Explored, state: State) -> list[State]:
    """How the state came about, from the factory."""
    path = [state]
    while (before := explored.found[path[-1]]) is not None:
        path.append(before)
    return path[::-1]
