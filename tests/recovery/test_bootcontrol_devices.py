"""Whole devices with each boot control: updates, fallbacks, and a loader's record that is lost.

The device of `tests.recovery.test_agent`, with the loader's model in place of
its own, the product's early boot, decisions and agent, on real files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.rollback import request_rollback
from recovery.slots import BootControl, Slot
from tests.recovery.builders import NO_ENTRY, SUCCESSFUL
from tests.recovery.loaders import BENCHES, Bench, GrubBench, TrybootBench, UbootBench
from tests.recovery.test_agent import UNHEALTHY, Machine

LOSABLE = ("grub", "u-boot", "tryboot")


class BenchMachine(Machine):
    """A device with this boot control; it has booted its factory image once."""

    bench: Bench

    @classmethod
    def of(cls, kind: str, root: Path) -> BenchMachine:
        machine = cls.factory(root / "device")
        assert isinstance(machine, cls)
        machine.probation_boots = 9
        machine.bench = BENCHES[kind](machine.root / "bench")
        assert machine.run()
        return machine

    @property
    def control(self) -> BootControl:
        return self.bench.control

    def load(self) -> Slot:
        slot = self.bench.boot()
        assert slot is not None
        self.slot = slot
        self.boots = self.bench.boots if isinstance(self.bench, TrybootBench) else self.boots + 1
        identity = self.root / "proc/sys/kernel/random/boot_id"
        identity.parent.mkdir(parents=True, exist_ok=True)
        identity.write_text(f"{self.boot_id}\n")
        return slot

    def lose_record(self) -> None:
        """Every copy of the loader's record is gone."""
        assert isinstance(self.bench, GrubBench | UbootBench | TrybootBench)
        size = self.bench.path.stat().st_size
        self.bench.path.write_bytes(bytes(size))

    def settled(self, boots: int = 6) -> None:
        """Boots until the device has stayed up twice with nothing open."""
        up = 0
        for _ in range(boots):
            up = up + 1 if self.run() else 0
            record = self.store.load()
            if record.probation is not None:
                self.pass_probation()
                record = self.store.load()
            if up == 2 and record.trial is None:
                return
        raise AssertionError(f"never comes to rest: {self.store.load()} {self.said}")

    def pass_probation(self) -> None:
        agent = self.boot()
        assert agent is not None
        agent.settle()
        agent.probation()


def make(kind: str, memory: Path) -> BenchMachine:
    (memory / "device/bench").mkdir(parents=True)
    return BenchMachine.of(kind, memory)


@pytest.fixture(params=[kind for kind in BENCHES if kind != "fake"])
def machine(request: pytest.FixtureRequest, memory: Path) -> BenchMachine:
    return make(request.param, memory)


@pytest.fixture(params=LOSABLE)
def losable(request: pytest.FixtureRequest, memory: Path) -> BenchMachine:
    """A device whose record can be lost as a whole."""
    return make(request.param, memory)


def states(machine: BenchMachine) -> tuple[object, object]:
    return machine.control.slot_state("a"), machine.control.slot_state("b")


def test_updates_go_back_and_forth(machine: BenchMachine) -> None:
    for number, version in enumerate(("2.0", "3.0", "4.0"), 2):
        machine.install(version)
        assert machine.run()
        assert machine.running_version() == version
        assert machine.store.load().committed == number
        assert states(machine) == (SUCCESSFUL, SUCCESSFUL)
        machine.settled()


def test_a_trial_that_panics_falls_back_and_is_quarantined(machine: BenchMachine) -> None:
    machine.install("2.0")
    tries = 0
    while machine.load() == "b":
        tries += 1
    assert tries == min(2, machine.bench.most_tries)
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert machine.ends() == ["fell-back"]
    assert machine.store.load().quarantine_of("2.0") is not None
    assert states(machine) == (SUCCESSFUL, NO_ENTRY)


