"""A visit of the rescue system: what the shipped decision asks for, done to the model.

`recovery.rescue.decide.next_repair` decides. A damaged boot artifact looks whole
to it (it may be damaged where nobody but the firmware or the kernel looks), a
damaged root image never does, because rescue verifies all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from evidence.model.boot import POLICY, Boot
from evidence.model.device import Board, Device, Place, Wish, root_hash
from evidence.model.records import Verb, changed, known, lost
from recovery import plan
from recovery.decide import REPAIRS, DropTrial, View, Waiting, assess, refusal
from recovery.generations import Generation
from recovery.rescue import decide
from recovery.rescue.settle import FOLLOWS
from recovery.slots import SLOTS, Slot, other_slot
from recovery.steps import MarkUnbootable, Save, Step
from recovery.value import replace as with_fields

REPAIRED = "v9"


@dataclass
class Visit:
    """states: what was durable, in order. network: an image can be fetched."""

    board: Board
    device: Device
    wish: Wish
    network: bool

    def __post_init__(self) -> None:
        """Nothing has been done."""
        self.states: list[tuple[Device, Wish]] = []
        self.tried: set[decide.Name] = set()
        self.installed: Slot | None = None

    def to(self, device: Device) -> None:
        """One durable step."""
        self.device = device
        self.states.append((device, self.wish))

    def run(self) -> Literal["restart", "waiting"]:
        """Until the restart, or until a person is needed."""
        met = self.wish
        self.write(
            replace(
                met,
                rescue=False,
                person=False,
                asked=0,
                image="",
                starts=0,
                one_shot=False,
                loads=0,
            )
        )
        while True:
            # A person who asked may not come: then the visit goes on by itself.
            repair = decide.next_repair(self.diagnosis(met))
            if isinstance(repair, decide.Wait):
                return "waiting"
            if isinstance(repair, decide.Reset):
                self.tried.add("action")
                self.to(replace(self.device, state=True, record=None, generations=()))
                self.write(replace(self.wish, action=False))
                return "restart"
            if isinstance(repair, decide.RepairBoot):
                self.tried.add("boot")
                self.control("tidy", "a")
            elif isinstance(repair, decide.RepairState):
                self.tried.add("state")
                self.to(replace(self.device, state=True, record=None, generations=()))
            elif isinstance(repair, decide.FollowLoader):
                self.tried.add("record")
                self.follow()
            elif isinstance(repair, decide.Start):
                self.tried.add("start-a" if repair.slot == "a" else "start-b")
                self.start(repair.slot)
                return "restart"
            else:
                self.tried.add("reinstall")
                if self.network and self.reinstall():
                    return "restart"

    def write(self, wanted: Wish) -> None:
        """The start record."""
        self.wish = wanted
        self.states.append((self.device, wanted))

    def control(self, verb: Verb, slot: Slot, tries: int = 0) -> None:
        """A change of the loader's record."""
        for kept in changed(self.board.kind, self.device.kept, None, verb, slot, tries=tries):
            self.to(replace(self.device, kept=kept))

    def do(self, steps: tuple[Step, ...]) -> None:
        """The steps of a plan."""
        boot = Boot(self.board, self.device, "a", rescuing=True)
        boot.do(steps)
        for device, _ in boot.states:
            self.to(device)

    def diagnosis(self, met: Wish) -> decide.Diagnosis:
        """recovery.rescue.diagnosis."""
        return decide.Diagnosis(
            action="reset" if met.action else "",
            person=False,
            rescued=met.rescued,
            boot="damaged" if self.device.kept == lost(self.board.kind, rescue=True) else "whole",
            state="whole" if self.device.state else "damaged",
            a=decide.SlotDiagnosis(self.whole("a"), refused=self.refused("a")),
            b=decide.SlotDiagnosis(self.whole("b"), refused=self.refused("b")),
            first=self.first(),
            tried=frozenset(self.tried),
            behind=self.behind(),
        )

    def whole(self, slot: Slot) -> bool:
        """Its root image verifies."""
        place = self.device.place(slot)
        return bool(place.version) and place.root

    def refused(self, slot: Slot) -> str:
        """Site._refused: why it is not started by itself although it is whole."""
        record, place = self.device.record, self.device.place(slot)
        there = (slot, root_hash(place.version))
        known = [g for g in self.device.generations if (g.slot, g.root_hash) == there]
        if record is None or not known or any(g.number == record.committed for g in known):
            return ""
        if any(record.quarantine_of(g.version) is not None for g in known):
            return "quarantined"
        trial = record.trial
        if trial is None or not any(g.number == trial.generation for g in known):
            return ""
        used = self.device.loader(self.board).of(slot).tries_left == 0
        return "failed its trial" if refusal(trial) or used else ""

    def committed(self) -> Generation | None:
        """The committed generation."""
        record = self.device.record
        return self.device.find(record.committed) if record is not None else None

    def first(self) -> Slot | None:
        """The committed slot, or the loader's."""
        found = self.committed()
        return found.slot if found is not None else self.device.loader(self.board).active

    def count(self) -> int:
        """recovery.rescue.starting.count_start."""
        before = self.wish.rescued
        self.write(replace(self.wish, rescued=before + 1))
        return before

    def start(self, slot: Slot) -> None:
        """Course.start."""
        before = self.count()
        self.activate(slot, other_may=self.whole(other_slot(slot)) and not before)

    def activate(self, slot: Slot, *, other_may: bool) -> None:
        """recovery.rescue.starting.activate."""
        if not other_may:
            self.control("mark_unbootable", other_slot(slot))
        self.control("set_active", slot, POLICY.tries)

    def reinstall(self) -> bool:
        """updater.rescue.reinstall from a source that offers what is committed, and newer."""
        self.follow()
        committed = self.committed()
        damaged = [slot for slot in SLOTS if not self.whole(slot)]
        if committed is None:
            slot = (*damaged, SLOTS[0])[0]
            self.control("mark_unbootable", slot)
            self.fill(slot, REPAIRED)
            self.count()
            self.activate(slot, other_may=self.whole(other_slot(slot)))
            return True
        slot = committed.slot
        if self.device.place(slot) != Place(committed.version):
            # In place: every cut leaves it less damaged, and at last whole.
            self.to(self.device.with_place(slot, Place(committed.version)))
            self.count()
            self.activate(slot, other_may=self.whole(other_slot(slot)))
            return True
        other = other_slot(slot)
        self.settle(committed)
        assert self.device.record is not None
        self.do(plan.release(self.device.record, other))
        self.fill(other, REPAIRED)
        self.count()
        number = max(
            self.device.record.next_generation, *(g.number + 1 for g in self.device.generations)
        )
        made = Generation(
            number, other, "gateway", REPAIRED, root_hash(REPAIRED), committed.number, 0,
            "update", "x",
        )  # fmt: skip
        *steps, commit_point = plan.install(
            self.device.record, made, committed.version, tries=POLICY.tries, boot_id="now",
            reason="x",
        )  # fmt: skip
        if slot in damaged:
            steps.append(MarkUnbootable(slot))
        self.do((*steps, commit_point))
        return True

    def fill(self, slot: Slot, version: str) -> None:
        """Another image in the slot. A cut leaves pieces."""
        self.installed = slot
        self.to(self.device.with_place(slot, Place("")))
        self.to(self.device.with_place(slot, Place(version)))

    def view(self, committed: Generation) -> View:
        """As if the committed generation ran."""
        loader = known(self.board.kind, self.device.kept, None)
        assert self.device.record is not None
        return View(
            boot_id="now",
            running=committed,
            record=self.device.record,
            generations=self.device.generations,
            active=loader.active,
            a=loader.a,
            b=loader.b,
        )

    def behind(self) -> bool:
        """recovery.rescue.settle.behind_loader."""
        committed = self.committed()
        return committed is not None and isinstance(assess(self.view(committed)), FOLLOWS)

    def follow(self) -> None:
        """recovery.rescue.settle.follow_loader, with the same decisions."""
        for _ in range(5):
            committed = self.committed()
            if committed is None:
                return
            view = self.view(committed)
            verdict = assess(view)
            if not isinstance(verdict, FOLLOWS):
                return
            self.do(plan.repair(verdict, view, POLICY, 0))
        raise AssertionError("repairs of the state record do not end")

    def settle(self, committed: Generation) -> None:
        """recovery.rescue.settle, with the same decisions."""
        for _ in range(5):
            view = self.view(committed)
            verdict = assess(view)
            if isinstance(verdict, Waiting):
                waiting = view.find(verdict.generation)
                assert waiting is not None
                dropped = DropTrial(verdict.generation, "x")
                self.do((MarkUnbootable(waiting.slot), *plan.repair(dropped, view, POLICY, 0)))
            elif isinstance(verdict, REPAIRS):
                self.do(plan.repair(verdict, view, POLICY, 0))
            else:
                self.do((Save(with_fields(view.record, probation=None)),))
                return
        raise AssertionError("repairs of the state record do not end")
