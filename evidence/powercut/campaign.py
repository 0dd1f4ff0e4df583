"""Power cut at every write.

Whole operations are recorded on the real device in QEMU (record), the disks that a power cut can
leave are made from what was written (crashes) and judged (judge): the boot loader's view of the
ESP, slots against dm-verity, journal replay by the kernel, and then the decision code that ships,
until the device rests. Some are booted for real (real). docs/power-cuts.md explains it. Needs root.

Wrong is: nothing starts any more; the state is lost; a version that nobody asked for; the version
before, after the new one had been committed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evidence import result
from evidence.powercut import real, record
from evidence.powercut.replay import Replayed, replay
from recovery.errors import RefusedError

_MOST_WRONG = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    names = [operation.name for operation in record.OPERATIONS]
    parser.add_argument(
        "--operation", action="append", choices=names, metavar="NAME", help="only this one"
    )
    parser.add_argument("--boot", type=int, default=0, metavar="N", help="boot N states for real")
    parser.add_argument("--record-only", action="store_true", help="record, and judge nothing")


def run(arguments: argparse.Namespace) -> int:
    """Records what has not been recorded, judges a part, and writes the result with the last."""
    work: Path | None = arguments.work
    if work is None:
        raise RefusedError(
            "cannot run the campaign: it needs a folder",
            details="recordings take 3 GB",
            resolution="name one with --work",
        )
    work.mkdir(parents=True, exist_ok=True)
    chosen = [
        operation
        for operation in record.OPERATIONS
        if not arguments.operation or operation.name in arguments.operation
    ]
    recordings = []
    for operation in chosen:
        found = record.find(work, operation.name)
        if found is None:
            print(f"records {operation.name}", flush=True)
            found = record.record(work, operation)
        recordings.append(found)
    if arguments.record_only:
        return 0
    number, parts = arguments.part
    for recording in recordings:
        kept = work / recording.name / f"judged-{number}-of-{parts}.json"
        if not kept.exists():
            judged = replay(recording, part=arguments.part, progress=_Progress())
            keep(kept, judged)
    if arguments.boot:
        real.boot_sample(work, recordings, arguments.boot)
    return _finish(arguments, work, [recording.name for recording in recordings], parts)


def keep(path: Path, judged: Replayed) -> None:
    """Writes what a part found, whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(
        json.dumps(
            {"counts": judged.counts, "wrong": judged.wrong, "seconds": judged.seconds}, indent=1
        )
    )
    fresh.rename(path)


def merge(paths: Sequence[Path]) -> Replayed:
    """What all of the parts found."""
    found = Replayed()
    for path in paths:
        document = json.loads(path.read_text())
        found.counts.update(document["counts"])
        found.wrong += [f"{path.parent.name}: {text}" for text in document["wrong"]]
        found.seconds += document["seconds"]
    return found


def _finish(arguments: argparse.Namespace, work: Path, names: list[str], parts: int) -> int:
    every = [
        work / name / f"judged-{number}-of-{parts}.json"
        for name in names
        for number in range(1, parts + 1)
    ]
    missing = [path for path in every if not path.exists()]
    if missing:
        print(f"{len(missing)} parts are still to be judged")
        return 0
    found = merge(every)
    booted = real.booted(work, names)
    notes = [_described(work, name, parts) for name in names]
    found.counts.update(booted.counts)
    found.wrong += booted.wrong
    found.seconds += booted.seconds
    for text in found.wrong[:_MOST_WRONG]:
        print(f"wrong: {text}")
    for name, count in sorted(found.counts.items()):
        print(f"{count:9,} {name}")
    if not arguments.operation:
        write(found, notes, arguments.results)
    return 1 if found.wrong else 0


def _described(work: Path, name: str, parts: int) -> str:
    """What was found of one operation, in a line."""
    judged = merge([work / name / f"judged-{n}-of-{parts}.json" for n in range(1, parts + 1)])
    booted = real.booted(work, [name])
    return (
        f"{name}: {judged.counts['crash states judged']:,} states judged,"
        f" {booted.counts['crash states booted']} booted,"
        f" {len(judged.wrong) + len(booted.wrong)} wrong;"
        f" recorded at {(work / name / record.COMMIT).read_text()}"
    )


def write(found: Replayed, notes: Sequence[str], folder: Path) -> Path:
    """Writes the campaign's result."""
    first = ("crash states judged", "crash states booted", "distinct disks")
    order = [*first, *sorted(set(found.counts) - set(first))]
    counts = Counter({name: found.counts[name] for name in order})
    return result.record(
        "powercut",
        "python -m evidence powercut --work DIR --boot 200",
        counts,
        seconds=found.seconds,
        board=record.BOARD,
        wrong=found.wrong[:_MOST_WRONG],
        notes=notes,
        folder=folder,
    )


class _Progress:
    """Says every ten seconds how far it is."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._said >= 10:
            self._said = time.monotonic()
            print(text, flush=True)
