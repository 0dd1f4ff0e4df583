"""The decisions of a device, as pure functions: what to run, what a boot means, what to do.

The state machine, in words
===========================

Two records exist. The **boot loader** knows slots: an entry without a counter
(successful), with tries left, exhausted, or no entry at all. The **state
record** knows generations: one is *committed*, one may be *previous*, one may
be on *trial* (always in the slot that is not committed), and the committed one
may be on *probation*. Each change has one commit point, and it is always in
the loader's record; the state record follows, and `assess` finishes what a
power cut left between the two:

* **Install** (`recovery.trial`): record the trial, then *set active* (commit
  point). Cut before it: a trial without a boot entry that was never attempted
  is *interrupted* and dropped.
* **Try**: the loader consumes a try, then early boot writes an *attempt*
  (`choose_generation`), then the generation runs. Healthy: *mark successful*
  (commit point), history, record. Cut in between: the running trial needs no
  tries any more, so the commit is finished.
* **Give up** (a failed health check, a missed deadline, a crash loop in
  probation): the failing side only writes down *why* (in its attempt or its
  probation), then takes its own boot entry (commit point) and reboots. It does
  so only if the other slot can start. Cut in between: the reason is found at
  the next start of the same generation, which gives up at once.
* **Fall back**: the surviving side finds that the other one has no tries or no
  entry left, and writes the outcome: history, then record (generation dropped,
  version quarantined). It is the same path whether the trial panicked, hung,
  was given up, or was on probation. A trial that has attempts or an exhausted
  entry fell back; one with neither was interrupted.
* **Probation**: starts within it are counted before systemd runs. Too many,
  or a failed check: give up. Enough quiet uptime: it ends.
* **Change packages**: a new generation of the same slot and image, without a
  reboot: record the change, switch, check, then one write of the state record
  makes it the committed one (commit point). Cut before it: the committed set
  runs at the next boot, and the change is dropped.
* **Roll back by hand**: an installation of the previous generation's image as
  a new generation. If that trial fails, the newer one is still committed.

What never happens: a reboot that was not preceded by a step that makes the
next boot different (no loop by our own doing); a committed generation outside
probation that gives up; a quarantined version tried without being asked for;
both slots without an entry.

A state record that disagrees with the loader in any other way (lost state, a
slot flashed by hand) yields to what the loader would start.
"""

from __future__ import annotations

from recovery.generations import Generation
from recovery.state import Attempt, StateRecord, Trial, synthesise
from recovery.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recovery.boot import RunningImage
    from recovery.slots import Slot, SlotState
    from recovery.state import Stage


class Choice(Value):
    """What early boot does.

    generation: the one that runs. known: False when no record fits the running
    image, and early boot has to write one with this number. trial: it is on
    trial. record: to be saved before going on; None when nothing changed.
    give_up: why this boot must not go on, empty when it may. recovered: the
    state record was absent or damaged.
    """

    generation: int
    known: bool
    trial: bool
    record: StateRecord | None
    give_up: str = ""
    recovered: bool = False


def choose_generation(
    image: RunningImage,
    record: StateRecord | None,
    generations: Sequence[Generation],
    *,
    boot_id: str,
    now: int,
) -> Choice:
    """Which generation the running image belongs to, and whether it may run on.

    Of the generations that name this slot and this root hash: the one on
    trial, else the committed one, else the previous one, else the newest. now:
    seconds since the epoch.
    """
    place = (image.slot, image.root_hash)
    fitting = [g.number for g in generations if (g.slot, g.root_hash) == place]
    numbers = tuple(generation.number for generation in generations)
    if record is None:
        fresh = not fitting
        number = max((0, *numbers)) + 1 if fresh else fitting[-1]
        made = synthesise(number, numbers)
        return Choice(number, known=not fresh, trial=False, record=made, recovered=bool(numbers))
    if not fitting:
        number = max((record.next_generation, *(n + 1 for n in numbers)))
        made = replace(record, next_generation=number + 1)
        return Choice(number, known=False, trial=False, record=made)
    trial = record.trial
    if trial is not None and trial.generation in fitting:
        return _another_attempt(record, trial, boot_id, now)
    probation = record.probation
    if probation is not None and record.committed == probation.generation in fitting:
        counted = replace(probation, boots=min(probation.boots, probation.limit) + 1)
        give_up = probation.failure
        if not give_up and counted.boots > probation.limit:
            give_up = f"crash loop: more than {probation.limit} starts within its probation"
        made = replace(record, probation=replace(counted, failure=give_up))
        return Choice(record.committed, known=True, trial=False, record=made, give_up=give_up)
    # Not simply the newest: that may be a package set that failed.
    trusted = [n for n in (record.committed, record.previous) if n in fitting]
    chosen = trusted[0] if trusted and trusted[0] is not None else fitting[-1]
    return Choice(chosen, known=True, trial=False, record=None)


