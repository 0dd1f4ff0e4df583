"""Mistakes that were made once."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from recovery import durable
from recovery.boot import command_line
from recovery.history import MOST_BYTES
from recovery.plan import MOST_QUARANTINED
from recovery.rollback import request_rollback
from recovery.state import Quarantine
from recovery.value import replace
from tests.recovery.loaders import GrubBench
from tests.recovery.powercut import power_cut
from tests.recovery.test_agent import UNHEALTHY, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A factory device that has booted once."""
    made = Machine.factory(tmp_path / "device")
    assert made.run()
    return made


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_state_partition_does_not_stop_a_committed_generation(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On probation every start is counted; the loader counts none, so a panic would be for ever."""
    machine.install("2.0")
    assert machine.run()
    assert machine.store.load().probation is not None
    monkeypatch.setattr(durable, "replace_file", _full)
    assert machine.boot() is not None


def test_a_full_state_partition_ends_a_trial_before_it_starts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install("2.0")
    monkeypatch.setattr(durable, "replace_file", _full)
    with pytest.raises(OSError, match="No space left"):
        machine.boot()


def test_a_failing_probation_does_not_leave_when_somebody_rolls_back_meanwhile(
    machine: Machine,
) -> None:
    """The check takes its time; the rollback that was armed in between must stay the only way."""
    machine.install("2.0")
    assert machine.run()
    agent = machine.boot(UNHEALTHY)
    assert agent is not None
    record = machine.store.load()
    # As at the end of the probation: a rollback by hand is possible again.
    machine.store.save(type(record)(**{**record.__dict__, "probation": None}))
    request_rollback(machine.store, machine.control, "owner", tries=2)
    assert agent.leave("on probation: health check uplink") == 1
    assert machine.restarts == 0
    assert machine.control.slot_state("b").successful, "the committed entry was taken"
    assert machine.control.active_slot() == "a"


def test_the_first_occurrence_of_a_kernel_argument_counts(tmp_path: Path) -> None:
    """What firmware appends comes after what is signed."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("orbital.roothash=good quiet orbital.roothash=bad\n")
    assert command_line(tmp_path) == {"orbital.roothash": "good", "quiet": ""}


def test_the_commit_never_renames_the_entry_that_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT can lose both names of a cut rename: the counted entry stays until the new is whole."""
    machine.install("2.0")
    machine.load()
    entries = machine.esp / "loader/entries"
    counted = next(entries.glob("orbital-b+*.conf"))
    removed: list[bool] = []
    remove = durable.remove_file

    def checked(path: Path) -> None:
        if path == counted:
            whole = entries / "orbital-b.conf"
            removed.append("efi /EFI/orbital/b.efi" in whole.read_text())
        remove(path)

    monkeypatch.setattr(durable, "remove_file", checked)
    machine.control.mark_successful("b")
    assert removed == [True]
    assert not counted.exists()


def test_a_commit_in_the_last_try_that_is_cut_before_the_record_is_no_crash_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the model check: the next start was one more than the tries that were granted."""
    seen = set()
    for number in range(20):
        machine = Machine.factory(tmp_path / f"device{number}")
        assert machine.run()
        machine.install("2.0")
        machine.load()  # The first of two tries panics.
        agent = machine.boot()
        assert agent is not None and agent.health() == 0
        with power_cut(monkeypatch, number) as operations:
            agent.commit()
        committed = machine.control.slot_state("b").successful
        for _ in range(5):  # Starts that end before anything is settled.
            if committed and machine.store.load().trial is not None:
                machine.boot()
        while not machine.run():
            pass
        assert machine.running_version() == ("2.0" if committed else "1.0")
        seen.add((committed, operations.happened))
        if not operations.happened:
            break
    assert seen == {(False, True), (True, True), (True, False)}


def test_a_committed_generation_that_the_loader_has_no_entry_for_gets_one(
    tmp_path: Path,
) -> None:
    """Found by the model check: GRUB starts it when nothing else loads; health failed for ever."""
    bench = GrubBench(tmp_path)
    control = bench.control
    control.mark_unbootable("a")
    machine = Machine.factory(tmp_path / "device")
    assert machine.run()
    agent = machine.boot()
    assert agent is not None
    agent.boot_control = control
    assert control.slot_state("a").bootable is False
    assert agent.health() == 0
    assert control.slot_state("a").successful


def test_what_cut_writes_leave_on_the_state_partition_goes_at_the_next_boot(
    machine: Machine,
) -> None:
    """Found by the soak: each cut left a file."""
    root = machine.store.root
    left = [root / ".state.json.0a1b2c.tmp", root / "generations/.7.json.0a1b2c.tmp"]
    for path in left:
        path.write_bytes(b"half a record")
    assert machine.run()
    assert not any(path.exists() for path in left)


def test_history_and_quarantine_do_not_grow_for_ever(machine: Machine) -> None:
    """Found by the soak."""
    history = machine.store.history
    machine.install("1.5")
    assert machine.run()
    event = history.events()[0]
    for number in range(2, 2000):
        history.append(replace(event, generation=number, reason="x" * 100))
    assert history.path.stat().st_size <= MOST_BYTES
    kept = [known.generation for known in history.events()]
    assert kept[0] > 100 and kept == list(range(kept[0], 2000))
    assert len(kept) > 300
    record = replace(machine.store.load(), probation=None)
    many = tuple(Quarantine(f"0.{n}", "x", 0, n) for n in range(MOST_QUARANTINED))
    machine.store.save(replace(record, quarantined=many))
    machine.install("2.0")
    assert not machine.run(UNHEALTHY)
    assert machine.run()
    quarantined = [item.version for item in machine.store.load().quarantined]
    assert (len(quarantined), quarantined[0], quarantined[-1]) == (MOST_QUARANTINED, "0.1", "2.0")
