"""`python -m evidence NAME ...`: runs a campaign, or writes docs/evidence.md (`report`).

A campaign is a module `evidence.NAME.campaign` (or `evidence.NAME`) with
`configure(parser)` and `run(arguments) -> int`. Every one of them takes
--work (where it stopped, to go on from there), --part K/N and --results.
Exit code 1: outcomes were wrong.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence import report
from evidence.result import RESULTS
from recovery.errors import OrbitalError

# In the order in which `all` runs them: quick ones first.
CAMPAIGNS = {
    "model": "evidence.model.campaign",
    "soak": "evidence.soak.campaign",
    "hostile": "evidence.hostile.campaign",
    "fuzz": "evidence.fuzz.campaign",
    "powercut": "evidence.powercut.campaign",
}


def part(text: str) -> tuple[int, int]:
    """K/N: the Kth of N parts, from 1."""
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N")
    return int(match[1]), int(match[2])


def main(arguments: Sequence[str]) -> int:
    """Runs what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("name", choices=[*CAMPAIGNS, "all", "report"], help="what to run")
    chosen = parser.parse_args(arguments[:1])
    rest = list(arguments[1:])
    if chosen.name == "report":
        argparse.ArgumentParser(prog="python -m evidence report").parse_args(rest)
        report.write()
        print(f"wrote {report.DOCUMENT}")
        return 0
    names = list(CAMPAIGNS) if chosen.name == "all" else [chosen.name]
    codes = [run_campaign(name, rest, common=chosen.name == "all") for name in names]
    if chosen.name == "all":
        report.write()
    return max(codes)


def run_campaign(name: str, rest: Sequence[str], *, common: bool) -> int:
    """One campaign. common: only the options that all of them have are known."""
    module = importlib.import_module(CAMPAIGNS[name])
    parser = argparse.ArgumentParser(
        prog=f"python -m evidence {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where it keeps what it did, to go on from there"
    )
    parser.add_argument("--part", type=part, default=(1, 1), metavar="K/N", help="the Kth of N")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="where the result is written"
    )
    if common:
        known = vars(parser.parse_args(rest))
        module.configure(parser)
        given = parser.parse_args([], argparse.Namespace(**known))
        if given.work is not None:
            given.work = given.work / name
    else:
        module.configure(parser)
        given = parser.parse_args(rest)
    try:
        return int(module.run(given))
    except OrbitalError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
