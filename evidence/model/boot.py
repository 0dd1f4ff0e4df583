"""One boot of a modelled device: every durable state that it passes, and how it ends.

The loader (`evidence.model.starting`), the initramfs of a slot, early boot, the
agent's settling and judging, commit, probation. Decisions, plans and boot
control are the product's; what is written down again here is only their order,
which `recovery.early`, `recovery.service` and `imager/initramfs/init` have as
effects. A cut of the power may leave any of the states that a boot passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from evidence.model.device import Board, Device, Wish, root_hash
from evidence.model.records import Known, Verb, changed, known
from recovery import decide, plan
from recovery.boot import RunningImage
from recovery.device import TrialPolicy
from recovery.errors import BootControlError
from recovery.generations import Generation
from recovery.slots import Slot, other_slot
from recovery.steps import (
    MarkSuccessful,
    MarkUnbootable,
    Save,
    SetActive,
    Step,
    Tell,
    WriteGeneration,
)

Behaviour = Literal["good", "kernel", "mount", "early", "late", "settled", "ill", "crashing"]
BEHAVIOURS: tuple[Behaviour, ...] = (
    "good",  # comes up, healthy, and stays
    "kernel",  # panics, hangs or resets before the initramfs counts the start
    "mount",  # the initramfs cannot find, open or mount the slot
    "early",  # ends before early boot has written anything
    "late",  # ends between early boot and the agent
    "settled",  # ends before its health is known
    "ill",  # comes up, fails its health checks
    "crashing",  # passes its trial, fails in its probation
)
POLICY = TrialPolicy(tries=2, deadline_seconds=60, probation_seconds=60, probation_boots=1)
# As in imager/initramfs/init.
MOST_ASKED = 3
FEW_STARTS = 2

Ending = Literal["up", "restart", "reset"]


def counting(board: Board, device: Device, slot: Slot, is_try: bool) -> bool:
    """loader_is_counting in recovery.early: this boot is a try that leads back if it ends."""
    loader = known(board.kind, device.kept, slot, is_try)
    return loader.of(other_slot(slot)).bootable and loader.of(slot).tries_left is not None


def initramfs(
    board: Board, wish: Wish, slot: Slot, behaviour: Behaviour
) -> tuple[tuple[Wish, ...], bool]:
    """consult_starts and fail in imager/initramfs/init: the records written, in order, and
    whether it restarts for the rescue system."""
    written: list[Wish] = [wish]
    if board.kind != "systemd-boot":
        wish = replace(wish, loads=0)  # Of systemd-boot early boot takes them back.
    if (wish.rescue or wish.action) and wish.asked < MOST_ASKED:
        return (*written, *_asked(board, wish)), True
    if wish.rescue or wish.action:
        wish = replace(wish, rescue=False, person=False, action=False, asked=0, starts=0)
    count = wish.starts if wish.image == slot else 0
    if count >= board.most_starts and wish.asked < MOST_ASKED:
        return (*written, *_asked(board, wish)), True
    written.append(replace(wish, image=slot, starts=min(count + 1, board.most_starts + 1)))
    last = written[-1]
    if behaviour == "mount" and last.starts >= FEW_STARTS and last.asked < MOST_ASKED:
        return (*written, *_asked(board, last)), True
    return tuple(written), False


def _asked(board: Board, wish: Wish) -> tuple[Wish, ...]:
    """ask_for_rescue: the record, then the firmware's own variable."""
    recorded = replace(wish, rescue=True, asked=wish.asked + 1)
    if board.kind in ("systemd-boot", "tryboot"):
        return recorded, replace(recorded, one_shot=True)
    return (recorded,)


def possible(device: Device, slot: Slot, *, untouched: Behaviour) -> Behaviour:
    """How the slot's content behaves, given how it does when it is undamaged."""
    place = device.place(slot)
    if place.artifact == "crashes":
        return "kernel"
    if not place.root and untouched in ("good", "ill", "crashing", "kernel"):
        return "late"
    return untouched


