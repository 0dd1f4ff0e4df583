"""One conformance suite for every boot control, with its loader, and the fake as the oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from recovery.errors import BootControlError
from recovery.slots import SLOTS, BootControl, Slot, SlotState, other_slot
from tests.recovery.builders import EXHAUSTED, NO_ENTRY, SUCCESSFUL, counting
from tests.recovery.loaders import BENCHES, MEMORY, Bench, FakeBench
from tests.recovery.powercut import power_cut
from tests.recovery.redundant import observed


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, memory: Path) -> Bench:
    """A factory device: slot a runs and is successful, slot b is empty."""
    return BENCHES[request.param](memory)


def granted(bench: Bench, tries: int) -> SlotState:
    """A slot with as many of the tries as the loader can count."""
    return counting(min(tries, bench.most_tries))


def test_a_factory_device_starts_its_only_slot(bench: Bench) -> None:
    assert bench.control.current_slot() == "a"
    assert bench.control.active_slot() == "a"
    assert bench.control.slot_state("a") == SUCCESSFUL
    assert bench.control.slot_state("b") == NO_ENTRY


def test_an_activated_slot_is_next_and_has_its_tries(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    assert bench.control.active_slot() == "b"
    assert bench.control.slot_state("b") == granted(bench, 3)
    assert bench.control.slot_state("a") == SUCCESSFUL
    assert bench.control.current_slot() == "a"


def test_a_successful_slot_needs_no_tries(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.mark_successful("b")
    bench.control.mark_successful("b")
    assert bench.control.slot_state("b") == SUCCESSFUL
    assert bench.control.active_slot() == "b"


def test_an_unbootable_slot_gives_way_to_the_other(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.mark_successful("b")
    bench.control.mark_unbootable("b")
    bench.control.mark_unbootable("b")
    assert bench.control.slot_state("b") == NO_ENTRY
    assert bench.control.active_slot() == "a"


def test_activating_again_grants_new_tries_and_goes_first(bench: Bench) -> None:
    bench.control.set_active("b", 2)
    bench.control.mark_successful("b")
    bench.control.set_active("a", 1)
    assert bench.control.active_slot() == "a"
    assert bench.control.slot_state("a") == granted(bench, 1)
    assert bench.control.slot_state("b") == SUCCESSFUL
    bench.control.set_active("a", 4)
    assert bench.control.slot_state("a") == granted(bench, 4)


def test_without_any_entry_nothing_is_active(bench: Bench) -> None:
    bench.control.mark_unbootable("a")
    assert bench.control.active_slot() is None


def test_a_slot_without_an_entry_cannot_become_successful(bench: Bench) -> None:
    with pytest.raises(BootControlError, match="cannot mark slot b successful"):
        bench.control.mark_successful("b")


def test_zero_tries_are_refused(bench: Bench) -> None:
    with pytest.raises(BootControlError, match="0 tries"):
        bench.control.set_active("b", 0)
    assert bench.control.active_slot() == "a"


def test_tidying_changes_nothing_that_counts(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.tidy()
    assert (bench.control.slot_state("a"), bench.control.slot_state("b")) == (
        SUCCESSFUL,
        granted(bench, 3),
    )
    assert bench.control.active_slot() == "b"


def test_the_loader_takes_a_try_before_each_start_and_gives_up_in_the_end(bench: Bench) -> None:
    bench.control.set_active("b", 2)
    tries = min(2, bench.most_tries)
    for left in reversed(range(tries)):
        assert bench.boot() == "b"
        assert bench.control.current_slot() == "b"
        assert bench.control.slot_state("b") == (counting(left) if left else EXHAUSTED)
    assert bench.control.active_slot() == "a"
    assert bench.boot() == "a"
    assert bench.control.slot_state("b") == EXHAUSTED
    assert bench.control.slot_state("a") == SUCCESSFUL


def test_a_commit_in_the_last_try_lasts(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    assert bench.boot() == "b"
    bench.control.mark_successful("b")
    assert [bench.boot() for _ in range(3)] == ["b", "b", "b"]
    assert bench.control.slot_state("b") == SUCCESSFUL
    assert bench.control.slot_state("a") == SUCCESSFUL


def test_a_committed_slot_that_gives_itself_up_leads_back(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    bench.boot()
    bench.control.mark_successful("b")
    bench.control.mark_unbootable("b")
    assert bench.boot() == "a"
    assert bench.control.slot_state("b") == NO_ENTRY


def test_a_cancelled_trial_does_not_start(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.mark_unbootable("b")
    assert bench.boot() == "a"


def test_the_loader_never_gives_up_by_itself(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    bench.control.mark_unbootable("a")
    assert [bench.boot() for _ in range(4)] == ["b"] * 4
    assert bench.control.slot_state("b") == EXHAUSTED
    assert bench.control.active_slot() is None


def test_tidying_again_and_again_changes_nothing_for_the_loader(bench: Bench) -> None:
    bench.control.set_active("b", 2)
    for _ in range(3):
        bench.control.tidy()
    assert bench.boot() == "b"
    bench.control.tidy()
    bench.control.tidy()
    assert bench.control.slot_state("a") == SUCCESSFUL
    assert bench.control.slot_state("b").tries_left == min(2, bench.most_tries) - 1


# Power cuts: before every durable operation, and inside every write of a record.

OPERATIONS: dict[str, Callable[[BootControl], None]] = {
    "set_active b": lambda control: control.set_active("b", 3),
    "set_active a": lambda control: control.set_active("a", 3),
    "mark_successful b": lambda control: control.mark_successful("b"),
    "mark_unbootable b": lambda control: control.mark_unbootable("b"),
    "mark_unbootable a": lambda control: control.mark_unbootable("a"),
    "tidy": lambda control: control.tidy(),
}


def armed(bench: Bench) -> None:
    bench.control.set_active("b", 3)


def tried(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.boot()


def exhausted(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    bench.boot()
    bench.boot()


def committed(bench: Bench) -> None:
    tried(bench)
    bench.control.mark_successful("b")


# U-Boot's record survives being torn at any byte; the others are one sector, or files.
TEARS = {"u-boot": (0, 1, 5, 40, 512, 4096, 65535), "grub": (0,), "tryboot": (0,)}


@pytest.mark.parametrize("start", [armed, tried, exhausted, committed])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", [kind for kind in BENCHES if kind != "fake"])
def test_a_power_cut_leaves_the_state_before_or_the_state_after(
    kind: str,
    operation: str,
    start: Callable[[Bench], None],
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    act = OPERATIONS[operation]

    def prepared(name: str) -> Bench:
        (memory / name).mkdir()
        bench = BENCHES[kind](memory / name)
        start(bench)
        return bench

    bench = prepared("whole")
    before = observed(bench.control)
    act(bench.control)
    after = observed(bench.control)
    next_after = bench.boot()
    most = 0
    for torn_bytes in TEARS.get(kind, (0,)):
        cuts = 0
        while True:
            bench = prepared(f"cut{cuts}-{torn_bytes}")
            with power_cut(monkeypatch, cuts, torn_bytes=torn_bytes) as operations:
                act(bench.control)
            found = observed(bench.control)
            assert found in (before, after), f"cut before operation {cuts}"
            bench.control.tidy()
            assert observed(bench.control) == found
            # The same operation, repeated after the cut, gets there.
            act(bench.control)
            assert observed(bench.control) == after
            assert bench.boot() == next_after
            if not operations.happened:
                break
            cuts += 1
        most = max(most, cuts)
    if before != after:
        assert most >= 1


# The fake as the oracle.


class Alternation(RuleBasedStateMachine):
    """The loader and Linux take turns; every boot control does what the fake does."""

    kind = ""

    @initialize()
    def factory(self) -> None:
        self.place = tempfile.TemporaryDirectory(dir=MEMORY)
        root = Path(self.place.name)
        self.bench = BENCHES[self.kind](root)
        self.oracle = FakeBench(root)

    def teardown(self) -> None:
        self.place.cleanup()

    @rule(slot=st.sampled_from(SLOTS), tries=st.integers(1, 7))
    def set_active(self, slot: Slot, tries: int) -> None:
        fake = self.oracle.control
        if self.bench.most_tries == 1 and fake.slot_state(other_slot(slot)).tries_left:
            return  # The Pi's firmware has one try for both slots.
        self.bench.control.set_active(slot, tries)
        fake.set_active(slot, min(tries, self.bench.most_tries))

    @rule(slot=st.sampled_from(SLOTS))
    def mark_successful(self, slot: Slot) -> None:
        def outcome(control: BootControl) -> str:
            try:
                control.mark_successful(slot)
            except BootControlError as error:
                return error.brief
            return "done"

        assert outcome(self.bench.control) == outcome(self.oracle.control)

    @precondition(lambda self: len(self.oracle.control.entries) == 2)
    @rule(slot=st.sampled_from(SLOTS))
    def mark_unbootable(self, slot: Slot) -> None:
        self.bench.control.mark_unbootable(slot)
        self.oracle.control.mark_unbootable(slot)

    @rule()
    def tidy(self) -> None:
        self.bench.control.tidy()

    @rule()
    def boot(self) -> None:
        assert self.bench.boot() == self.oracle.boot()

    @invariant()
    def says_what_the_fake_says(self) -> None:
        assert self.bench.control.current_slot() == self.oracle.control.current_slot()
        assert observed(self.bench.control) == observed(self.oracle.control)


@pytest.mark.parametrize("kind", [kind for kind in BENCHES if kind != "fake"])
def test_loader_and_linux_in_alternation_are_the_fake(kind: str) -> None:
    machine = type("Alternation", (Alternation,), {"kind": kind})
    effort = settings(max_examples=100, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(machine, settings=effort)