def test_an_unhealthy_trial_gives_up(machine: BenchMachine) -> None:
    machine.install("2.0")
    assert not machine.run(UNHEALTHY)
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert machine.ends() == ["rolled-back"]
    assert states(machine) == (SUCCESSFUL, NO_ENTRY)
    machine.install("3.0")
    assert machine.run()
    assert machine.running_version() == "3.0"


def test_a_rollback_by_hand_goes_back(machine: BenchMachine) -> None:
    machine.install("2.0")
    assert machine.run()
    request_rollback(machine.store, machine.control, "tester")
    assert machine.run()
    assert machine.running_version() == "1.0"
    machine.settled()
    assert machine.running_version() == "1.0"
    assert machine.store.load().quarantine_of("2.0") is not None


# The record is lost as a whole. Nobody has to come.


def test_the_committed_generation_in_slot_a_stays_and_is_updated_again(
    losable: BenchMachine,
) -> None:
    losable.lose_record()
    losable.settled()
    assert losable.running_version() == "1.0"
    assert losable.control.slot_state("a") == SUCCESSFUL
    assert losable.events() == []
    losable.install("2.0")
    assert losable.run()
    assert losable.running_version() == "2.0"


def test_the_committed_generation_in_slot_b_comes_back_or_slot_a_is_adopted(
    losable: BenchMachine,
) -> None:
    losable.install("2.0")
    losable.settled()
    assert losable.running_version() == "2.0"
    losable.lose_record()
    losable.settled()
    # The Pi's firmware cannot count, so what it starts stays; its update comes again.
    adopts = isinstance(losable.bench, TrybootBench)
    assert losable.running_version() == ("1.0" if adopts else "2.0")
    record = losable.store.load()
    assert record.quarantined == (), "nothing failed"
    assert losable.control.slot_state(losable.slot) == SUCCESSFUL
    losable.install("3.0")
    assert losable.run()
    assert losable.running_version() == "3.0"


def test_a_trial_that_waits_is_dropped_unblamed(losable: BenchMachine) -> None:
    losable.install("2.0")
    losable.lose_record()
    losable.settled()
    assert losable.running_version() == "1.0"
    assert losable.ends() == ["interrupted"]
    assert losable.store.load().quarantined == ()
    losable.install("2.0")
    assert losable.run()
    assert losable.running_version() == "2.0"


@pytest.mark.parametrize("healthy", [True, False])
def test_a_trial_that_runs_is_still_judged(losable: BenchMachine, healthy: bool) -> None:
    losable.install("2.0")
    losable.settled()
    losable.install("3.0")  # In slot a, where every loader begins.
    if isinstance(losable.bench, TrybootBench):
        agent = losable.boot() if healthy else losable.boot(UNHEALTHY)
        losable.lose_record()
    else:
        losable.lose_record()
        agent = losable.boot() if healthy else losable.boot(UNHEALTHY)
    assert agent is not None
    assert losable.running_version() == "3.0"
    if agent.health() == 0:
        agent.commit()
    losable.settled()
    assert losable.running_version() == ("3.0" if healthy else "2.0")
    assert (losable.store.load().quarantine_of("3.0") is None) == healthy


@pytest.mark.parametrize("kind", ["grub", "u-boot"])
def test_a_slot_that_holds_nothing_is_disarmed(kind: str, memory: Path) -> None:
    """The Pi's firmware never starts the other slot by itself, so it needs no counting."""
    machine = make(kind, memory)
    machine.lose_record()
    machine.settled()
    assert machine.control.slot_state("b") == NO_ENTRY


def test_a_slot_that_does_not_start_any_more_is_left_again(memory: Path) -> None:
    """Both misfortunes at once: the record is lost, and slot a panics. U-Boot counts anew."""
    machine = make("u-boot", memory)
    machine.install("2.0")
    machine.settled()
    machine.lose_record()
    assert [machine.load() for _ in range(3)] == ["a", "a", "a"]
    assert machine.run()
    assert machine.running_version() == "2.0"
    machine.settled()
    assert machine.store.load().quarantined == ()