def _another_attempt(record: StateRecord, trial: Trial, boot_id: str, now: int) -> Choice:
    """The start of a trial: refused when a verdict was cut short or the loader did not count.

    A refusal is written as this attempt's verdict, so that it holds even if
    early boot cannot reach the loader's record and userspace has to act on it.
    """
    give_up = refusal(trial)
    stage: Stage = "health" if give_up else "early"
    attempt = Attempt(boot_id=boot_id, stage=stage, detail=give_up, time=now)
    attempts = (*trial.attempts, attempt)[-(trial.tries + 1) :]
    if passed(trial) and not passed(replace(trial, attempts=attempts)):
        attempts = (trial.attempts[0], *attempts[1:])  # That it passed is not forgotten.
    record = replace(record, trial=replace(trial, attempts=attempts))
    return Choice(trial.generation, known=True, trial=True, record=record, give_up=give_up)


def refusal(trial: Trial) -> str:
    """Why the trial may not be started once more, or ""."""
    return _failure(trial, len(trial.attempts) + 1)


def _failure(trial: Trial, starts: int) -> str:
    """Why the trial has failed, with so many starts, or "".

    Too many of them: a loader that cannot write. But one that was found healthy may have been
    committed by the loader in its last try, or have got new tries from rescue.
    """
    failure = verdict_of(trial)
    if failure or passed(trial) or starts <= trial.tries:
        return failure
    return f"started more often than the {trial.tries} tries that were granted"


class View(Value):
    """Everything that an assessment looks at.

    running: the generation that early boot chose. active: the slot that the
    loader would start next. a, b: what the loader knows of the slots.
    volatile: the state partition is not in use in this boot.
    """

    boot_id: str
    running: Generation
    record: StateRecord
    generations: tuple[Generation, ...]
    active: Slot | None
    a: SlotState
    b: SlotState
    volatile: bool = False

    def loader(self, slot: Slot) -> SlotState:
        """What the loader knows of the slot."""
        return self.a if slot == "a" else self.b

    def find(self, number: int | None) -> Generation | None:
        """The generation, or None when its record is lost."""
        return next((g for g in self.generations if g.number == number), None)


class RunTrial(Value):
    """The running generation is on trial: check its health, then commit it or give it up."""

    generation: int
    reason: str


class Settled(Value):
    """The running generation is committed. affirm: the loader still counts it; let it stop."""

    generation: int
    reason: str
    affirm: bool = False


class InProbation(Value):
    """The running generation is committed and still watched."""

    generation: int
    reason: str


class Waiting(Value):
    """A trial is armed and this is not its boot. Nothing to do until a reboot."""

    generation: int
    reason: str


class Visiting(Value):
    """Somebody chose this generation in the loader's menu. Nothing is decided by it."""

    generation: int
    reason: str


class Volatile(Value):
    """The state is not available: nothing can be decided in this boot."""

    generation: int
    reason: str


class GiveUp(Value):
    """The running generation must go: write why, take its boot entry, reboot."""

    generation: int
    reason: str


class Stranded(Value):
    """The running generation is unhealthy and the other slot cannot start: stay reachable."""

    generation: int
    reason: str


class FinishCommit(Value):
    """The loader has committed the trial, the state record has not: a power cut in between."""

    generation: int
    reason: str


class DropTrial(Value):
    """The installation was interrupted before its commit point: forget it."""

    generation: int
    reason: str


class FellBack(Value):
    """The generation is lost (a failed trial, or committed and given up): write the outcome."""

    generation: int
    reason: str


class Disarm(Value):
    """The other slot has a counted entry that no trial accounts for: take it."""

    generation: int
    slot: Slot
    reason: str


class DropChange(Value):
    """A change of packages was cut in an earlier boot; the committed set runs: forget it."""

    generation: int
    reason: str


class Adopt(Value):
    """The state record does not know what the loader has committed: follow the loader."""

    generation: int
    reason: str


Final = RunTrial | Settled | InProbation | Waiting | Visiting | Volatile | GiveUp | Stranded
Repair = FinishCommit | DropTrial | FellBack | Disarm | DropChange | Adopt
Verdict = Final | Repair
REPAIRS = (FinishCommit, DropTrial, FellBack, Disarm, DropChange, Adopt)


def verdict_of(trial: Trial) -> str:
    """Why the trial has been found unhealthy, or "" while it has not."""
    last = trial.attempts[-1] if trial.attempts else None
    return last.detail if last is not None and last.stage == "health" else ""


