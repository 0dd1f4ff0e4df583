"""docs/evidence.md says what the results say, and results are whole or refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from evidence import __main__ as command
from evidence import report, result
from evidence.result import Result

GOOD = Result(
    campaign="powercut",
    board="qemu-x86_64",
    command="python -m evidence powercut --operation update",
    commit="0123456789ab+",
    date="2026-11-21",
    seconds=7300,
    counts={"crash states judged": 60_000, "crash states booted": 3},
)


def test_the_document_is_what_the_results_say() -> None:
    """Stale, or a figure that no result has: `python -m evidence report` writes it anew."""
    assert report.DOCUMENT.read_text() == report.render(result.load_all())


def test_a_result_without_the_figure_of_its_aim_is_an_error() -> None:
    renamed = msgspec.structs.replace(GOOD, counts={"states judged": 60_000})
    with pytest.raises(ValueError, match="no result counts 'crash states"):
        report.render([renamed])


def test_each_result_names_a_command_that_exists() -> None:
    for found in result.load_all():
        name = found.command.split()[3]
        assert name in command.CAMPAIGNS, found.file_name
        assert found.campaign in (name, *(f"{name}-{kind}" for kind in ("qemu",)))


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = result.record(
        "soak",
        "python -m evidence soak --cycles 10",
        {"cycles": 10},
        seconds=1.6,
        wrong=["two\nlines"],
        folder=tmp_path,
    )
    assert path.name == "soak.json"
    (found,) = result.load_all(tmp_path)
    assert (found.counts, found.seconds, found.wrong) == ({"cycles": 10}, 2, ("two lines",))


@pytest.mark.parametrize(
    "change",
    [
        {"command": "make evidence"},
        {"command": "python -m evidence soak | tee /dev/null"},
        {"commit": "HEAD"},
        {"date": "today"},
        {"board": "../x"},
        {"counts": {}},
        {"counts": {"crash states judged": -1}},
        {"counts": {"States!": 1}},
        {"wrong": ["\n"]},
        {"format": 2},
    ],
)
def test_a_malformed_result_is_refused(change: dict[str, object]) -> None:
    document = {**msgspec.to_builtins(GOOD), **change}
    with pytest.raises(ValueError, match="not a result"):
        result.decode(msgspec.json.encode(document))


def test_a_count_that_is_no_number_or_a_field_too_many_is_refused() -> None:
    for change in ({"counts": {"cycles": "many"}}, {"opinion": "fine"}):
        with pytest.raises(ValueError, match=r"counts|opinion"):
            result.decode(msgspec.json.encode({**msgspec.to_builtins(GOOD), **change}))


def test_a_result_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "soak.json").write_bytes(result.encode(GOOD))
    with pytest.raises(ValueError, match=r"powercut\.qemu-x86_64\.json"):
        result.load_all(tmp_path)


def test_the_document_says_what_was_missed_and_what_was_not_run() -> None:
    text = report.render([GOOD])
    assert "| crash states judged | at least 50,000 | 60,000 | reached |" in text
    assert "| crash states booted | at least 200 | 3 | **missed** |" in text
    assert "| soak cycles in QEMU | at least 100 | none | **not run** |" in text
    assert "Wrong outcomes in all campaigns: 0." in text
    assert "`python -m evidence powercut --operation update` (2 h 1 min, 2026-11-21" in text


def test_wrong_outcomes_stand_out() -> None:
    spoilt = msgspec.structs.replace(GOOD, wrong=("state 17: nothing starts",))
    text = report.render([GOOD, spoilt])
    assert "**Wrong outcomes: 1.**" in text
    assert "* **wrong: state 17: nothing starts**" in text


def test_a_sample_of_one_scope_does_not_make_another_one_a_sample() -> None:
    counts = {
        "states without rescue": 100,
        "states with rescue": 200,
        "states with rescue and damage (1)": 300,
    }
    model = msgspec.structs.replace(GOOD, campaign="model", board="grub", counts=counts)
    note = "with rescue and damage (1): a sample, the states nearest to the factory's."
    text = report.render([msgspec.structs.replace(model, notes=(note,))])
    assert "| the same with rescue, all of them | counted | 200 | reached |" in text
    assert "with rescue and damage, all of them | counted | 300 | **missed: a sample** |" in text
    text = report.render([msgspec.structs.replace(model, notes=("with rescue: a sample.",))])
    assert "| the same with rescue, all of them | counted | 200 | **missed: a sample** |" in text
