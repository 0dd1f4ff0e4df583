"""From a verdict to durable steps: pure functions, values in, steps out.

The order inside each plan is the design (see `recovery.decide`): the reason
before the act, the loader before the record, the history before the record
that makes the outcome final. `now`: seconds since the epoch.
"""

from __future__ import annotations

from recovery.change import with_packages
from recovery.decide import (
    Adopt,
    Disarm,
    DropChange,
    DropTrial,
    FellBack,
    FinishCommit,
    Repair,
    View,
    verdict_of,
)
from recovery.generations import Generation
from recovery.history import Event
from recovery.state import Attempt, Probation, Quarantine, StateRecord, Trial
from recovery.steps import (
    MarkSuccessful,
    MarkUnbootable,
    Save,
    SetActive,
    Step,
    Tell,
    WriteGeneration,
)
from recovery.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.device import TrialPolicy
    from recovery.history import EventKind
    from recovery.slots import Slot
    from recovery.state import Stage


# Older ones are versions that nobody offers any more as the newest.
MOST_QUARANTINED = 100


def repair(
    verdict: Repair, view: View, policy: TrialPolicy, now: int, evidence: str = ""
) -> tuple[Step, ...]:
    """Finishes what a power cut, a fallback or a lost record left behind.

    evidence: what the kernel or the watchdog recorded about the failed boots.
    """
    if isinstance(verdict, FinishCommit):
        return _committed(view, view.find(verdict.generation), policy, now)
    if isinstance(verdict, DropTrial):
        return _dropped(verdict, view, now)
    if isinstance(verdict, FellBack):
        reason = f"{verdict.reason} ({evidence})" if evidence else verdict.reason
        if view.record.trial is not None:
            return _trial_fell_back(verdict.generation, reason, view, now)
        return _committed_fell_back(verdict.generation, reason, view, now)
    if isinstance(verdict, Disarm):
        return (MarkUnbootable(verdict.slot),)
    if isinstance(verdict, DropChange):
        return _change_dropped(verdict, view, now)
    return _adopted(verdict, view, now)


def note_attempt(view: View, stage: Stage, detail: str, now: int) -> tuple[Step, ...]:
    """Writes how far the running trial has come; nothing when no trial runs."""
    record = _noted(view, stage, detail, now)
    return () if record == view.record else (Save(record),)


def give_up(view: View, reason: str, now: int) -> tuple[Step, ...]:
    """The running generation goes: why first, then its boot entry. Then the caller reboots."""
    record, running = view.record, view.running
    leave = MarkUnbootable(running.slot)
    if record.trial is not None and record.trial.generation == running.number:
        return (Save(_noted(view, "health", reason, now)), leave)
    if record.probation is not None and record.committed == running.number:
        failed = replace(record.probation, failure=reason)
        return (Save(replace(record, probation=failed)), leave)
    return (Tell(_event("rolled-back", running, view, reason, now)), leave)


def commit(view: View, policy: TrialPolicy, now: int) -> tuple[Step, ...]:
    """The running trial is healthy: the loader first (the commit point), then the record."""
    return (
        MarkSuccessful(view.running.slot),
        *_committed(view, view.running, policy, now),
    )


def probation_passed(view: View, now: int) -> tuple[Step, ...]:
    """The quiet time is over."""
    told = _event("probation-passed", view.running, view, "", now)
    return (Tell(told), Save(replace(view.record, probation=None)))


def stranded(view: View, reason: str, now: int) -> tuple[Step, ...]:
    """Unhealthy on probation with nothing to go back to: stop watching, and say so."""
    if view.record.probation is None or view.record.committed != view.running.number:
        return ()
    told = _event("probation-failed", view.running, view, reason, now)
    return (Tell(told), Save(replace(view.record, probation=None)))


def install(
    record: StateRecord,
    generation: Generation,
    from_version: str,
    *,
    tries: int,
    boot_id: str,
    reason: str,
) -> tuple[Step, ...]:
    """A verified slot goes on trial; the last step is the commit point."""
    told = Event(
        event="installed",
        generation=generation.number,
        from_version=from_version,
        to_version=generation.version,
        slot=generation.slot,
        reason=reason,
        requested_by=generation.requested_by,
        time=generation.created,
        boot_id=boot_id,
    )
    trial = Trial(generation=generation.number, tries=tries, armed_boot=boot_id)
    # The generation that the slot held before, if any, is the caller's to release;
    # a rollback keeps it named until its own commit.
    next_generation = generation.number + 1
    return (
        WriteGeneration(generation),
        Save(replace(record, next_generation=next_generation, trial=trial)),
        Tell(told),
        SetActive(generation.slot, tries),
    )


def release(record: StateRecord, slot: Slot) -> tuple[Step, ...]:
    """The inactive slot may be overwritten: it stops being a way back, then being bootable."""
    leave = MarkUnbootable(slot)
    if record.previous is None:
        return (leave,)
    return (Save(replace(record, previous=None)), leave)


def revert_in_trial(
    view: View, generation: Generation, blamed: tuple[Quarantine, ...], now: int
) -> tuple[Step, ...]:
    """Packages failed in a trial of the OS: the trial goes on with what they were before.

    generation: of the same slot and image. Cut before the record is saved: the
    trial is tried again with the packages that failed.
    """
    trial = view.record.trial
    assert trial is not None
    reason = "; ".join(f"{item.package} {item.version}: {item.reason}" for item in blamed)
    told = _event("package-reverted", generation, view, reason, now)
    record = replace(
        view.record,
        trial=replace(trial, generation=generation.number),
        next_generation=max(view.record.next_generation, generation.number + 1),
        quarantined=with_packages(view.record.quarantined, blamed),
    )
    return (WriteGeneration(generation), Tell(told), Save(record))


