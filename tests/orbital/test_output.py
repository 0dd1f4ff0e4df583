"""Progress and results on a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import io
import json

import pytest

from orbital.output import Output, amount
from recovery.errors import TrustError


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def shown(terminal: Terminal) -> list[str]:
    """The lines that a terminal shows at the end: each after its last redraw."""
    return [line.rpartition("\x1b[K")[2] for line in terminal.getvalue().split("\n")]


def test_in_a_pipe_each_stage_and_each_tenth_is_a_line() -> None:
    errors = io.StringIO()
    reporter = Output(stdout=io.StringIO(), stderr=errors).reporter
    reporter.stage("download")
    for done in range(0, 101, 5):
        reporter.progress(done, 100)
    reporter.message("slow network")
    reporter.stage("verify")
    reporter.progress(0, 0)
    assert errors.getvalue().splitlines() == [
        "download",
        *(f"download: {tenth}0%" for tenth in range(1, 11)),
        "slow network",
        "verify",
        "verify: 100%",
    ]


def test_on_a_terminal_a_stage_is_one_line_that_redraws_itself() -> None:
    terminal = Terminal()
    output = Output(stdout=io.StringIO(), stderr=terminal)
    output.reporter.stage("download")
    output.reporter.progress(1 << 20, 4 << 20)
    output.reporter.message("slow network")
    output.reporter.progress(4 << 20, 4 << 20)
    output.close()
    first, last, rest = shown(terminal)
    assert first == "slow network"
    assert last.startswith("download [##############################] 100%  4.0 MiB of 4.0 MiB")
    assert last.endswith("/s")
    assert rest == ""


def test_a_terminal_is_not_flooded() -> None:
    terminal = Terminal()
    output = Output(stdout=io.StringIO(), stderr=terminal)
    output.reporter.stage("write")
    for done in range(100_000):
        output.reporter.progress(done, 1 << 30)
    assert terminal.getvalue().count("\r") < 200


@pytest.mark.parametrize("total", [10, 1 << 40])
def test_the_bar_fits_on_the_line(total: int) -> None:
    terminal = Terminal()
    output = Output(stdout=io.StringIO(), stderr=terminal)
    output.reporter.stage("a stage with a rather long name that leaves little room")
    output.reporter.progress(total, total)
    assert all(len(line) < 80 for line in shown(terminal))


def test_with_json_only_the_result_is_on_stdout() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    output = Output(json=True, stdout=stdout, stderr=stderr)
    output.line("for people")
    output.reporter.stage("work")
    output.result({"version": "2.0"}, "version 2.0")
    assert json.loads(stdout.getvalue()) == {"version": "2.0"}
    assert stderr.getvalue() == "work\n"


def test_without_json_the_result_is_text() -> None:
    stdout = io.StringIO()
    output = Output(stdout=stdout, stderr=io.StringIO())
    output.line("for people")
    output.result({"version": "2.0"}, "version 2.0")
    assert stdout.getvalue() == "for people\nversion 2.0\n"


def test_an_error_shows_brief_details_and_resolution() -> None:
    stderr = io.StringIO()
    error = TrustError("cannot trust x", details="one\ntwo", resolution="fetch again")
    Output(stdout=io.StringIO(), stderr=stderr).error(error)
    assert stderr.getvalue() == "orbital: cannot trust x\n  one\n  two\n  fetch again\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_amounts_are_readable(count: int, text: str) -> None:
    assert amount(count) == text
