"""`python -m evidence model`: the boot decision with every loader, to the last state.

For each kind of loader, without and with a rescue system, with `--damage` events of
damage: explores every state (evidence.model.explore says which events there are), then
lets every state come to rest in every world (evidence.model.check). Checked:

* a committed image is never lost, and something can start it;
* a half-written slot is never started, nor by itself a version that is quarantined;
* without anything from outside every device comes to rest: in a slot, or, when none is
  healthy, in the rescue system; never in a circle;
* a healthy slot that may be started is reached, and the most boots that it takes.

A state is a device and its start record, at rest between two boots. All states are followed, not
those within some bound: the number is finite because of what is left out, which decides nothing.

* Of a device (`evidence.model.device.canonical`): times, texts (whether there is a reason, not
  which), the history, names of versions and numbers of generations (which are equal and which is
  newer stays), generations that nothing names and no slot could run, quarantines of versions that
  are gone. Of the loader's record (`evidence.model.records`): the bytes are kept, but of U-Boot's
  flags and of systemd-boot's activation numbers only their order.
* Of the start record (`Wish`): the action's kind, the reason but for "a person asked", which image
  is meant but for its slot. Unfinished starts and loads are counted up to the number that they
  are compared with. `--starts 3` makes that number smaller than the product's 8.

That such devices and records boot alike is tested (`tests/evidence/test_model.py`). What rots,
rots once in a life (`--damage 1`), as a whole: an image, an artifact, the loader's record, the
state file system, the state record, the start record. Noise that is a valid record of something
else is not explored.

`--states N` stops an exploration with damage there: a sample, and the result says so.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evidence.model.boot import POLICY
from evidence.model.check import Findings, check_rest, check_states
from evidence.model.device import Board
from evidence.model.explore import Explored, Limits, explore
from evidence.model.records import KINDS, Kind
from evidence.result import record
from recovery.starts import MOST_LOADS, MOST_UNFINISHED

Returns = Literal["", "rescue"]
RETURNS: Mapping[Kind, Returns] = {
    "systemd-boot": "rescue",
    "grub": "",
    "u-boot": "",
    "tryboot": "rescue",
}
"""What the firmware may do when it cannot start a slot's artifact (evidence.model.device.Board)."""


@dataclass(frozen=True)
class Scope:
    """One exploration. starts: unfinished starts before rescue is asked for. states: 0 for all.
    returns: see `Board`."""

    kind: Kind
    rescue: bool
    damage: int
    starts: int
    states: int
    returns: Returns = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--loader", choices=KINDS, action="append", help="only this one")
    parser.add_argument("--damage", type=int, default=1, help="how often something rots")
    parser.add_argument(
        "--starts",
        type=int,
        default=MOST_UNFINISHED,
        help="unfinished starts before rescue is asked for",
    )
    parser.add_argument(
        "--states", type=int, default=0, help="stop there where there is damage: a sample"
    )
    parser.add_argument("--without-rescue", action="store_true", help="only boards without it")


def check(scope: Scope) -> tuple[Explored, Findings]:
    """Explores and checks; says on the console what was found."""
    begun = time.process_time()
    most_loads = scope.starts - 1
    if scope.kind == "systemd-boot":
        # Its driver counts tries, too (recovery/bootcontrol/loads.py).
        most_loads = max(most_loads, POLICY.tries + 1)
    board = Board(
        scope.kind,
        scope.rescue,
        returns=scope.returns,
        most_starts=scope.starts,
        most_loads=min(most_loads, MOST_LOADS),
    )
    explored = explore(board, Limits(damage=scope.damage), most=scope.states)
    print(
        f"{scope.kind}: {explored.states} states of {len(explored.found)} devices, "
        f"{time.process_time() - begun:.0f} s of the CPU",
        flush=True,
    )
    findings = Findings()
    check_states(explored, findings)
    for network in (True, False) if scope.rescue else (False,):
        check_rest(explored, findings, network=network)
    print(
        f"{scope.kind}, {'rescue' if scope.rescue else 'no rescue'}, damage {scope.damage}: "
        f"{explored.states} states{'' if explored.complete else ' (a sample)'}, "
        f"{explored.transitions} transitions, {findings.runs} runs to rest, "
        f"{findings.longest} boots at most, {time.process_time() - begun:.0f} s of the CPU",
        flush=True,
    )
    for kind, text in findings.wrong.items():
        print(f"  WRONG ({findings.often[kind]} times): {kind}: {text}", flush=True)
    return explored, findings


def run(arguments: argparse.Namespace) -> int:
    """The campaign."""
    code = 0
    # Millions of values and not one circle of references.
    gc.disable()
    for kind in arguments.loader or KINDS:
        begun = time.monotonic()
        scopes = [Scope(kind, False, 0, arguments.starts, 0)]
        if not arguments.without_rescue:
            scopes += [
                Scope(
                    kind, True, damage, arguments.starts, damage and arguments.states, RETURNS[kind]
                )
                for damage in dict.fromkeys((0, arguments.damage))
            ]
        counts: dict[str, int] = {}
        wrong: list[str] = []
        notes: list[str] = []
        for scope in scopes:
            explored, findings = check(scope)
            name = "with rescue" if scope.rescue else "without rescue"
            if scope.damage:
                name = f"with rescue and damage ({scope.damage})"
            if not explored.complete:
                notes.append(
                    f"{name}: a sample, the states nearest to the factory's, not all of them."
                )
            for count, number in (
                ("states", explored.states),
                ("transitions", explored.transitions),
                ("runs to rest", findings.runs),
            ):
                counts[count] = counts.get(count, 0) + number
                counts[f"{count} {name}"] = number
            counts[f"boots to rest at most, {name}"] = findings.longest
            counts[f"runs that end in rescue for a person, {name}"] = (
                findings.waited + findings.gave_up
            )
            wrong += [
                f"{name}: {kind_of} ({findings.often[kind_of]} runs), as in: {text}"
                for kind_of, text in findings.wrong.items()
            ]
        code = max(code, int(bool(wrong)))
        options = f" --damage {arguments.damage} --starts {arguments.starts}"
        options += f" --states {arguments.states}" if arguments.states else ""
        options += " --without-rescue" if arguments.without_rescue else ""
        record(
            "model",
            f"python -m evidence model --loader {kind}{options}",
            counts,
            seconds=time.monotonic() - begun,
            board=kind,
            wrong=wrong,
            notes=notes,
            folder=arguments.results,
        )
    return code