def passed(trial: Trial) -> bool:
    """Whether some attempt was found healthy: written before the loader is told to commit."""
    return any(item.stage == "health" and not item.detail for item in trial.attempts)


def assess(view: View) -> Verdict:
    """What this boot means. After a Repair has been applied, assess again."""
    record, running = view.record, view.running
    if view.volatile:
        return Volatile(running.number, "the state partition cannot be used in this boot")
    if record.change is not None and record.change.boot_id != view.boot_id:
        return DropChange(record.change.generation, "interrupted by a restart")
    if record.trial is not None:
        if record.trial.generation == running.number:
            return _on_trial(view, record.trial)
        return _beside_trial(view, record.trial)
    if record.committed == running.number:
        return _committed(view)
    return _uncommitted(view)


def give_up(view: View, reason: str) -> GiveUp | Stranded:
    """The running generation has failed: go back if the other slot can start, else stay."""
    other: Slot = "b" if view.running.slot == "a" else "a"
    if view.loader(other).bootable:
        return GiveUp(view.running.number, reason)
    return Stranded(view.running.number, f"{reason}; nothing to go back to")


def _on_trial(view: View, trial: Trial) -> Verdict:
    """The trial runs."""
    number = trial.generation
    if view.loader(view.running.slot).successful:
        if passed(trial):
            return FinishCommit(number, "the loader has it committed already")
        # A rollback whose image was started by hand before its trial was armed.
        return DropTrial(number, "interrupted before it was armed")
    failure = _failure(trial, len(trial.attempts))
    if failure:
        return give_up(view, failure)
    return RunTrial(number, f"attempt {len(trial.attempts)} of {trial.tries}")


def _beside_trial(view: View, trial: Trial) -> Verdict:
    """A trial exists and something else runs."""
    number = trial.generation
    tried = view.find(number)
    if tried is None:
        return DropTrial(number, "its record is lost")
    if tried.slot == view.running.slot:
        return DropTrial(number, f"slot {tried.slot} holds another image")
    loader = view.loader(tried.slot)
    if loader.successful:
        if passed(trial):
            return FinishCommit(number, "the loader has it committed already")
        return DropTrial(number, "interrupted before it was armed")
    if loader.bootable:
        if view.active != tried.slot:
            # The loader's record was lost, and made again from what runs.
            return DropTrial(number, "the loader's record of it was lost")
        if trial.armed_boot == view.boot_id:
            return Waiting(number, "starts at the next reboot")
        return Waiting(number, f"{loader.tries_left} tries left; starts at the next reboot")
    if loader.tries_left is None and not trial.attempts:
        return DropTrial(number, "interrupted before it was armed")
    return FellBack(number, explain(trial))


def explain(trial: Trial) -> str:
    """Why a trial that did not commit failed, from how far it came."""
    failure = verdict_of(trial)
    if failure:
        return failure
    count = f"in {len(trial.attempts)} of {trial.tries} tries"
    if not trial.attempts:
        return f"never reached userspace in {trial.tries} tries: panic, hang or corrupt root image"
    if trial.attempts[-1].stage == "early":
        return f"stopped before its services started ({count}): panic, hang or reset"
    return f"stopped before its health was known ({count}): panic, hang, reset or power loss"


def _committed(view: View) -> Verdict:
    """The committed generation runs and nothing is on trial."""
    number, slot = view.running.number, view.running.slot
    other: Slot = "b" if slot == "a" else "a"
    if view.loader(other).tries_left is not None:
        return Disarm(number, other, f"slot {other} is armed, but nothing is on trial")
    counted = not view.loader(slot).successful
    probation = view.record.probation
    if probation is None or probation.generation != number:
        return Settled(number, "committed", affirm=counted)
    if probation.failure:
        return give_up(view, probation.failure)
    if probation.boots > probation.limit:
        return give_up(view, f"crash loop: more than {probation.limit} starts within its probation")
    return InProbation(number, f"on probation, started {probation.boots} times since its commit")


def _uncommitted(view: View) -> Verdict:
    """Neither the committed generation nor one on trial runs."""
    number, slot = view.running.number, view.running.slot
    committed = view.find(view.record.committed)
    if committed is None:
        return Adopt(number, "the record of the committed generation is lost")
    if committed.slot == slot:
        return Adopt(number, f"slot {slot} holds another image than the committed one")
    if not view.loader(committed.slot).bootable:
        probation = view.record.probation
        failure = probation.failure if probation is not None else ""
        return FellBack(committed.number, failure or "its boot entry is gone")
    if not view.loader(slot).successful:
        return give_up(view, f"slot {slot} runs an image that nobody put on trial")
    if view.active == slot:
        return Adopt(number, "the loader prefers it to the committed generation")
    return Visiting(number, f"started by hand; generation {committed.number} is committed")
