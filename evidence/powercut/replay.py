"""Replays a recorded operation: every crash state judged, the wrong ones kept.

An operation takes a device from what it ran before to what it runs afterwards. How far it has
come is its phase: 0, before, whatever happens; 1, afterwards if the trial goes well, before if
not; 2, afterwards, whatever happens. Right is each phase, in any state, but never back from 2: a
state that a flush has made durable in phase 2 has been told to the world.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evidence.powercut.boots import named
from evidence.powercut.crashes import Bounds, Crash, Write, crashes, epochs
from evidence.powercut.disk import Disk
from evidence.powercut.fat import Fat, FatError
from evidence.powercut.image import Image, read_image
from evidence.powercut.judge import Judge, Outcome
from evidence.powercut.metadata import Repository
from evidence.powercut.state import Files, StateReader
from evidence.powercut.table import find_table
from qemu import gpt
from qemu.blocklog import read_log
from qemu.errors import MachineError
from recovery import generations, state
from recovery.device import DeviceConfig

USUAL = Bounds()


@dataclass(frozen=True)
class Recording:
    """A recorded operation: the disk before it, and the writes.

    config: of the device. images: what slots may hold; None to find them on the disk.
    repository: with the metadata that was published last; None when it was not kept.
    """

    name: str
    base: Path
    log: Path
    config: DeviceConfig
    images: dict[str, Image] | None = None
    repository: Repository | None = None


@dataclass
class Replayed:
    """What a replay (or a part of one) found."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    seconds: float = 0.0


def replay(
    recording: Recording,
    *,
    part: tuple[int, int] = (1, 1),
    bounds: Bounds = USUAL,
    progress: Callable[[str], None] = lambda _text: None,
) -> Replayed:
    """Judges every crash state of the Kth of N parts of the log."""
    began = time.monotonic()
    found = Replayed()
    with _open(recording) as (every, disk, judge, ends):
        first, last = _share([len(writes) for writes in every], part)
        _advance(disk, every[:first])
        floor, remembers = phase(judge.judge(), *ends), not judge.judge().well.recovered
        durable = judge.judge().seen
        for flushes, writes in enumerate(every[first:last], first):
            for crash in crashes(disk, writes, flushes, bounds):
                _count(
                    found,
                    crash,
                    judge.judge(),
                    ends,
                    floor=floor,
                    remembers=remembers,
                    durable=durable,
                )
            floor = max(floor, phase(judge.judge(), *ends))
            remembers = remembers or not judge.judge().well.recovered
            durable = max(durable, judge.judge().seen)
            progress(
                f"{recording.name}: flush {flushes + 1} of {last},"
                f" {found.counts['crash states judged']} states, phase {floor}"
            )
        found.counts.update(judge.counts)
        found.repairs = judge.repairs
        found.counts["flushes"] += last - first
        found.counts["writes"] += sum(len(writes) for writes in every[first:last])
    found.seconds = time.monotonic() - began
    return found


def visit(
    recording: Recording, look: Callable[[int, Crash, Disk, Judge], None], *, last: int
) -> None:
    """Shows every crash state until number last, counted from 0 over the whole log."""
    with _open(recording) as (every, disk, judge, _):
        ordinal = 0
        for flushes, writes in enumerate(every):
            for crash in crashes(disk, writes, flushes, USUAL):
                look(ordinal, crash, disk, judge)
                ordinal += 1
                if ordinal > last:
                    return


@contextmanager
def _open(
    recording: Recording,
) -> Iterator[tuple[list[list[Write]], Disk, Judge, tuple[str, str]]]:
    """The writes between flushes, the disk before them, its judge, what ran before and after."""
    every = list(epochs(read_log(recording.log)))
    images, table = find_images(recording, every)
    disk = Disk(recording.base, images, table)
    with StateReader(disk) as reader:
        judge = Judge(disk, images, recording.config, reader, recording.repository)
        try:
            before = runs(reader.read())
            undone = [disk.write(w.offset, w.data) for writes in every for w in writes]
            after = runs(reader.read())
            for undo in reversed(undone):
                disk.undo(undo)
            del undone
            # A device that has never been on has no record: it runs what the factory gave it.
            yield every, disk, judge, (before or after, after)
        finally:
            judge.close()


