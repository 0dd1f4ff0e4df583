"""Hostile and broken input, beside fuzzing (`fuzz`): everything once.

Repositories that attack (tests/hostile/table.py), state partitions of which a
file was edited (evidence/hostile/damage.py), disks that fail at each operation
of an update, or of a package change, commit or rollback, or are full
(tests/hostile/disks.py, disk_changes.py). Needs root for the second and
the last: loop devices and mount namespaces.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evidence import result
from evidence.hostile import state
from recovery.errors import ToolError

# Cases that run in one process; what is done is kept after each.
_PIECES = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of its own."""
    parser.add_argument("--only", choices=sorted(_STEPS), help="only this part; writes no result")


def run(arguments: argparse.Namespace) -> int:
    """Runs what is not done yet; 1 when an outcome was wrong."""
    if not state.available():
        raise ToolError("cannot judge state partitions: it needs root and loop devices")
    work = arguments.work or Path(tempfile.mkdtemp(prefix="orbital-hostile."))
    work.mkdir(parents=True, exist_ok=True)
    pieces = [(name, number) for name in _STEPS for number in range(_PIECES)]
    pieces = [item for item in pieces if arguments.only in (None, item[0])]
    first, parts = arguments.part
    for name, number in pieces[first - 1 :: parts]:
        done = work / f"{name}-{number}.json"
        if done.exists():
            continue
        began = time.monotonic()
        counts, wrong = _STEPS[name](number)
        seconds = time.monotonic() - began
        done.write_text(json.dumps({"counts": counts, "wrong": wrong, "seconds": seconds}))
        say(f"{name} {number + 1}/{_PIECES}: {counts}, {len(wrong)} wrong")
        for text in wrong:
            say(f"  {text}")
    return _report(work, arguments, len(pieces))


def _report(work: Path, arguments: argparse.Namespace, expected: int) -> int:
    read = [json.loads(path.read_text()) for path in sorted(work.glob("*-*.json"))]
    counts: dict[str, int] = {}
    for item in read:
        for name, number in item["counts"].items():
            counts[name] = counts.get(name, 0) + number
    wrong = [text for item in read for text in item["wrong"]]
    counts["wrong outcomes"] = len(wrong)
    say(f"{counts}")
    if len(read) == expected and arguments.only is None:
        elsewhere = importlib.import_module("tests.hostile.table").ELSEWHERE
        counts["attacks in tests of their own"] = sum(len(made) for made in elsewhere.values())
        path = result.record(
            "hostile",
            "python -m evidence hostile",
            counts,
            seconds=sum(item["seconds"] for item in read),
            wrong=wrong,
            notes=("each attack is refused in bounded time and space, and a good update follows",),
            folder=arguments.results,
        )
        say(f"wrote {path}")
    return 1 if wrong else 0


def _attacks(piece: int) -> tuple[dict[str, int], list[str]]:
    table = importlib.import_module("tests.hostile.table").ATTACKS[piece::_PIECES]
    judged = importlib.import_module("tests.hostile.judge").judged
    wrong = []
    for attack in table:
        with pytest.MonkeyPatch.context() as patch:
            # No power is cut here.
            patch.setattr(os, "fsync", lambda _fd: None)
            problem = judged(attack)
        if problem:
            wrong.append(f"{attack.name}: {problem}")
    return {"attacks refused": len(table) - len(wrong)}, wrong


def _states(piece: int) -> tuple[dict[str, int], list[str]]:
    cases, volatile, wrong = state.judge(piece, _PIECES)
    return {"edited states judged": cases, "of these volatile": volatile}, wrong


def _disks(piece: int) -> tuple[dict[str, int], list[str]]:
    disks = importlib.import_module("tests.hostile.disks")
    wrong = []
    cases = 0
    with disks.bench() as bench:
        for name, problem in _judged(disks, bench, piece):
            cases += 1
            if problem:
                wrong.append(f"{name}: {problem}")
    return {"updates on failing disks": cases}, wrong


def _judged(disks: Any, bench: Any, piece: int) -> Iterator[tuple[str, str]]:
    for at in range(piece, bench.operations(), _PIECES):
        for name, error in disks.ERRORS.items():
            for lasting in (False, True):
                when = "from then on" if lasting else "once"
                yield f"operation {at}, {name}, {when}", bench.judge(at, error, lasting=lasting)
    for inodes, most in ((True, 14), (False, 60)):
        for left in range(piece, most, _PIECES):
            what = "inodes" if inodes else "blocks"
            yield f"{left} {what} left", disks.judge_full(bench, left, inodes=inodes)


def _changes(piece: int) -> tuple[dict[str, int], list[str]]:
    """Changes of packages, commits, rollbacks: each operation, each error."""
    changes = importlib.import_module("tests.hostile.disk_changes")
    errors = importlib.import_module("tests.hostile.disks").ERRORS
    wrong: list[str] = []
    cases = 0
    with tempfile.TemporaryDirectory(prefix="orbital-disks.") as name, _no_waiting():
        base = Path(name)
        for change in changes.CHANGES:
            for at in range(piece, changes.operations(change, base / "whole"), _PIECES):
                for kind, error in errors.items():
                    for lasting in (False, True):
                        cases += 1
                        place = base / "device"
                        problem = changes.judge(change, place, at, error, lasting=lasting)
                        when = "from then on" if lasting else "once"
                        if problem:
                            wrong.append(
                                f"{change.name}, operation {at}, {kind}, {when}: {problem}"
                            )
    return {"other changes on failing disks": cases}, wrong


@contextmanager
def _no_waiting() -> Iterator[None]:
    """No power is cut here, so no disk need be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: None)
        yield


_STEPS = {"attacks": _attacks, "changes": _changes, "disks": _disks, "states": _states}


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
