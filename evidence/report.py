"""docs/evidence.md: every figure of every result, beside the aims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence.result import REPOSITORY, Result, load_all

DOCUMENT = REPOSITORY / "docs" / "evidence.md"


@dataclass(frozen=True)
class Aim:
    """A figure of issue 6: at least this many of that count, summed over the boards.

    whole: that no run noted it as a sample is part of the aim.
    """

    what: str
    campaign: str
    count: str
    least: int
    whole: bool = False


AIMS = (
    Aim("crash states judged", "powercut", "crash states judged", 50_000),
    Aim("crash states booted", "powercut", "crash states booted", 200),
    Aim("states of the boot decision, all of them", "model", "states without rescue", 1),
    Aim("the same with rescue, all of them", "model", "states with rescue", 1, whole=True),
    Aim(
        "the same with rescue and damage, all of them",
        "model",
        "states with rescue and damage (1)",
        1,
        whole=True,
    ),
    Aim("attacks of a repository refused", "hostile", "attacks refused", 1),
    Aim("fuzz executions", "fuzz", "executions", 1),
    Aim("soak cycles on the model", "soak", "cycles", 1_000),
    Aim("soak cycles in QEMU", "soak-qemu", "cycles", 100),
)

_CAMPAIGNS = {
    "powercut": "Power cut at every write ([power-cuts.md](power-cuts.md))",
    "model": "Termination: the boot decision, model-checked",
    "hostile": "Hostile and broken input ([hostile.md](hostile.md))",
    "fuzz": "Fuzzing of every parser ([hostile.md](hostile.md))",
    "soak": "Soak: updates, rollbacks, packages and power cuts, on the model",
    "soak-qemu": "Soak: the same on the device that ships, in QEMU",
}

_HEAD = """\
# Evidence

Written by `python -m evidence report` from `evidence/results/`; not by hand. A figure is of the run
whose command stands beside it, at the commit that stands beside it ("+": with changes that were not
committed yet). What a campaign explores and what it leaves out is in its module's docstring.
"""


def write(path: Path = DOCUMENT) -> str:
    """Writes the document anew and returns it. Raises ValueError when a result is malformed."""
    text = render(load_all())
    path.write_text(text)
    return text


def render(results: Sequence[Result]) -> str:
    """The document."""
    parts = [_HEAD, _wrong(results), _aims(results)]
    names = [*_CAMPAIGNS, *sorted({r.campaign for r in results} - set(_CAMPAIGNS))]
    for name in names:
        parts.append(_campaign(name, [r for r in results if r.campaign == name]))
    return "\n".join(parts)


def _wrong(results: Sequence[Result]) -> str:
    wrong = sum(len(result.wrong) for result in results)
    if not results:
        return "**No campaign has been run.**\n"
    if wrong:
        return f"**Wrong outcomes: {wrong}.** They are listed with their campaigns.\n"
    return "Wrong outcomes in all campaigns: 0.\n"


def _aims(results: Sequence[Result]) -> str:
    lines = ["## Beside the aims", "", "| | aim | measured | |", "|---|---|---|---|"]
    for aim in AIMS:
        runs = [r for r in results if r.campaign == aim.campaign and aim.count in r.counts]
        aimed = f"at least {aim.least:,}" if aim.least > 1 else "counted"
        if not runs:
            if any(r.campaign == aim.campaign for r in results):
                raise ValueError(
                    f"cannot compare {aim.campaign} with its aim: no result counts {aim.count!r}"
                )
            lines.append(f"| {aim.what} | {aimed} | none | **not run** |")
            continue
        measured = sum(run.counts[aim.count] for run in runs)
        verdict = "reached" if measured >= aim.least else "**missed**"
        scope = aim.count.removeprefix("states ")
        sample = f"{scope}: a sample"
        if aim.whole and any(note.startswith(sample) for run in runs for note in run.notes):
            verdict = "**missed: a sample**"
        lines.append(f"| {aim.what} | {aimed} | {measured:,} | {verdict} |")
    return "\n".join(lines) + "\n"


def _campaign(name: str, results: Sequence[Result]) -> str:
    lines = [f"## {_CAMPAIGNS.get(name, name)}", ""]
    if not results:
        return "\n".join([*lines, "**Not run yet.**"]) + "\n"
    for result in results:
        if result.board:
            lines += [f"### {result.board}", ""]
        lines += ["| | |", "|---|---|"]
        lines += [f"| {count} | {number:,} |" for count, number in result.counts.items()]
        wrong = f"**{len(result.wrong)}**" if result.wrong else "0"
        lines += [f"| wrong outcomes | {wrong} |", ""]
        lines += [f"* **wrong: {text}**" for text in result.wrong]
        lines += [f"* {text}" for text in result.notes]
        if result.wrong or result.notes:
            lines.append("")
        lines += [
            f"`{result.command}` ({_duration(result.seconds)}, {result.date}, {result.commit})",
            "",
        ]
    return "\n".join(lines)


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
