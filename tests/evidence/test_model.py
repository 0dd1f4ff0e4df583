"""The model check's sample for every run: all of it without rescue, a part of it with rescue."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from unittest import mock

import pytest

from evidence.model import changes
from evidence.model.boot import BEHAVIOURS, Boot, initramfs
from evidence.model.campaign import RETURNS, Scope, check
from evidence.model.changes import members
from evidence.model.check import Findings, check_rest, check_states
from evidence.model.device import Board, Device, Place, Wish, canonical, root_hash
from evidence.model.explore import Limits, explore
from evidence.model.records import KINDS, Kind, changed, factory, known
from evidence.model.starting import overdue, without_wish
from recovery import decide, plan
from recovery.generations import Generation
from recovery.slots import Slot
from recovery.state import Quarantine, StateRecord, Trial
from recovery.steps import Step
from recovery.value import replace as with_fields
from tests.evidence.one_by_one import successors


@pytest.mark.parametrize("kind", KINDS)
def test_without_rescue_every_state_of_a_life_of_any_length_is_safe(kind: Kind) -> None:
    explored, findings = check(Scope(kind, rescue=False, damage=0, starts=3, states=0))
    assert explored.complete and explored.states > 100
    assert findings.wrong == {}
    assert findings.reached > 1000 and 2 <= findings.longest <= 6


@pytest.mark.parametrize("kind", ["systemd-boot", "grub"])
def test_with_rescue_and_damage_the_first_states_come_to_rest(kind: Kind) -> None:
    explored, findings = check(Scope(kind, True, 1, starts=3, states=250, returns=RETURNS[kind]))
    assert findings.wrong == {}
    assert findings.waited and findings.reached > findings.waited
    assert explored.states >= 250


def test_a_firmware_that_does_not_go_on_or_a_script_that_does_not_count_is_found() -> None:
    """What the boot option for rescue, and the count of loads, are there for."""
    for kind, wrong in (
        ("systemd-boot", "never comes to rest: the firmware does not go on when an artifact is"),
        ("grub", "never comes to rest"),
    ):
        board, findings = Board(kind, most_loads=2), Findings()  # type: ignore[arg-type]
        with mock.patch.object(changes, "overdue", lambda *_: False):
            check_rest(explore(board, Limits(damage=1), most=12), findings, network=True)
        assert any(found.startswith(wrong) for found in findings.wrong), findings.wrong
        findings = Findings()
        check_rest(explore(board, Limits(damage=1), most=12), findings, network=True)
        assert findings.wrong == {}


def test_a_start_that_is_refused_although_the_loader_has_committed_is_found() -> None:
    """The mistake that this check found in recovery.decide: the rule as it was."""

    def another_attempt(*arguments: object) -> decide.Choice:
        with mock.patch.object(decide, "passed", lambda _trial: False):
            return real(*arguments)  # type: ignore[arg-type]

    real = decide._another_attempt
    with mock.patch.object(decide, "_another_attempt", another_attempt):
        _, findings = check(Scope("grub", rescue=False, damage=0, starts=3, states=0))
    assert "never comes to rest although the committed image is good" in findings.wrong


def test_an_order_of_writes_that_is_wrong_is_found() -> None:
    """A slot that gets its entry before its image."""
    real = plan.release

    def keeps_the_entry(record: StateRecord, slot: Slot) -> tuple[Step, ...]:
        return real(record, slot)[:-1]

    with mock.patch.object(plan, "release", keeps_the_entry):
        explored = explore(Board("u-boot", rescue=False), Limits())
    findings = Findings()
    check_states(explored, findings)
    assert "a half-written slot may be started" in findings.wrong


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_changed_by_the_boot_control_that_ships(kind: Kind) -> None:
    before = factory(kind)
    states = changed(kind, before, "a", "set_active", "b", tries=2)
    assert states[0] == before
    said = [known(kind, state, "a") for state in states]
    assert {item.active for item in said} == {"a", "b"}
    assert said[-1].active == "b" and all(item.a.successful for item in said)


def test_a_place_is_whole_only_undamaged() -> None:
    assert Place("v1").whole
    assert not Place("v1", root=False).whole
    assert not Place("v1", artifact="crashes").whole
    assert not Place("").whole


def disguised(device: Device) -> Device:
    """The same device as another life would have left it: other names, numbers, times and texts,
    generations that nobody names, and a quarantine of a version that is gone."""
    names = {"": "", **{f"v{n}": f"20{30 - n}.1" for n in range(1, 10)}}
    slots = tuple(replace(place, version=names[place.version]) for place in device.slots)
    others = Generation(1, "a", "gateway", "0.1", "hash-0.1", None, 5, "update", "y")

    def number(old: int | None) -> int | None:
        return None if old is None else old * 3 + 7

    known = tuple(
        with_fields(
            item,
            number=item.number * 3 + 7,
            version=names[item.version],
            root_hash=root_hash(names[item.version]),
            parent=1,
            created=1_700_000_000 + item.number,
            requested_by="anna",
        )
        for item in device.generations
    )
    record = device.record
    if record is not None:
        trial, probation = record.trial, record.probation
        if trial is not None:
            attempts = tuple(
                with_fields(a, boot_id="older", time=7, detail="disk full" if a.detail else "")
                for a in trial.attempts
            )
            trial = Trial(trial.generation * 3 + 7, trial.tries, "older", attempts)
        if probation is not None:
            failure = "crash loop" if probation.failure else ""
            probation = with_fields(
                probation, generation=probation.generation * 3 + 7, failure=failure
            )
        quarantined = (
            *(Quarantine(names[q.version], "broken", 9, 1) for q in record.quarantined),
            Quarantine("0.1", "broken", 9, 1),
        )
        record = StateRecord(
            next_generation=record.next_generation * 3 + 20,
            committed=record.committed * 3 + 7,
            previous=number(record.previous),
            trial=trial,
            probation=probation,
            quarantined=quarantined,
            undo=number(record.undo),
        )
    slots = (slots[0], slots[1])
    return replace(device, slots=slots, generations=(others, *known), record=record)


@pytest.mark.parametrize("kind", ["systemd-boot", "u-boot"])
def test_what_the_smallest_form_of_a_device_leaves_out_decides_nothing(kind: Kind) -> None:
    """Why the model has a finite number of states: names, numbers, times and texts of any life
    lead to the same boots, the same verdicts, and the same states but for them."""
    model = explore(Board(kind, rescue=False), Limits(), most=150).model
    compared = 0
    for device in model.devices[:150]:
        other = disguised(device)
        assert canonical(other) == canonical(device) == device
        started = without_wish(model.board, device)
        if started.what not in ("a", "b"):
            continue
        for behaviour in BEHAVIOURS:
            boots = [
                Boot(model.board, replace(item, kept=started.device.kept), started.what)
                for item in (device, other)
            ]
            endings = [boot.run(behaviour) for boot in boots]
            assert endings[0] == endings[1]
            one, two = ([canonical(state) for state, _ in boot.states] for boot in boots)
            assert one == two
            compared += 1
    assert compared > 500


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_record_decides_by_what_its_counts_have_reached(kind: Kind) -> None:
    """The model stops counting starts and loads at the highest number that is compared with."""
    board = Board(kind, returns=RETURNS[kind])
    most = board.most_starts
    for rescue, asked, opens in product((False, True), range(5), (False, True)):
        met = []
        for above in (0, 1, 99 - most):
            wish = Wish(rescue, asked=asked, image="a", starts=most + above, loads=4)
            written, asks = initramfs(board, wish, "a", "good" if opens else "mount")
            met.append((asks, [replace(item, starts=min(item.starts, most)) for item in written]))
        assert met[0] == met[1] == met[2]
    beyond = Wish(loads=9)
    assert overdue(board, beyond) == overdue(board, Wish(loads=board.most_loads))


@pytest.mark.parametrize("kind", KINDS)
def test_sets_of_start_records_are_followed_as_each_one_alone(kind: Kind) -> None:
    """Of a sample: all that can follow its states, worked out again one by one."""
    board = Board(kind, returns=RETURNS[kind], most_starts=3, most_loads=2)
    explored = explore(board, Limits(damage=1), most=600)
    model, chance = explored.model, random.Random(kind)
    states = [
        (number, wish) for number, wishes in explored.found.items() for wish in members(wishes)
    ]
    # The oldest of them have been followed in every case.
    for number, wish in [states[0], *chance.sample(states, 60)]:
        alone = successors(model, number, model.wishes.all[wish])
        together: dict[int, int] = {}
        for after, made, _ in model.successors(number, 1 << wish):
            together[after] = together.get(after, 0) | made
        assert alone == {
            (after, model.wishes.all[member])
            for after, made in together.items()
            for member in members(made)
        }
