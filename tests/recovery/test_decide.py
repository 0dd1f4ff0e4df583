"""The table of cases: what is seen, and what it means. One row for each sentence of `decide`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recovery import decide, watch
from recovery.boot import RunningImage
from recovery.decide import Verdict, View, assess, choose_generation
from recovery.generations import Generation
from recovery.slots import Slot, SlotState
from recovery.state import Attempt, Probation, StateRecord, Trial
from recovery.value import replace
from tests.recovery.builders import EXHAUSTED, NO_ENTRY, SUCCESSFUL, counting, generation

ONE = generation(1, "a", origin="factory")
TWO = generation(2, "b")
ALONE = StateRecord(next_generation=2, committed=1)
EARLY = Attempt("past", "early", "", 0)
USERSPACE = Attempt("past", "userspace", "", 0)
PASSED = Attempt("past", "health", "", 0)
FAILED = Attempt("past", "health", "health check uplink: no route", 0)


def trial(*attempts: Attempt, armed: str = "past") -> StateRecord:
    """Generation 2 is on trial with two tries."""
    tried = Trial(generation=2, tries=2, armed_boot=armed, attempts=attempts)
    return StateRecord(next_generation=3, committed=1, trial=tried)


def probation(boots: int = 0, failure: str = "") -> StateRecord:
    """Generation 2 is committed and on probation; one start is allowed."""
    watched = Probation(2, since=0, seconds=60, limit=1, boots=boots, failure=failure)
    return StateRecord(next_generation=3, committed=2, previous=1, probation=watched)


SETTLED = StateRecord(next_generation=3, committed=2, previous=1)

Case = tuple[str, Generation, StateRecord, SlotState, SlotState, Slot | None, type[Verdict], str]
# what happened, running, record, loader's a, loader's b, active, verdict, words of its reason
CASES: list[Case] = [
    ("factory", ONE, ALONE, SUCCESSFUL, NO_ENTRY, "a", decide.Settled, "committed"),
    ("factory, counted", ONE, ALONE, counting(2), NO_ENTRY, "a", decide.Settled, "committed"),
    ("trial runs", TWO, trial(EARLY), SUCCESSFUL, counting(1), "b", decide.RunTrial, "1 of 2"),
    ("last try", TWO, trial(EARLY, EARLY), SUCCESSFUL, EXHAUSTED, "a", decide.RunTrial, "2 of 2"),
    ("commit cut", TWO, trial(PASSED, EARLY), SUCCESSFUL, SUCCESSFUL, "b", decide.FinishCommit, ""),
    ("verdict cut", TWO, trial(FAILED), SUCCESSFUL, counting(1), "b", decide.GiveUp, "no route"),
    ("no way back", TWO, trial(FAILED), NO_ENTRY, counting(1), "b", decide.Stranded, "nothing to"),
    (
        "passed before, rescue gave tries",
        TWO,
        trial(PASSED, EARLY, EARLY),
        SUCCESSFUL,
        counting(1),
        "b",
        decide.RunTrial,
        "3 of 2",
    ),
    (
        "loader does not count",
        TWO,
        trial(EARLY, EARLY, EARLY),
        SUCCESSFUL,
        counting(2),
        "b",
        decide.GiveUp,
        "more often than the 2 tries",
    ),
    ("never armed", ONE, trial(), SUCCESSFUL, NO_ENTRY, "a", decide.DropTrial, "interrupted"),
    ("rollback unarmed", ONE, trial(), SUCCESSFUL, SUCCESSFUL, "b", decide.DropTrial, "interrupt"),
    ("just installed", ONE, trial(armed="now"), SUCCESSFUL, counting(2), "b", decide.Waiting, ""),
    ("chosen by hand", ONE, trial(), SUCCESSFUL, counting(2), "b", decide.Waiting, "2 tries left"),
    ("panicked", ONE, trial(), SUCCESSFUL, EXHAUSTED, "a", decide.FellBack, "never reached user"),
    ("died early", ONE, trial(EARLY, EARLY), SUCCESSFUL, EXHAUSTED, "a", decide.FellBack, "before"),
    (
        "died later",
        ONE,
        trial(EARLY, USERSPACE),
        SUCCESSFUL,
        EXHAUSTED,
        "a",
        decide.FellBack,
        "before its health was known (in 2 of 2 tries)",
    ),
    ("given up", ONE, trial(FAILED), SUCCESSFUL, NO_ENTRY, "a", decide.FellBack, "no route"),
    ("fallback cut", ONE, ALONE, SUCCESSFUL, EXHAUSTED, "a", decide.Disarm, "nothing is on trial"),
    (
        "armed, record lost",
        ONE,
        ALONE,
        SUCCESSFUL,
        counting(2),
        "b",
        decide.Disarm,
        "nothing is on",
    ),
    ("committed", TWO, SETTLED, SUCCESSFUL, SUCCESSFUL, "b", decide.Settled, "committed"),
    ("watched", TWO, probation(1), SUCCESSFUL, SUCCESSFUL, "b", decide.InProbation, "1 times"),
    ("crash loop", TWO, probation(2), SUCCESSFUL, SUCCESSFUL, "b", decide.GiveUp, "crash loop"),
    ("failure cut", TWO, probation(0, "x"), SUCCESSFUL, SUCCESSFUL, "b", decide.GiveUp, "x"),
    ("nowhere to go", TWO, probation(2), NO_ENTRY, SUCCESSFUL, "b", decide.Stranded, "nothing to"),
    ("left probation", ONE, probation(2, "why"), SUCCESSFUL, NO_ENTRY, "a", decide.FellBack, "why"),
    ("by hand", ONE, SETTLED, SUCCESSFUL, SUCCESSFUL, "b", decide.Visiting, "started by hand"),
    ("loader knows better", ONE, SETTLED, SUCCESSFUL, SUCCESSFUL, "a", decide.Adopt, "prefers"),
    ("stranger", ONE, SETTLED, counting(1), SUCCESSFUL, "a", decide.GiveUp, "nobody put on trial"),
    (
        "flashed by hand",
        generation(7, "b", "9.0"),
        SETTLED,
        SUCCESSFUL,
        SUCCESSFUL,
        "b",
        decide.Adopt,
        "holds another image",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_what_a_boot_means(case: Case) -> None:
    _, running, record, a, b, active, expected, words = case
    verdict = assess(View("now", running, record, (ONE, TWO, running), active, a, b))
    assert type(verdict) is expected
    assert words in verdict.reason


def test_without_the_state_nothing_is_decided() -> None:
    view = View("now", ONE, ALONE, (ONE,), "b", SUCCESSFUL, counting(2), volatile=True)
    assert isinstance(assess(view), decide.Volatile)


def chosen(
    slot: str, version: str, record: StateRecord | None, *known: Generation
) -> decide.Choice:
    """What early boot does with that image."""
    image = RunningImage("a" if slot == "a" else "b", f"hash-of-{version}")
    return choose_generation(image, record, known, boot_id="now", now=5)


def test_a_first_boot_makes_generation_1() -> None:
    assert chosen("a", "1.0", None) == decide.Choice(1, False, False, ALONE)


def test_a_lost_record_takes_the_newest_generation_of_the_running_image() -> None:
    old = replace(ONE, number=3, slot="b", version="2.0", root_hash=TWO.root_hash)
    choice = chosen("b", "2.0", None, ONE, TWO, old)
    assert (choice.generation, choice.known, choice.recovered) == (3, True, True)
    assert choice.record == StateRecord(next_generation=4, committed=3)


def test_an_unknown_image_gets_a_new_number_and_commits_nothing() -> None:
    choice = chosen("b", "9.0", SETTLED, ONE, TWO)
    assert choice == decide.Choice(3, False, False, replace(SETTLED, next_generation=4))


def test_an_attempt_is_written_before_it_goes_on() -> None:
    choice = chosen("b", "2.0", trial(), ONE, TWO)
    assert (choice.generation, choice.trial, choice.give_up) == (2, True, "")
    assert choice.record is not None
    assert choice.record.trial is not None
    assert choice.record.trial.attempts == (Attempt("now", "early", "", 5),)


def test_the_old_slot_runs_its_own_generation_beside_a_trial() -> None:
    assert chosen("a", "1.0", trial(EARLY), ONE, TWO) == decide.Choice(1, True, False, None)


def test_starts_within_a_probation_are_counted() -> None:
    choice = chosen("b", "2.0", probation(0), ONE, TWO)
    assert choice.record == probation(1)
    assert choice.give_up == ""
    assert "crash loop" in chosen("b", "2.0", probation(1), ONE, TWO).give_up


def test_early_boot_imports_nothing_slow() -> None:
    """Each of these costs a slow machine more than all the work of early boot."""
    slow = "{'dataclasses', 'typing', 'inspect', 'subprocess', 'tempfile', 'shutil', 'logging'}"
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r});"
        f"import recovery.early; print(sorted({slow} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-ISB", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


SHOWN = """Id=router.service
NRestarts=2
ActiveState=active

NRestarts=4
Id=broken.service
ActiveState=failed

Id=state.mount
ActiveState=active
"""


def test_services_are_read_from_systemctl_show() -> None:
    services = watch.parse_services(SHOWN)
    assert services == {
        "router.service": watch.ServiceState(2, failed=False),
        "broken.service": watch.ServiceState(4, failed=True),
    }
    assert watch.crash_loop({}, {"router.service": services["router.service"]}) == ""
    assert watch.crash_loop(services, services) == (
        "broken.service crashed until systemd gave it up (4 restarts)"
    )


def test_a_crash_loop_is_counted_from_the_start_of_the_observation() -> None:
    before = {"router.service": watch.ServiceState(5, failed=False)}
    assert watch.crash_loop(before, {"router.service": watch.ServiceState(7, False)}) == ""
    now = {"router.service": watch.ServiceState(8, False)}
    assert "router.service crashes again and again" in watch.crash_loop(before, now)