def _change_dropped(verdict: DropChange, view: View, now: int) -> tuple[Step, ...]:
    dropped = view.find(verdict.generation)
    save = Save(replace(view.record, change=None))
    if dropped is None:
        return (save,)
    return (Tell(_event("interrupted", dropped, view, verdict.reason, now)), save)


def _noted(view: View, stage: Stage, detail: str, now: int) -> StateRecord:
    """The record with this boot's attempt at the stage."""
    trial = view.record.trial
    if trial is None or trial.generation != view.running.number:
        return view.record
    earlier = tuple(item for item in trial.attempts if item.boot_id != view.boot_id)
    mine = [item for item in trial.attempts if item.boot_id == view.boot_id]
    started = mine[0].time if mine else now
    attempt = Attempt(boot_id=view.boot_id, stage=stage, detail=detail, time=started)
    return replace(view.record, trial=replace(trial, attempts=(*earlier, attempt)))


def _committed(
    view: View, generation: Generation | None, policy: TrialPolicy, now: int
) -> tuple[Step, ...]:
    """What follows the commit point: history, then the record with its probation."""
    assert generation is not None
    record = view.record
    before = view.find(record.committed)
    quarantined = _without(record.quarantined, generation.version)
    by_hand = generation.origin == "rollback" and before is not None
    if by_hand and before is not None and before.version != generation.version:
        reason = f"rolled back by {generation.requested_by}"
        quarantined = _with_quarantine(quarantined, before, reason, now)
    keeps_way_back = before is not None and before.slot != generation.slot
    probation = Probation(
        generation=generation.number,
        since=now,
        seconds=policy.probation_seconds,
        limit=policy.probation_boots,
    )
    return (
        Tell(_event("committed", generation, view, _attempts_text(record.trial), now)),
        Save(
            replace(
                record,
                committed=generation.number,
                previous=record.committed if keeps_way_back else None,
                trial=None,
                # Generations of the other image: `previous` leads to them.
                undo=None,
                probation=probation if keeps_way_back and policy.probation_seconds else None,
                quarantined=quarantined,
            )
        ),
    )


def _dropped(verdict: DropTrial, view: View, now: int) -> tuple[Step, ...]:
    dropped = view.find(verdict.generation)
    save = Save(replace(view.record, trial=None))
    if dropped is None:
        return (save,)
    return (Tell(_event("interrupted", dropped, view, verdict.reason, now)), save)


def _trial_fell_back(number: int, reason: str, view: View, now: int) -> tuple[Step, ...]:
    """The trial is over: outcome, quarantine, then tidy the loader."""
    record, failed = view.record, view.find(number)
    assert failed is not None
    assert record.trial is not None
    judged = bool(verdict_of(record.trial))
    event = _event("rolled-back" if judged else "fell-back", failed, view, reason, now)
    quarantined = record.quarantined
    if failed.version != view.running.version:
        quarantined = _with_quarantine(quarantined, failed, reason, now)
    return (
        Tell(event),
        Save(
            replace(
                record,
                trial=None,
                # The slot no longer holds a generation that one would go back to.
                previous=None,
                quarantined=quarantined,
            )
        ),
        # Cut before this: the exhausted entry stays, is not started, and is taken at the next boot.
        MarkUnbootable(failed.slot),
    )


def _committed_fell_back(number: int, reason: str, view: View, now: int) -> tuple[Step, ...]:
    """The committed generation gave up on probation: the running one is committed again."""
    failed, running = view.find(number), view.running
    assert failed is not None
    quarantined = _without(view.record.quarantined, running.version)
    if failed.version != running.version:
        quarantined = _with_quarantine(quarantined, failed, reason, now)
    return (
        Tell(
            replace(_event("rolled-back", failed, view, reason, now), from_version=running.version)
        ),
        Save(
            replace(
                view.record,
                committed=running.number,
                previous=None,
                undo=None,
                probation=None,
                quarantined=quarantined,
            )
        ),
        MarkUnbootable(failed.slot),
    )


def _adopted(verdict: Adopt, view: View, now: int) -> tuple[Step, ...]:
    told = _event("state-recovered", view.running, view, verdict.reason, now)
    record = replace(
        view.record,
        committed=view.running.number,
        previous=None,
        undo=None,
        trial=None,
        probation=None,
    )
    return (Tell(told), Save(record))


def _with_quarantine(
    known: tuple[Quarantine, ...], failed: Generation, reason: str, now: int
) -> tuple[Quarantine, ...]:
    added = Quarantine(version=failed.version, reason=reason, time=now, generation=failed.number)
    return (*_without(known, failed.version), added)[-MOST_QUARANTINED:]


def _without(known: tuple[Quarantine, ...], version: str) -> tuple[Quarantine, ...]:
    """The quarantines, except that of this version of the OS."""
    return tuple(q for q in known if q.package or q.version != version)


def _attempts_text(trial: Trial | None) -> str:
    count = len(trial.attempts) if trial is not None else 0
    return "healthy at its first start" if count <= 1 else f"healthy at its start number {count}"


def _event(kind: EventKind, about: Generation, view: View, reason: str, now: int) -> Event:
    before = view.find(view.record.committed)
    return Event(
        event=kind,
        generation=about.number,
        from_version=before.version if before is not None else "",
        to_version=about.version,
        slot=about.slot,
        reason=reason,
        requested_by=about.requested_by,
        time=now,
        boot_id=view.boot_id,
    )
