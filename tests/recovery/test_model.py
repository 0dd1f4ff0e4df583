"""The whole state machine, model-checked: every reachable state of a device that can fail anywhere.

A device is the loader's record (counting as systemd-boot does), the state
record, the generations and what each slot holds. From the factory state every
sequence is explored of: installing a new version (good or not), a change of the
package set that commits or fails, a package reverted in a trial, a rollback by
hand, reboots, panics before and after early boot, failed health checks, crashes
in probation, a chosen menu entry, and a power cut between any two durable
steps of any plan. The decisions and plans are the product's own functions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import pytest

from recovery import change, decide, plan
from recovery.boot import RunningImage
from recovery.generations import Generation
from recovery.history import Event
from recovery.slots import SLOTS, Slot, SlotState, other_slot
from recovery.state import Quarantine, StateRecord
from recovery.steps import (
    MarkSuccessful,
    MarkUnbootable,
    Save,
    SetActive,
    Step,
    Tell,
    WriteGeneration,
)
from recovery.value import replace as with_fields
from tests.recovery.builders import POLICY, generation

if TYPE_CHECKING:
    from recovery.history import EventKind

JUNK = "junk"


@dataclass(frozen=True)
class Limits:
    """How much happens in a device's life. generations: factory's included.

    by_hand: any entry may be chosen in the loader's menu.
    """

    generations: int = 3  # two changes of the factory image: a, b, a again
    package_changes: int = 0
    reverts: int = 0
    by_hand: bool = True


IMAGES = Limits()
PACKAGES = Limits(generations=2, package_changes=2, reverts=1, by_hand=False)


@dataclass(frozen=True)
class LoaderEntry:
    """activation orders the slots; left None needs no tries."""

    activation: int
    left: int | None


@dataclass(frozen=True)
class Device:
    """Everything durable, and (while it runs) the slot and generation that run."""

    entries: tuple[LoaderEntry | None, LoaderEntry | None]
    slots: tuple[str, str]
    record: StateRecord
    generations: tuple[Generation, ...]
    told: frozenset[tuple[str, int]]
    running: int | None = None
    asked: frozenset[str] = frozenset()

    def entry(self, slot: Slot) -> LoaderEntry | None:
        return self.entries[SLOTS.index(slot)]

    def content(self, slot: Slot) -> str:
        return self.slots[SLOTS.index(slot)]

    def with_entry(self, slot: Slot, entry: LoaderEntry | None) -> Device:
        entries = (entry, self.entries[1]) if slot == "a" else (self.entries[0], entry)
        return replace(self, entries=entries)

    def with_content(self, slot: Slot, version: str) -> Device:
        slots = (version, self.slots[1]) if slot == "a" else (self.slots[0], version)
        return replace(self, slots=slots)

    def find(self, number: int) -> Generation:
        return next(g for g in self.generations if g.number == number)

    def state(self, slot: Slot) -> SlotState:
        entry = self.entry(slot)
        if entry is None:
            return SlotState(bootable=False, successful=False, tries_left=None)
        left = entry.left
        return SlotState(bootable=left != 0, successful=left is None, tries_left=left)

    def ranking(self) -> list[Slot]:
        """Slots with an entry, the one that systemd-boot starts first."""
        known = [(e.left != 0, e.activation, s) for s in SLOTS if (e := self.entry(s)) is not None]
        return [slot for _, _, slot in sorted(known, reverse=True)]

    def view(self) -> decide.View:
        assert self.running is not None
        ranked = self.ranking()
        active = next((slot for slot in ranked if self.state(slot).bootable), None)
        return decide.View(
            boot_id="now",
            running=self.find(self.running),
            record=self.record,
            generations=self.generations,
            active=active,
            a=self.state("a"),
            b=self.state("b"),
        )


FACTORY = Device(
    entries=(LoaderEntry(1, None), None),
    slots=("1.0", JUNK),
    record=StateRecord(next_generation=2, committed=1),
    generations=(generation(1, "a", "1.0", origin="factory"),),
    told=frozenset(),
)


def stepped(device: Device, step: Step) -> Device:
    """One durable step."""
    if isinstance(step, Save):
        return replace(device, record=step.record)
    if isinstance(step, Tell):
        key = (step.event.event, step.event.generation)
        return replace(device, told=device.told | {key})
    if isinstance(step, WriteGeneration):
        return replace(device, generations=(*device.generations, step.generation))
    if isinstance(step, SetActive):
        newest = max(entry.activation for entry in device.entries if entry is not None)
        return device.with_entry(step.slot, LoaderEntry(newest + 1, step.tries))
    entry = device.entry(step.slot)
    if isinstance(step, MarkUnbootable):
        return device.with_entry(step.slot, None)
    assert isinstance(step, MarkSuccessful)
    assert entry is not None, "a commit needs a boot entry"
    return device.with_entry(step.slot, LoaderEntry(entry.activation, None))


def prefixes(device: Device, steps: tuple[Step, ...]) -> list[Device]:
    """The device cut before each step, and (last) after all of them."""
    states = [device]
    for step in steps:
        states.append(stepped(states[-1], step))
    return states


def power_off(device: Device) -> Device:
    """Nothing runs. Boot identities of the past become one: only 'this boot' matters."""
    record, trial = device.record, device.record.trial
    if trial is not None:
        attempts = tuple(with_fields(item, boot_id="past") for item in trial.attempts)
        record = with_fields(record, trial=with_fields(trial, armed_boot="past", attempts=attempts))
    if record.change is not None:
        record = with_fields(record, change=with_fields(record.change, boot_id="past"))
    return replace(device, record=record, running=None)


def started(device: Device, chosen: Slot | None = None) -> Device:
    """The loader starts a slot, consuming a try."""
    slot = chosen or device.ranking()[0]
    entry = device.entry(slot)
    assert entry is not None
    assert device.content(slot) != JUNK, f"the loader started a half-written slot: {device}"
    if entry.left:
        device = device.with_entry(slot, LoaderEntry(entry.activation, entry.left - 1))
    return replace(device, running=-SLOTS.index(slot) - 1)


def early(device: Device) -> tuple[list[Device], Device | None]:
    """Early boot: states in which a cut may leave it, and the device in userspace, if any."""
    assert device.running is not None
    slot = SLOTS[-device.running - 1]
    image = RunningImage(slot, f"hash-of-{device.content(slot)}")
    choice = decide.choose_generation(
        image, device.record, device.generations, boot_id="now", now=0
    )
    assert choice.known
    states = [device]
    if choice.record is not None:
        states.append(replace(device, record=choice.record))
    ready = replace(states[-1], running=choice.generation)
    if not choice.give_up:
        return states, ready
    verdict = decide.give_up(ready.view(), choice.give_up)
    if isinstance(verdict, decide.Stranded):
        return states, ready
    states.extend(prefixes(ready, plan.give_up(ready.view(), verdict.reason, 0)))
    return states, None


def settled(device: Device) -> tuple[list[Device], Device, decide.Final]:
    """Userspace repairs what it finds until a final verdict."""
    cuts = [device]
    for _ in range(4):
        verdict = decide.assess(device.view())
        if not isinstance(verdict, decide.REPAIRS):
            return cuts, device, verdict
        states = prefixes(device, plan.repair(verdict, device.view(), POLICY, 0))
        cuts.extend(states)
        device = states[-1]
    raise AssertionError(f"repairs do not end: {device}")


def judged(
    device: Device, verdict: decide.Final, healthy: bool
) -> tuple[list[Device], Device | None]:
    """The health verdict acted upon; None when the device reboots."""
    view = device.view()
    if isinstance(verdict, decide.GiveUp):
        return prefixes(device, plan.give_up(view, verdict.reason, 0)), None
    if isinstance(verdict, decide.RunTrial):
        if not healthy:
            failed = decide.give_up(view, "health check failed")
            if isinstance(failed, decide.Stranded):
                return [], device
            return prefixes(device, plan.give_up(view, failed.reason, 0)), None
        states = prefixes(device, plan.note_attempt(view, "health", "", 0))
        states += prefixes(states[-1], plan.commit(states[-1].view(), POLICY, 0))
        return states, states[-1]
    if isinstance(verdict, decide.InProbation):
        if healthy:
            states = prefixes(device, plan.probation_passed(view, 0))
            return states, states[-1]
        failed = decide.give_up(view, "a service crashed again and again")
        if isinstance(failed, decide.Stranded):
            states = prefixes(device, plan.stranded(view, failed.reason, 0))
            return states, states[-1]
        return prefixes(device, plan.give_up(view, failed.reason, 0)), None
    if isinstance(verdict, decide.Stranded):
        states = prefixes(device, plan.stranded(view, verdict.reason, 0))
        return states, states[-1]
    return [], device


def changes(device: Device, limits: Limits = IMAGES) -> Iterator[Device]:
    """An installation, a rollback by hand or a change of packages, cut anywhere or whole."""
    record = device.record
    if record.trial is not None or record.probation is not None:
        return
    number = max(record.next_generation, *(g.number + 1 for g in device.generations))
    if device.running != record.committed:
        return
    running = device.find(record.committed)
    done = sum(g.origin == "package" for g in device.generations)
    reverts = sum(event == "package-reverted" for event, _ in device.told)
    if done < limits.package_changes:
        yield from package_changes(device, number)
    if number - done - reverts > limits.generations:
        return
    slot = other_slot(running.slot)
    made = generation(number, slot, parent=running.number)
    for state in prefixes(device, plan.release(record, slot)):
        yield state
        erased = state.with_content(slot, JUNK)
    yield erased
    written = erased.with_content(slot, made.version)
    steps = plan.install(
        written.record, made, running.version, tries=POLICY.tries, boot_id="now", reason="update"
    )
    yield from prefixes(written, steps)
    if record.previous is not None and device.state(slot).bootable:
        old = device.find(record.previous)
        again = generation(number, slot, old.version, origin="rollback", parent=old.number)
        steps = plan.install(
            record, again, running.version, tries=POLICY.tries, boot_id="now", reason="rollback"
        )
        yield from prefixes(device, steps)


def package_changes(device: Device, number: int) -> Iterator[Device]:
    """Another package set in the running system: committed, or found bad and taken back."""
    old = device.find(device.record.committed)
    made = with_fields(old, number=number, origin="package", parent=old.number, etc=old.etc_layer)
    begun = change.begun(device.record, made, "now")
    trying = prefixes(device, (WriteGeneration(made), Save(begun)))
    yield from trying
    tells = Tell(told("committed", made))
    steps: tuple[Step, ...] = (Save(change.committed(begun, made)), tells)
    yield from prefixes(trying[-1], steps)
    blamed = (Quarantine("1.0", "unhealthy", 0, number, "vpn"),)
    steps = (Save(change.abandoned(begun, blamed)), Tell(told("rolled-back", made)))
    yield from prefixes(trying[-1], steps)


def told(kind: EventKind, about: Generation) -> Event:
    return Event(kind, about.number, "", "", about.slot, "", "tester", 0, "now")


def package_reverted(device: Device) -> list[Device]:
    """In a trial of the OS, a package fails and goes back: cuts, and the trial that goes on."""
    view = device.view()
    number = view.record.next_generation
    made = with_fields(view.running, number=number, parent=view.record.committed)
    blamed = (Quarantine("2.0", "unhealthy", 0, view.running.number, "vpn"),)
    states = prefixes(device, plan.revert_in_trial(view, made, blamed, 0))
    return [*states[:-1], replace(states[-1], running=number)]


def successors(device: Device, limits: Limits) -> Iterator[Device]:
    """Every durable state that one boot can leave behind."""
    for chosen in (None, *(device.ranking()[1:] if limits.by_hand else [])):
        running = started(device, chosen)
        yield running  # panic, hang or corrupt root: nothing of ours ran
        cuts, userspace = early(running)
        yield from cuts
        if userspace is None:
            continue
        yield userspace  # died after early boot
        cuts, quiet, verdict = settled(userspace)
        yield from cuts
        starts = [quiet]
        reverts = sum(event == "package-reverted" for event, _ in quiet.told)
        if isinstance(verdict, decide.RunTrial) and reverts < limits.reverts:
            reverting = package_reverted(quiet)
            yield from reverting
            starts.append(reverting[-1])
        for start, healthy in ((s, h) for s in starts for h in (True, False)):
            cuts, alive = judged(start, verdict, healthy)
            yield from cuts
            if alive is not None:
                yield from changes(alive, limits)


@cache
def explore(limits: Limits = IMAGES) -> tuple[set[Device], int]:
    """All reachable powered-off states, and the number of transitions."""
    seen, queue, transitions = {FACTORY}, deque([FACTORY]), 0
    while queue:
        for left in successors(queue.popleft(), limits):
            transitions += 1
            device = normal(power_off(left))
            if device not in seen:
                seen.add(device)
                queue.append(device)
    return seen, transitions


def normal(device: Device) -> Device:
    """Only the order of activations matters."""
    order = sorted(entry.activation for entry in device.entries if entry is not None)
    entries = tuple(
        None if entry is None else LoaderEntry(order.index(entry.activation) + 1, entry.left)
        for entry in device.entries
    )
    return replace(device, entries=(entries[0], entries[1]))


def boot(device: Device, *, panics: frozenset[str], healthy: bool) -> tuple[Device, bool]:
    """One boot without cuts; versions in panics die in the kernel. Also: whether it stayed up."""
    running = started(device)
    assert running.running is not None
    if running.content(SLOTS[-running.running - 1]) in panics:
        return power_off(running), False
    cuts, userspace = early(running)
    if userspace is None:
        return power_off(cuts[-1]), False
    _, quiet, verdict = settled(userspace)
    cuts, alive = judged(quiet, verdict, healthy)
    return (power_off(cuts[-1]), False) if alive is None else (alive, True)


def quiet_after(
    device: Device, boots: int, *, panics: frozenset[str] = frozenset(), healthy: bool = True
) -> Device:
    """The device after it has stayed up twice in a row; fails when that takes more boots."""
    up = 0
    for _ in range(boots):
        device, stayed = boot(device, panics=panics, healthy=healthy)
        up = up + 1 if stayed else 0
        if up == 3:
            return device
        device = power_off(device)
    raise AssertionError(f"never comes to rest: {device}")


def check_safety(device: Device) -> None:
    """What holds in every reachable state, whatever failed before."""
    record = device.record
    numbers = {g.number for g in device.generations}
    committed = device.find(record.committed)
    assert device.content(committed.slot) == committed.version, "the committed image is lost"
    assert device.ranking(), "no slot can start"
    bootable = [slot for slot in device.ranking() if device.state(slot).bootable]
    assert bootable, "only exhausted entries are left"
    for slot in bootable:
        assert device.content(slot) != JUNK, "a half-written slot has a boot entry"
    assert record.referenced() <= numbers, "the record names a generation that does not exist"
    failed = {n for event, n in device.told if event in ("rolled-back", "interrupted")}
    changed = {g.number for g in device.generations if g.origin == "package"}
    trusted = {record.committed, record.previous, record.undo}
    assert not failed & changed & trusted, "a package set that failed is trusted"
    if record.undo is not None:
        undo = device.find(record.undo)
        assert (undo.slot, undo.version) == (committed.slot, committed.version)
    assert record.next_generation > max(
        record.committed, record.previous or 0, record.trial.generation if record.trial else 0
    )


@pytest.mark.parametrize("limits", [IMAGES, PACKAGES], ids=["images", "packages"])
def test_every_reachable_state_is_safe_and_comes_to_rest(limits: Limits) -> None:
    states, transitions = explore(limits)
    interesting: dict[str, int] = {}
    for device in states:
        check_safety(device)
        # All well from here on: the device stays up, with nothing open, within a few boots.
        rest = quiet_after(device, boots=12)
        assert rest.record.trial is None
        assert rest.record.probation is None
        assert rest.record.change is None
        assert rest.running == rest.record.committed
        trial = device.record.trial
        if trial is not None:
            tried = device.find(trial.generation)
            entry = device.state(tried.slot)
            armed = entry.bootable and not entry.successful
            fresh = armed and not decide.verdict_of(trial) and len(trial.attempts) < trial.tries
            if fresh and tried.version != device.find(device.record.committed).version:
                interesting["a healthy candidate is reached"] = (
                    interesting.get("a healthy candidate is reached", 0) + 1
                )
                assert rest.running == rest.record.committed == tried.number, (
                    "a healthy candidate was not reached"
                )
                # The same trial, panicking: back on the committed one, quarantined.
                bad = quiet_after(device, boots=12, panics=frozenset({tried.version}))
                assert bad.record.committed == device.record.committed
                assert bad.record.quarantine_of(tried.version) is not None
                assert ("fell-back", tried.number) in bad.told
                # The same trial, unhealthy.
                ill = quiet_after(device, boots=12, healthy=False)
                assert ill.record.committed != tried.number
    print(f"\n{len(states)} states, {transitions} transitions, {interesting}")  # noqa: T201
    assert len(states) > 1000


def test_a_version_that_failed_is_never_started_again_by_itself() -> None:
    states, _ = explore()
    checked = 0
    for device in states:
        if device.record.trial is not None:
            continue
        running = started(device)
        assert running.running is not None
        version = running.content(SLOTS[-running.running - 1])
        quarantined = device.record.quarantine_of(version)
        if quarantined is not None:
            # What somebody rolled back from by hand is still the way back of that rollback.
            trusted = (device.record.committed, device.record.previous)
            known = {device.find(number).version for number in trusted if number is not None}
            assert version in known, f"{version} was started again: {device}"
        checked += bool(device.record.quarantined)
    assert checked > 100


def test_every_trial_is_told_exactly_one_end() -> None:
    ends = {"committed", "rolled-back", "fell-back", "interrupted"}
    """Unless a person starts an entry from the loader's menu after its end was told."""
    for device in explore(Limits(by_hand=False))[0]:
        rest = quiet_after(device, boots=12)
        for kept in rest.generations:
            if ("installed", kept.number) in rest.told:
                told = {event for event, number in rest.told if number == kept.number} & ends
                assert told, f"generation {kept.number} has no end: {sorted(rest.told)}"
                # A commit may be followed by a rollback in its probation, nothing else.
                assert len(told) == 1 or told == {"committed", "rolled-back"}, told


def test_the_model_itself_can_fail() -> None:
    """A plan in the wrong order is caught: history, record, then loader for a commit."""
    device = started(FACTORY)
    _, userspace = early(device)
    assert userspace is not None
    *_, armed = [state for state in changes(userspace) if state.record.trial is not None]
    broken = armed.with_entry("a", None).with_entry("b", None)
    try:
        check_safety(power_off(broken))
    except AssertionError:
        return
    raise AssertionError("a device without boot entries passed")
