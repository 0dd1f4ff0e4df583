"""Records on disk: strict, whole, and never an exception at boot whatever they hold."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import generations, history, state
from recovery.errors import RefusedError, StateError
from recovery.history import Event, History
from recovery.state import Attempt, Probation, Quarantine, StateRecord, StateStore, Trial
from recovery.value import Value, replace
from tests.recovery.builders import factory_store, generation

FULL = StateRecord(
    next_generation=5,
    committed=3,
    previous=2,
    trial=Trial(4, 3, "boot", (Attempt("b1", "early", "", 1), Attempt("b2", "health", "no", 2))),
    probation=Probation(3, since=1, seconds=600, limit=3, boots=1, failure="x"),
    quarantined=(Quarantine("1.5", "panicked", 9, 2),),
)


def event(number: int) -> Event:
    """An installation."""
    return Event("installed", number, "1.0", "2.0", "b", "update", "timer", 7, "boot")


def test_a_record_is_read_back_as_it_was_written() -> None:
    assert state.decode(state.encode(FULL)) == FULL
    assert FULL.referenced() == {2, 3, 4}
    assert FULL.quarantine_of("1.5") is not None
    assert FULL.quarantine_of("1.6") is None


DAMAGE: list[tuple[str, object]] = [
    ("format", 2),
    ("committed", "3"),
    ("committed", True),
    ("committed", -1),
    ("previous", []),
    ("trial", {}),
    ("trial", {"generation": 1, "tries": 1, "armed_boot": "x", "attempts": [{}]}),
    ("quarantined", [[]]),
    ("surprise", 1),
]


@pytest.mark.parametrize(("key", "value"), DAMAGE)
def test_a_record_that_is_not_exactly_right_is_refused(key: str, value: object) -> None:
    document = json.loads(state.encode(FULL))
    document[key] = value
    with pytest.raises(ValueError, match=r"."):
        state.decode(json.dumps(document).encode())


@given(st.binary(max_size=200))
def test_no_bytes_make_the_state_raise_at_boot(data: bytes) -> None:
    for decode in (state.decode, generations.decode, history.decode):
        try:
            decode(data)
        except ValueError:
            continue
        raise AssertionError(f"accepted: {data!r}")


@given(st.integers(min_value=0, max_value=2000))
def test_a_torn_record_is_absent_not_wrong(length: int) -> None:
    data = state.encode(FULL)
    if length < len(data) - 1:
        with pytest.raises(ValueError, match=r"."):
            state.decode(data[:length])


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"{}", b"[" * 100_000, b"\xff\xfe"])
def test_a_damaged_state_file_reads_as_absent(tmp_path: Path, data: bytes) -> None:
    store = factory_store(tmp_path)
    store.path.write_bytes(data)
    assert store.read() is None
    with pytest.raises(StateError, match="reboot the device"):
        store.load()


def test_a_second_change_is_refused_at_once_and_names_the_first(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from recovery.state import StateStore\n"
        f"with StateStore(Path({str(tmp_path)!r})).lock('orbital system update'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    started = time.monotonic()
    with pytest.raises(RefusedError, match="orbital system update"):  # noqa: SIM117
        with StateStore(tmp_path).lock("second"):
            pass
    assert time.monotonic() - started < 1
    holder.kill()
    holder.communicate()
    with StateStore(tmp_path).lock("third", wait_seconds=5):
        pass


def test_a_generation_is_never_changed(tmp_path: Path) -> None:
    store = StateStore(tmp_path).generations
    store.write(generation(4, "b"))
    store.write(generation(4, "b"))
    with pytest.raises(StateError, match="in use"):
        store.write(generation(4, "a"))
    assert store.load(4) == generation(4, "b")


def test_a_torn_generation_is_no_generation_and_its_number_is_not_used_again(
    tmp_path: Path,
) -> None:
    store = StateStore(tmp_path).generations
    store.write(generation(1, "a"))
    (store.directory / "2.json").write_bytes(b'{"format": 1')
    (store.directory / "7.json").write_bytes(generations.encode(generation(3, "b")))
    assert [made.number for made in store.all()] == [1]
    assert store.numbers() == (1, 2, 7)


def test_pruning_keeps_what_is_referenced(tmp_path: Path) -> None:
    store = StateStore(tmp_path).generations
    for number in (1, 2, 3, 4):
        store.write(generation(number, "a"))
        (tmp_path / f"etc/{number}/upper").mkdir(parents=True)
    assert store.prune({3, 4}) == (1, 2)
    assert store.numbers() == (3, 4)
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["3", "4"]


def test_a_torn_last_line_of_the_history_loses_only_itself(tmp_path: Path) -> None:
    journal = History(tmp_path)
    journal.append(event(1))
    with journal.path.open("ab") as out:
        out.write(b'{"event": "inst')
    assert journal.events() == (event(1),)
    journal.append(event(2))
    assert journal.events() == (event(1), event(2))


def test_an_outcome_is_told_once(tmp_path: Path) -> None:
    journal = History(tmp_path)
    journal.record_once(event(1))
    journal.record_once(replace(event(1), time=99))
    assert journal.events() == (event(1),)


class Point(Value):
    """Two numbers."""

    x: int
    y: int = 2


def test_values_are_frozen_and_compared_by_value() -> None:
    assert Point(1) == Point(x=1, y=2)
    assert Point(1) != Point(2)
    assert len({Point(1), Point(1, 2)}) == 1
    assert repr(Point(1)) == "Point(x=1, y=2)"
    assert replace(Point(1), y=5) == Point(1, 5)
    with pytest.raises(AttributeError, match="frozen"):
        Point(1).x = 3  # type: ignore[misc]
    for wrong in ({}, {"x": 1, "z": 1}):
        with pytest.raises(TypeError):
            Point(**wrong)
    too_many = [1, 2, 3]
    with pytest.raises(TypeError):
        Point(*too_many)
