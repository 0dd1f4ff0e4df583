"""The model check's sample for every run: all of it without rescue, a part of it with rescue."""

from __future__ import annotations

from unittest import mock

import pytest

from evidence.model import changes
from evidence.model.campaign import RETURNS, Scope, check
from evidence.model.check import Findings, check_rest, check_states
from evidence.model.device import Board, Place
from evidence.model.explore import Limits, explore
from evidence.model.records import KINDS, Kind, changed, factory, known
from recovery import decide, plan
from recovery.slots import Slot
from recovery.state import StateRecord
from recovery.steps import Step

# In docs/evidence.md as wrong. With systemd-boot nobody counts the starts of a committed image
# whose kernel ends before the initramfs runs.
KNOWN = {
    "systemd-boot": {"never comes to rest: a kernel ends before the initramfs counts its start"},
    "grub": set[str](),
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_rescue_every_state_of_a_life_of_any_length_is_safe(kind: Kind) -> None:
    explored, findings = check(Scope(kind, rescue=False, damage=0, starts=3, states=0))
    assert explored.complete and explored.states > 100
    assert findings.wrong == {}
    assert findings.reached > 1000 and 2 <= findings.longest <= 6


@pytest.mark.parametrize("kind", ["systemd-boot", "grub"])
def test_with_rescue_and_damage_the_first_states_come_to_rest(kind: Kind) -> None:
    explored, findings = check(Scope(kind, True, 1, starts=3, states=250, returns=RETURNS[kind][0]))
    assert set(findings.wrong) <= KNOWN[kind], findings.wrong
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
