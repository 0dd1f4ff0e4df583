"""The loader's record is lost in every reachable state of a device (`tests.recovery.test_model`).

Whichever slot the loader then starts, the device comes to rest by itself: a
whole image runs and is committed, nothing half-written was started, and no
version is blamed for what the disk did.
"""

from __future__ import annotations

from dataclasses import replace

from recovery import decide
from recovery.bootcontrol.recorded import counted_afresh
from recovery.slots import SLOTS, Slot
from recovery.steps import MarkSuccessful
from recovery.value import replace as with_fields
from tests.recovery.builders import generation
from tests.recovery.test_model import (
    JUNK,
    Device,
    LoaderEntry,
    early,
    explore,
    judged,
    power_off,
    settled,
    started,
    stepped,
)


def tidied(device: Device, running: Slot) -> Device:
    """What `tidy` makes of a lost record in the boot that finds it.

    Early boot has written a generation for an image that had none yet.
    """
    content, number = device.content(running), device.record.next_generation
    if not any((g.slot, g.version) == (running, content) for g in device.generations):
        found = generation(number, running, content, origin="factory")
        device = replace(
            device,
            generations=(*device.generations, found),
            record=with_fields(device.record, next_generation=number + 1),
        )
    record = counted_afresh(running)
    a, b = (LoaderEntry(2 - record.order.index(slot), record.count(slot).left) for slot in SLOTS)
    return replace(device, entries=(a, b), running=-SLOTS.index(running) - 1)


def lived(running: Device) -> tuple[Device, bool]:
    """A healthy boot from the loader on, and whether it stayed up."""
    cuts, userspace = early(running)
    if userspace is None:
        return cuts[-1], False
    _, quiet, verdict = settled(userspace)
    if isinstance(verdict, decide.Settled) and verdict.affirm:
        quiet = stepped(quiet, MarkSuccessful(quiet.find(quiet.running or 0).slot))
    cuts, alive = judged(quiet, verdict, healthy=True)
    return (cuts[-1], False) if alive is None else (alive, True)


def at_rest(running: Device, boots: int) -> Device:
    """The device when it has stayed up three times in a row."""
    up = 0
    for _ in range(boots):
        device, stayed = lived(running)
        up = up + 1 if stayed else 0
        if up == 3:
            return device
        running = started(power_off(device))
    raise AssertionError(f"never comes to rest: {device}")


def judged_before(device: Device) -> bool:
    """Whether a verdict had fallen, or was due, when the record was lost."""
    record = device.record
    trial, probation = record.trial, record.probation
    if trial is not None:
        by_hand = device.find(trial.generation).origin == "rollback"
        return by_hand or bool(decide.verdict_of(trial)) or len(trial.attempts) >= trial.tries
    return probation is not None and (bool(probation.failure) or probation.boots >= probation.limit)


def test_a_lost_record_never_needs_a_person() -> None:
    states, _ = explore()
    back = other = 0
    for device in states:
        for slot in SLOTS:
            if device.content(slot) == JUNK:
                continue
            rest = at_rest(tidied(device, slot), boots=8)
            record = rest.record
            assert (record.trial, record.probation, record.change) == (None, None, None)
            assert rest.running == record.committed
            committed = rest.find(record.committed)
            assert rest.content(committed.slot) == committed.version
            assert rest.state(committed.slot).successful
            blamed = {q.version for q in record.quarantined}
            before = {q.version for q in device.record.quarantined}
            assert not blamed - before or judged_before(device), f"{blamed - before}: {device}"
            back += record.committed == device.record.committed
            other += record.committed != device.record.committed
    print(f"\n{back} kept what was committed, {other} went on with what ran")  # noqa: T201
    assert back > 1000