def phase(outcome: Outcome, before: str, after: str) -> int:
    """How far the operation has come; -1 when the outcome is wrong in every phase."""
    ends = (outcome.well.runs, outcome.ill.runs)
    return {(before, before): 0, (after, before): 1, (after, after): 2}.get(ends, -1)


def _count(
    found: Replayed,
    crash: Crash,
    outcome: Outcome,
    runs: tuple[str, str],
    *,
    floor: int,
    remembers: bool,
    durable: tuple[int, int],
) -> None:
    """floor: the phase that is durable. remembers: the device's record is durable, too.

    durable: versions of metadata that the device remembers for good.
    """
    counts = found.counts
    counts["crash states judged"] += 1
    counts[f"{crash.kind} states"] += 1
    reached = phase(outcome, *runs)
    counts[("", "as before", "on trial", "as afterwards")[reached + 1] or "wrong"] += 1
    problem = ""
    if outcome.problem:
        problem = f"STATE LOST: {outcome.problem}"
    elif not outcome.well.runs or not outcome.ill.runs:
        problem = f"BRICKED: {outcome.well.problem or outcome.ill.problem}"
    elif remembers and (outcome.well.recovered or outcome.ill.recovered):
        problem = "STATE LOST: the record of the device was made anew"
    elif reached < 0:
        problem = f"WRONG: comes to rest with {outcome.well.runs} / {outcome.ill.runs}"
    elif floor == 2 and reached < 2:
        problem = f"LOST: {runs[1]} had been committed, {outcome.ill.runs} runs"
    elif not outcome.reset and (outcome.well.visits or outcome.ill.visits):
        problem = "RESCUE: nobody asked for it, and it was needed"
    elif outcome.untrusting:
        problem = f"UNTRUSTING: {outcome.untrusting}"
    elif outcome.seen < durable:
        problem = f"FORGOTTEN: versions {durable} of metadata had been seen, now {outcome.seen}"
    elif reached < floor:
        counts["trials over because of the cut"] += 1
    if outcome.reset:
        counts["resets that rescue carried out after the cut"] += 1
    if problem:
        counts["wrong outcomes"] += 1
        found.wrong.append(f"{problem}: {crash}")


def runs(files: Files) -> str:
    """What the device of that state has committed."""
    if files.problem:
        raise MachineError(f"cannot use the recording: its state {files.problem}")
    if "state.json" not in files.content:
        return ""
    record = state.decode(files.content["state.json"])
    generation = generations.decode(files.content[f"generations/{record.committed}.json"])
    return named(generation, files.content)


def find_images(
    recording: Recording, every: list[list[Write]]
) -> tuple[dict[str, Image], tuple[gpt.Partition, ...]]:
    """The images that slots hold whole before or after the operation, by root hash.

    And the partitions afterwards: they only grow.
    """
    content = np.memmap(recording.base, dtype=np.uint8, mode="c")
    images = dict(recording.images or {})
    table: tuple[gpt.Partition, ...] = ()
    for _ in range(2):
        table = find_table(content)
        parts = {p.label: content[p.offset : p.offset + p.size] for p in table}
        for slot in "ab" if recording.images is None else "":
            try:
                artifact = Fat(parts["esp"]).read(f"EFI/orbital/{slot}.efi")
                image = read_image(slot, artifact, parts[f"root-{slot}"])
            except (FatError, MachineError):
                continue
            images.setdefault(image.root_hash, image)
        for writes in every:
            for write in writes:
                data = np.frombuffer(write.data, dtype=np.uint8)
                content[write.offset : write.offset + data.size] = data
    return images, table


def _advance(disk: Disk, every: list[list[Write]]) -> None:
    for writes in every:
        for write in writes:
            disk.write(write.offset, write.data)


def _share(sizes: list[int], part: tuple[int, int]) -> tuple[int, int]:
    """Which epochs belong to the Kth of N parts: first and one past the last."""
    number, parts = part
    total = sum(sizes)
    bounds, done = [0], 0
    for index, size in enumerate(sizes, 1):
        done += size
        while len(bounds) < parts and done >= total * len(bounds) / parts:
            bounds.append(index)
    bounds += [len(sizes)] * (parts + 1 - len(bounds))
    bounds[-1] = len(sizes)
    return bounds[number - 1], bounds[number]
