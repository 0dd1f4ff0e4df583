"""What rescue decides: a table of cases, and all sequences of visits explored to their ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from recovery.rescue.decide import (
    MOST_STARTS,
    Diagnosis,
    FollowLoader,
    Reinstall,
    Repair,
    RepairBoot,
    RepairState,
    Reset,
    SlotDiagnosis,
    Start,
    Wait,
    next_repair,
)
from recovery.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.rescue.decide import Condition
    from recovery.slots import Slot
    from recovery.starts import Action

WHOLE = SlotDiagnosis(whole=True)
NOISE = SlotDiagnosis(whole=False, damage="noise")
FAILED = SlotDiagnosis(whole=True, refused="quarantined")
FINE = Diagnosis(
    action="", person=False, rescued=0, boot="whole", state="whole", a=WHOLE, b=WHOLE, first="a"
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (FINE, Start("a")),
        (replace(FINE, first="b"), Start("b")),
        (replace(FINE, rescued=1), Start("b")),
        (replace(FINE, rescued=2), Reinstall()),
        (replace(FINE, a=NOISE), Start("b")),
        (replace(FINE, a=NOISE, rescued=1), Reinstall()),
        (replace(FINE, a=NOISE, b=FAILED), Reinstall()),
        (replace(FINE, a=NOISE, b=NOISE, first=None), Reinstall()),
        (replace(FINE, boot="damaged", state="damaged"), RepairBoot()),
        (replace(FINE, state="damaged"), RepairState()),
        (replace(FINE, state="damaged", tried=frozenset({"state"})), Start("a")),
        (replace(FINE, state="lost", boot="lost"), Start("a")),
        (replace(FINE, behind=True), FollowLoader()),
        (replace(FINE, behind=True, state="damaged"), RepairState()),
        (replace(FINE, behind=True, tried=frozenset({"record"})), Start("a")),
        (replace(FINE, tried=frozenset({"start-a"})), Start("b")),
        (replace(FINE, action="erase", person=True, boot="damaged"), Reset("erase")),
        (replace(FINE, rescued=2, tried=frozenset({"reinstall"})), Start("a")),
        (replace(FINE, rescued=3, tried=frozenset({"reinstall"})), Start("b")),
    ],
)
def test_the_order_of_repairs(found: Diagnosis, expected: Repair) -> None:
    assert next_repair(found) == expected


def test_a_person_gets_a_menu_and_nothing_is_done() -> None:
    for found in diagnoses():
        person = replace(found, person=True, action="")
        assert isinstance(next_repair(person), Wait)


def test_a_version_that_failed_here_is_never_started_by_itself() -> None:
    for found in diagnoses():
        for tried in (frozenset[str](), frozenset({"boot", "state", "reinstall"})):
            repair = next_repair(replace(found, tried=tried))
            if isinstance(repair, Start):
                assert found.slot(repair.slot).startable


def diagnoses() -> Iterator[Diagnosis]:
    """Every diagnosis at the beginning of a visit."""
    actions: tuple[Action, ...] = ("", "reset", "erase")
    conditions: tuple[Condition, ...] = ("whole", "damaged", "lost")
    firsts: tuple[Slot | None, ...] = ("a", "b", None)
    slots = (WHOLE, NOISE, FAILED)
    visits = tuple(product(actions, (False, True), range(MOST_STARTS + 1)))
    disks = tuple(product(conditions, conditions, slots, slots, firsts))
    for (action, person, rescued), (boot, state, a, b, first) in product(visits, disks):
        for behind in (False, True):
            yield Diagnosis(action, person, rescued, boot, state, a, b, first, frozenset(), behind)


def after(found: Diagnosis, repair: Repair) -> Iterator[Diagnosis | None]:
    """All that may follow: another diagnosis, in this visit or the next one; None: an end.

    A start that becomes healthy is an end, and so is waiting. One that does not
    brings rescue back, with damage done to any slot meanwhile.
    """
    if isinstance(repair, Wait):
        # The person who was asked for never comes.
        yield replace(found, person=False) if found.person else None
    elif isinstance(repair, Reset):
        done = found.tried | {"action"}
        yield None
        yield replace(found, tried=done)
        # Restarted, and no slot starts.
        yield replace(found, action="", person=False, tried=frozenset())
    elif isinstance(repair, RepairBoot):
        for boot in ("whole", "damaged"):
            yield replace(found, boot=boot, tried=found.tried | {"boot"})
    elif isinstance(repair, RepairState):
        for state in ("whole", "damaged"):
            yield replace(found, state=state, tried=found.tried | {"state"})
    elif isinstance(repair, FollowLoader):
        for behind in (False, True):
            yield replace(found, behind=behind, tried=found.tried | {"record"})
    elif isinstance(repair, Start):
        yield None
        yield replace(found, tried=found.tried | {f"start-{repair.slot}"})
        yield from visited_again(found)
    else:
        yield None
        yield replace(found, tried=found.tried | {"reinstall"})
        yield from visited_again(replace(found, a=WHOLE))
        yield from visited_again(replace(found, b=WHOLE))


def visited_again(found: Diagnosis) -> Iterator[Diagnosis]:
    """The next visit: a start more is counted; slots, boot and state may have become worse."""
    for a, b in product((found.a, NOISE), (found.b, FAILED)):
        yield replace(
            found,
            a=a,
            b=b,
            boot="damaged" if found.boot != "lost" else "lost",
            rescued=found.rescued + 1,
            person=False,
            tried=frozenset(),
        )


def test_every_sequence_of_visits_ends() -> None:
    """No diagnosis can be reached again from itself, and every path has a bounded length.

    So from every state a device ends healthy, or waiting for a person, within the
    number of starts that is documented.
    """
    longest: dict[Diagnosis, int] = {}

    def starts_from(found: Diagnosis, above: frozenset[Diagnosis]) -> int:
        if found in longest:
            return longest[found]
        assert found not in above, f"rescue goes round in circles at {found}"
        repair = next_repair(found)
        most = 0
        for follower in after(found, repair):
            if follower is not None:
                counts = follower.rescued - found.rescued
                most = max(most, counts + starts_from(follower, above | {found}))
        longest[found] = most
        return most

    for found in diagnoses():
        assert starts_from(found, frozenset()) <= MOST_STARTS - found.rescued
    assert longest[replace(FINE, person=True)] == MOST_STARTS
    assert len(longest) > 10_000


def test_a_healthy_candidate_is_reached_if_no_installation_is() -> None:
    """Whatever else fails: before rescue gives up, every startable slot was started twice."""
    for first, second in (("a", "b"), ("b", "a")):
        found = replace(FINE, first=first)
        started = []
        for rescued in range(MOST_STARTS):
            repair = next_repair(replace(found, rescued=rescued))
            if isinstance(repair, Reinstall):
                failed = replace(found, rescued=rescued, tried=frozenset({"reinstall"}))
                repair = next_repair(failed)
            assert isinstance(repair, Start)
            started.append(repair.slot)
        assert started == [first, second] * (MOST_STARTS // 2)
