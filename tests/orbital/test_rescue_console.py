"""The console of the rescue system: what it says, and what each key does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orbital.rescue_console import Console, Spoken
from recovery.generations import Generation
from recovery.rescue.diagnosis import Site
from recovery.starts import Starts, wish
from recovery.state import Attempt, Quarantine, StateRecord, Trial
from recovery.value import replace
from tests.updater.images import BuiltImage
from tests.updater.publisher import Publisher
from tests.updater.rescue_site import Notes, RescueDevice, build


class Bench:
    """A device, and what somebody types."""

    def __init__(self, device: RescueDevice) -> None:
        self.device = device
        self.restarts = 0
        self.notes = Notes()

    def run(self, record: Starts, *keys: str | None) -> str:
        """A visit with these lines typed; None: nobody typed for a while. What was said."""
        typed = iter(keys)

        def read(_seconds: float) -> str | None:
            try:
                return next(typed)
            except StopIteration:
                raise EOFError("more is waited for than was typed") from None

        course = self.device.enter(record)
        course.site.reporter = Spoken(self.notes)

        def restart() -> None:
            self.restarts += 1

        Console(course, restart, read).run()
        assert list(typed) == []
        return "\n".join(self.notes.lines)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A whole device, version 1.0 in slot a."""
    publisher = Publisher(tmp_path / "publisher")
    image: BuiltImage = build(publisher, "1.0")
    publisher.publish(image)
    yield Bench(RescueDevice(tmp_path / "device", publisher, image))


PERSON = wish(Starts(), "anna", "to look")


def test_by_itself_it_repairs_and_restarts_without_a_key(bench: Bench) -> None:
    bench.device.rot("root-a", 0)
    said = bench.run(Starts(rescue=True, reason="slot a cannot be opened"))
    assert bench.restarts == 1
    assert said.splitlines()[0] == "orbital: rescue: entered: slot a cannot be opened"
    assert all(line.startswith("orbital: rescue: ") for line in said.splitlines())


def test_a_person_sees_the_diagnosis_and_leaves(bench: Bench) -> None:
    before = bench.device.control.slot_state("a")
    said = bench.run(PERSON, "", "x", "1", "8")
    assert "slot a: whole, committed" in said
    assert "slot b: damaged" in said
    assert "loader, slot a: starts without counting" in said
    assert "committed: generation 1, version 1.0, slot a" in said
    assert bench.restarts == 1
    assert bench.device.control.slot_state("a") == before


def test_the_diagnosis_says_why_a_slot_was_given_up(bench: Bench) -> None:
    device = bench.device
    device.store.generations.write(
        Generation(2, "b", "gateway", "2.0", "ab" * 32, 1, 0, "update", "timer")
    )
    attempts = (Attempt("boot-2", "early", "", 0),)
    quarantine = Quarantine("1.9", "its checks failed", 0, 3)
    device.store.save(
        StateRecord(3, 1, trial=Trial(2, 3, "boot-1", attempts), quarantined=(quarantine,))
    )
    said = bench.run(replace(PERSON, starts=5, image="ab" * 16), "8")
    assert "trial: generation 2, version 2.0, slot b: stopped before its services" in said
    assert "quarantined: 1.9: its checks failed" in said
    assert "starts of a slot that did not become healthy: 5" in said


def test_nobody_comes_and_the_visit_goes_on_by_itself(bench: Bench) -> None:
    said = bench.run(PERSON, None)
    assert "nobody is here" in said
    assert bench.restarts == 1
    assert bench.device.starts.load().rescued == 1


def test_a_person_lets_it_repair(bench: Bench) -> None:
    bench.device.rot_all("a")
    bench.run(PERSON, "2")
    assert bench.device.holds("a", bench.device.image)


def test_starting_by_hand_is_not_counted(bench: Bench) -> None:
    bench.run(PERSON, "4")
    assert bench.device.control.active_slot() == "a"
    assert bench.device.starts.load().rescued == 0


def test_what_fails_is_said_and_the_menu_comes_back(bench: Bench) -> None:
    said = bench.run(PERSON, "5", "8")
    assert "cannot activate slot b" in said
    assert bench.restarts == 1


def test_a_defect_of_the_program_does_not_take_the_menu_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(Site, "diagnose", broken)
    said = bench.run(Starts(rescue=True, reason="slot a cannot be opened"), "1", "8")
    assert "the rescue program has failed: LookupError('a defect')" in said
    assert bench.restarts == 1


def test_a_reset_needs_the_word(bench: Bench) -> None:
    said = bench.run(PERSON, "6", "yes", "6", "reset\n")
    assert "nothing has been done" in said
    assert bench.device.store.load().committed == 2


def test_waiting_says_what_to_bring_and_tries_again_later(bench: Bench) -> None:
    device = bench.device
    device.rot_all("a")
    away = device.publisher.repository.with_name("away")
    device.publisher.repository.rename(away)
    typed: list[str | None] = []

    def come_back(_seconds: float) -> str | None:
        typed.append(None)
        if len(typed) == 2:
            shutil.copytree(away, device.publisher.repository)
        return None

    course = device.enter(Starts(rescue=True, reason="no slot"))
    course.site.reporter = Spoken(bench.notes)
    Console(course, lambda: None, come_back).run()
    said = "\n".join(bench.notes.lines)
    assert "bring a stick" in said and "waiting for a person" in said
    assert len(typed) == 2
    assert device.holds("a", device.image)