@dataclass
class Boot:
    """A boot from early boot on. device: as it is now. states: what was durable, in order, each
    with whether the start had been noted as healthy before it.

    slot: the one that runs, none when rescuing. is_try: the firmware says that this is a try.
    verdict: what this boot is, when it came that far.
    """

    board: Board
    device: Device
    slot: Slot
    is_try: bool = False
    running: Generation | None = None
    rescuing: bool = False
    verdict: decide.Final | None = None
    noted: bool = False

    def __post_init__(self) -> None:
        """Nothing is durable yet but what was."""
        self.states: list[tuple[Device, bool]] = []

    def to(self, device: Device) -> None:
        """One durable step."""
        self.device = device
        self.states.append((device, self.noted))

    def note_healthy(self) -> None:
        """recovery.starts.note_healthy."""
        self.noted = True
        self.to(self.device)

    def control(self, verb: Verb, slot: Slot, tries: int = 0) -> None:
        """A change of the loader's record, in all its states."""
        board, kept = self.board, self.device.kept
        current = None if self.rescuing else self.slot
        for state in changed(
            board.kind, kept, current, verb, slot, tries=tries, is_try=self.is_try
        ):
            self.to(replace(self.device, kept=state))

    def known(self) -> Known:
        """What the boot control says."""
        return known(self.board.kind, self.device.kept, self.slot, self.is_try)

    def view(self) -> decide.View:
        """What the agent looks at."""
        device, loader = self.device, self.known()
        assert self.running is not None and device.record is not None
        return decide.View(
            boot_id="now",
            running=self.running,
            record=device.record,
            generations=device.generations,
            active=loader.active,
            a=loader.a,
            b=loader.b,
        )

    def do(self, steps: tuple[Step, ...]) -> None:
        """The steps of a plan."""
        for step in steps:
            if isinstance(step, Save):
                self.to(replace(self.device, record=step.record))
            elif isinstance(step, WriteGeneration):
                known_ones = (*self.device.generations, step.generation)
                self.to(replace(self.device, generations=known_ones))
            elif isinstance(step, SetActive):
                self.control("set_active", step.slot, step.tries)
            elif isinstance(step, MarkSuccessful):
                self.control("mark_successful", step.slot)
            elif isinstance(step, MarkUnbootable):
                self.control("mark_unbootable", step.slot)
            else:
                assert isinstance(step, Tell)  # The history decides nothing.

    def run(self, behaviour: Behaviour) -> Ending:
        """From the kernel to rest."""
        if behaviour == "kernel":
            return "reset"
        if behaviour in ("mount", "early"):
            return "reset"
        ended = self.early()
        if ended is not None:
            return ended
        if behaviour == "late":
            return "reset"
        return self.userspace(behaviour)

    def early(self) -> Ending | None:
        """recovery.early; None when systemd starts."""
        device = self.device
        if not device.state:
            return "reset" if counting(self.board, device, self.slot, self.is_try) else None
        place = device.place(self.slot)
        image = RunningImage(self.slot, root_hash(place.version))
        choice = decide.choose_generation(
            image, device.record, device.generations, boot_id="now", now=0
        )
        if not choice.known:
            made = Generation(
                choice.generation, self.slot, "gateway", place.version, image.root_hash, None, 0,
                "factory", "x",
            )  # fmt: skip
            self.do((WriteGeneration(made),))
        if choice.record is not None:
            self.do((Save(choice.record),))
        self.running = self.device.find(choice.generation)
        if choice.give_up:
            verdict = decide.give_up(self.view(), choice.give_up)
            if isinstance(verdict, decide.GiveUp):
                self.do(plan.give_up(self.view(), verdict.reason, 0))
                return "restart"
        return None

    def userspace(self, behaviour: Behaviour) -> Ending:
        """recovery.service: health, commit, probation."""
        if self.running is None:
            self.verdict = decide.Volatile(0, "")
            self.note_healthy()
            return "up"
        self.verdict = verdict = self.settle()
        if behaviour == "settled":
            return "reset"
        if isinstance(verdict, decide.GiveUp | decide.Stranded):
            return self.leave(verdict.reason)
        healthy = behaviour != "ill"
        affirm = isinstance(verdict, decide.Settled) and verdict.affirm
        if isinstance(verdict, decide.RunTrial):
            self.do(plan.note_attempt(self.view(), "userspace", "", 0))
            if not healthy:
                return self.leave("x")
            self.do(plan.note_attempt(self.view(), "health", "", 0))
        elif affirm and healthy:
            if not self.known().of(self.slot).bootable:
                self.control("set_active", self.slot, POLICY.tries)
            self.control("mark_successful", self.slot)
        if not affirm or healthy:
            self.note_healthy()
        if isinstance(verdict, decide.RunTrial):
            try:
                self.do(plan.commit(self.view(), POLICY, 0))
            except BootControlError:
                # It runs without an entry: the unit fails, and gives the trial up.
                return self.leave("x")
            self.verdict = decide.assess(self.view())  # type: ignore[assignment]
        return self.probation(behaviour)

    def settle(self) -> decide.Final:
        """Repairs until none is left."""
        self.control("tidy", self.slot)
        for _ in range(5):
            verdict = decide.assess(self.view())
            if not isinstance(verdict, decide.REPAIRS):
                return verdict
            self.do(plan.repair(verdict, self.view(), POLICY, 0))
        raise AssertionError(f"repairs do not end: {self.device}")

    def leave(self, reason: str) -> Ending:
        """The running generation has failed."""
        verdict = decide.give_up(self.view(), reason)
        if isinstance(verdict, decide.Stranded):
            self.do(plan.stranded(self.view(), reason, 0))
            self.verdict = verdict
            return "up"
        self.do(plan.give_up(self.view(), reason, 0))
        return "restart"

    def probation(self, behaviour: Behaviour) -> Ending:
        """Watches until it is over."""
        if not isinstance(decide.assess(self.view()), decide.InProbation):
            return "up"
        if behaviour in ("ill", "crashing"):
            return self.leave("x")
        self.do(plan.probation_passed(self.view(), 0))
        self.verdict = decide.Settled(0, "")
        return "up"
