"""Fuzzes every parser that reads bytes which Orbital did not write.

Each target of the table (evidence/fuzz/targets.py) runs for --seconds: half of
it with changes made from a seed, half guided by coverage where atheris is
installed (pip install 'orbital[fuzz]'). Inputs that fail are kept in the work
directory as crash/TARGET/DIGEST; with --keep, inputs that reach new code are
added to the corpus in tests/hostile/corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from evidence import result
from evidence.fuzz.run import Found, mutations, run_inputs
from evidence.fuzz.target import Target
from evidence.fuzz.targets import TARGETS
from recovery import process

_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*([0-9]+)")
_KEPT_SIZE = 1024
_KEPT_COUNT = 4


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of its own."""
    parser.add_argument("--seconds", type=float, default=60, help="for each target (60)")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="of the changes made without guidance")
    parser.add_argument("--keep", action="store_true", help="add new inputs to the corpus")


def run(arguments: argparse.Namespace) -> int:
    """Runs what was asked for; 1 when an input failed."""
    work = arguments.work or Path(tempfile.mkdtemp(prefix="orbital-fuzz."))
    chosen = [target for target in TARGETS if arguments.target in (None, target.name)]
    if not chosen:
        raise SystemExit(f"no target {arguments.target}")
    number, parts = arguments.part
    for target in chosen[number - 1 :: parts]:
        done = work / f"{target.name}.json"
        if done.exists():
            continue
        began = time.monotonic()
        found = _one(target, work, arguments.seconds, arguments.seed, keep=arguments.keep)
        done.write_text(
            json.dumps(
                {
                    "executions": found.executions,
                    "refused": found.refused,
                    "seconds": time.monotonic() - began,
                    "failures": [text for _, text in found.failures],
                }
            )
        )
        say(f"{target.name}: {found.executions} inputs, {len(found.failures)} failed")
    return _report(work, arguments)


def _one(target: Target, work: Path, seconds: float, seed: int, *, keep: bool) -> Found:
    guided = importlib.util.find_spec("atheris") is not None
    found = run_inputs(target, target.seeds())
    share = seconds / 2 if guided else seconds
    more = run_inputs(target, mutations(target, seed, seconds=share, most=sys.maxsize))
    found.executions += more.executions
    found.refused += more.refused
    found.failures += more.failures
    if guided:
        _guided(target, work, max(1, round(seconds - share)), found, keep=keep)
    crashes = work / "crash" / target.name
    for data, text in found.failures:
        crashes.mkdir(parents=True, exist_ok=True)
        (crashes / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        say(f"{target.name}: {text}")
    return found


def _guided(target: Target, work: Path, seconds: int, found: Found, *, keep: bool) -> None:
    corpus, crashes = work / "corpus" / target.name, work / "guided" / target.name
    shutil.rmtree(crashes, ignore_errors=True)
    for directory in (corpus, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [
        f"-max_total_time={seconds}", f"-max_len={target.longest}", "-print_final_stats=1",
        f"-artifact_prefix={crashes}/", f"-timeout={round(target.seconds * 3)}", "-verbosity=0",
        "-rss_limit_mb=1536", f"-malloc_limit_mb={target.memory}",
    ]  # fmt: skip
    done = process.run(
        [sys.executable, "-m", "evidence.fuzz.guided", target.name, *options, corpus],
        check=False,
        timeout=seconds * 3 + 300,
        cwd=result.REPOSITORY,
    )
    executed = _EXECUTED.search(done.stderr)
    found.executions += int(executed[1]) if executed else 0
    artifacts = [path for path in sorted(crashes.iterdir()) if path.is_file()]
    for path in artifacts:
        found.failures.append((path.read_bytes(), f"{path.name}: {_reason(done.stderr)}"))
    if done.returncode and not artifacts:
        found.failures.append(
            (b"", f"the fuzzer ended with {done.returncode}: {done.stderr[-300:]}")
        )
    if keep:
        _keep(target, corpus)


def _keep(target: Target, corpus: Path) -> None:
    """Adds the smallest of the inputs that libFuzzer found worth keeping."""
    new = [path for path in corpus.iterdir() if not path.name.startswith("seed-")]
    small = sorted((path for path in new if path.stat().st_size <= _KEPT_SIZE), key=_size)
    present = [path for path in target.corpus.iterdir() if path.name.startswith("found-")]
    for path in small[: max(0, _KEPT_COUNT - len(present))]:
        data = path.read_bytes()
        name = f"found-{hashlib.sha256(data).hexdigest()[:12]}"
        (target.corpus / name).write_bytes(data)


def _size(path: Path) -> tuple[int, str]:
    return path.stat().st_size, path.name


def _reason(output: str) -> str:
    lines = [line for line in output.splitlines() if "Error" in line or "SUMMARY" in line]
    return lines[0].strip() if lines else "see its output"


def _report(work: Path, arguments: argparse.Namespace) -> int:
    done = {target.name: work / f"{target.name}.json" for target in TARGETS}
    read = {name: json.loads(path.read_text()) for name, path in done.items() if path.exists()}
    wrong = [f"{name}: {text}" for name, item in read.items() for text in item["failures"]]
    executions = sum(item["executions"] for item in read.values())
    say(f"{len(read)} of {len(TARGETS)} targets, {executions} inputs, {len(wrong)} failed")
    if len(read) == len(TARGETS):
        path = result.record(
            "fuzz",
            f"python -m evidence fuzz --seconds {arguments.seconds:g}",
            {
                "parsers fuzzed": len(read),
                "executions": executions,
                "inputs refused with a plain error": sum(i["refused"] for i in read.values()),
                "inputs that failed": len(wrong),
            },
            seconds=sum(item["seconds"] for item in read.values()),
            wrong=wrong,
            folder=arguments.results,
        )
        say(f"wrote {path}")
    return 1 if wrong else 0


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
