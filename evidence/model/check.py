"""What must hold in every state, and where a device must come to rest from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evidence.model.changes import members
from evidence.model.device import Board, Device, Wish
from evidence.model.explore import Explored
from evidence.model.quiet import CIRCLES, WORLDS, Quiet, Rest, World
from recovery import decide
from recovery.rescue.decide import MOST_STARTS
from recovery.slots import SLOTS, Slot, other_slot


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
        return known.bootable and not decide.refusal(trial)
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

    def count(self, rest: Rest, runs: int) -> None:
        """Runs that come to rest there."""
        self.runs += runs
        self.longest = max(self.longest, rest.boots)
        if rest.where == "waiting" and not rest.person and rest.rescued >= MOST_STARTS:
            self.gave_up += runs
        elif rest.where == "waiting":
            self.waited += runs
        elif rest not in CIRCLES:
            self.reached += runs

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
    runs: dict[int, int] = {}
    suspects: dict[int, bool] = {}
    for number, wishes in explored.found.items():
        device = model.devices[number]
        good = [startable(model.board, device, slot) for slot in SLOTS]
        for in_worlds, firsts in quiet.firsts(number, wishes):
            for first in firsts:
                count = first[0].bit_count()
                for world in in_worlds:
                    rest = quiet.after(first, world)
                    runs[rest] = runs.get(rest, 0) + count
                    if rest not in suspects:
                        suspects[rest] = suspicious(quiet.rests[rest])
                    if suspects[rest]:
                        ways = WORLDS[world]
                        kind = judged(
                            model.board, device, ways, quiet.rests[rest], good=good, network=network
                        )
                        if kind:
                            findings.note(kind, explored, number, first[0], f"{ways}")
    for rest, count in runs.items():
        findings.count(quiet.rests[rest], count)


def suspicious(rest: Rest) -> bool:
    """Whether there must be a reason for it."""
    if rest.where == "waiting":
        return not rest.person and rest.rescued < MOST_STARTS
    return rest in CIRCLES


def judged(
    board: Board, device: Device, world: World, rest: Rest, *, good: Sequence[bool], network: bool
) -> str:
    """What is wrong with it; "" for nothing. good: the slots that may be started."""
    if rest in CIRCLES:
        return judged_circle(board, device, world, early=rest == CIRCLES[1])
    if any(fit and way == "good" for fit, way in zip(good, world, strict=True)):
        return "a healthy candidate is not reached"
    return "waits although it could install" if network else ""


def judged_circle(board: Board, device: Device, world: World, *, early: bool) -> str:
    """What is wrong with a device that restarts for ever; "" when nobody promised otherwise:
    without a rescue system a committed image that does not start has no way out.

    early: some of these starts end before the initramfs.
    """
    if board.rescue:
        if early and board.kind == "tryboot":
            return "never comes to rest: a kernel ends before the initramfs counts its start"
        if (
            board.kind in ("systemd-boot", "tryboot")
            and not board.returns
            and any(p.artifact == "refused" for p in device.slots)
        ):
            return "never comes to rest: the firmware does not go on when an artifact is refused"
        return "never comes to rest"
    # The loader's word counts: to be told that a slot is good is the commit point.
    known = device.loader(board)
    slot = known.active or "a"
    if not known.of(slot).successful:
        slot = other_slot(slot)
    if early or not known.of(slot).successful:
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
