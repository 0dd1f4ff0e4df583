"""Makes the frames of a delta between two streams: match, plan, then encode on all cores.

Reads top to bottom: `make` says what happens in which order. Everything that costs time is a
job without a state of its own (`imager.delta.jobs`), so the result does not depend on how many
work on it. In memory are the frames that are being encoded and the payloads so far.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeVar

from imager.delta import jobs
from imager.delta.jobs import EncodeJob
from imager.delta.match import Unit
from imager.delta.plan import FramePlan, Pair, Wanted, plan
from imager.delta.predict import with_predictions
from imager.delta.streams import CodePair, Streams
from recovery.reporter import Reporter, SilentReporter

Kind = Literal["erofs", "plain"]

# Of a frame, as a rule: 8 MiB with pieces of 4 MiB.
PIECES = 2
# A payload that saves less than this is not worth the base's being read.
WORTH = 0.8
LEVEL = 19

_Task = TypeVar("_Task", bound=jobs.Job)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Frame:
    """pieces: how many pieces of the new stream it makes. payload: empty when these are to be
    fetched in full."""

    pieces: int
    payload: bytes


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything is encoded."""

    units: tuple[Unit, ...]
    frames: tuple[FramePlan, ...]
    code: tuple[CodePair, ...]


def make(
    old: Path,
    old_size: int,
    new: Path,
    new_size: int,
    *,
    piece: int,
    full_sizes: Sequence[int] = (),
    kind: Kind = "erofs",
    pieces: int = PIECES,
    level: int = LEVEL,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> list[Frame]:
    """Frames, in order, that make the first new_size bytes of new out of those of old.

    piece: bytes of a piece. full_sizes: what each piece costs to fetch in full; a frame that
    saves too little is left out (without full_sizes, none is). kind: "erofs" when both are
    images to look into; anything else is "plain". pieces: of a frame. workers: processes, all
    cores when None; the result is the same for any number.

    Raises ToolError when an image cannot be read.
    """
    from imager.delta.opened_stream import make_opened

    reporter = reporter or SilentReporter()
    paths = old, old_size, new, new_size
    frames = None
    if kind == "erofs":
        frames = make_opened(paths, piece=piece, level=level, workers=workers, reporter=reporter)
    if frames is None:
        with Streams.open(*paths) as streams:
            reporter.stage("delta: match")
            prepared = prepare(streams, piece=piece, pieces=pieces, kind=kind)
        with hired(workers or os.cpu_count() or 1, paths) as crew:
            rewrites = learned(prepared, crew, reporter)
            payloads = _encode(prepared.frames, rewrites, level, crew, reporter)
        frames = list(map(Frame, (frame.pieces for frame in prepared.frames), payloads))
    return list(_worth(frames, full_sizes))


def _worth(frames: Sequence[Frame], full_sizes: Sequence[int]) -> Iterator[Frame]:
    """The frames without the payloads that save too little."""
    at = 0
    for frame in frames:
        full = sum(full_sizes[at : at + frame.pieces])
        worth = not full_sizes or len(frame.payload) <= WORTH * full
        yield frame if worth else Frame(frame.pieces, b"")
        at += frame.pieces


def prepare(streams: Streams, *, piece: int, pieces: int = PIECES, kind: Kind = "erofs") -> Plan:
    """What would be encoded out of what. Raises ToolError when an image cannot be read."""
    layouts = streams.layouts() if kind == "erofs" else None
    units, code = streams.matched(layouts) if layouts else streams.compared()
    is_code = frozenset(pair.numbers for pair in code)
    frames = plan(units, len(streams.new), piece=piece, pieces=pieces, is_code=is_code)
    if layouts:
        frames = list(with_predictions(frames, units, layouts, streams, is_code=is_code))
    return Plan(tuple(units), tuple(frames), tuple(code))


class Crew:
    """Runs jobs, in a pool of processes or in this one."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def run(
        self,
        work: Callable[[_Task], _Result],
        tasks: Sequence[_Task],
        done: Callable[[_Task], None],
    ) -> list[_Result]:
        """The results in the order of the tasks; done is called as each is finished."""
        if self._pool is None:
            found: list[_Result] = []
            for task in tasks:
                found.append(work(task))
                done(task)
            return found
        # The largest first: none of them is left for the end, when the others have nothing to do.
        order = sorted(range(len(tasks)), key=lambda number: (-tasks[number].cost, number))
        futures: dict[Future[_Result], int] = {
            self._pool.submit(work, tasks[number]): number for number in order
        }
        results: dict[int, _Result] = {}
        try:
            for future in as_completed(futures):
                number = futures[future]
                results[number] = future.result()
                done(tasks[number])
        except BaseException:
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [results[number] for number in range(len(tasks))]


@contextmanager
def hired(workers: int, streams: tuple[Path, int, Path, int]) -> Iterator[Crew]:
    if workers == 1:
        with jobs.opened(*streams):
            yield Crew(None)
        return
    # Not forked: the caller may have threads, and what they hold locked would stay so.
    context = get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=jobs.open_streams, initargs=streams
    ) as pool:
        yield Crew(pool)


def learned(prepared: Plan, crew: Crew, reporter: Reporter) -> dict[Wanted, bytes]:
    """How the old code is rewritten, for each reference to code where that is known."""
    wanted: dict[Pair, list[Wanted]] = {pair.numbers: [] for pair in prepared.code}
    for frame in prepared.frames:
        for reference in frame.references:
            if reference.pair is not None:
                wanted[reference.pair].append(reference)
    used = [pair for pair in prepared.code if wanted[pair.numbers]]
    tasks = [
        jobs.LearnJob(pair, tuple((item.start, item.span.size) for item in wanted[pair.numbers]))
        for pair in used
    ]
    reporter.stage("delta: executables")
    results = crew.run(jobs.learn, tasks, progressing(tasks, reporter))
    return {
        reference: rewrite
        for pair, rewrites in zip(used, results, strict=True)
        for reference, rewrite in zip(wanted[pair.numbers], rewrites, strict=True)
        if rewrite is not None
    }


def _encode(
    frames: Sequence[FramePlan],
    rewrites: dict[Wanted, bytes],
    level: int,
    crew: Crew,
    reporter: Reporter,
) -> list[bytes]:
    tasks = [
        EncodeJob(frame, tuple(rewrites.get(item) for item in frame.references), level)
        for frame in frames
    ]
    reporter.stage("delta: encode")
    return crew.run(jobs.encode, tasks, progressing(tasks, reporter))


def progressing(tasks: Sequence[jobs.Job], reporter: Reporter) -> Callable[[jobs.Job], None]:
    total = sum(task.cost for task in tasks)
    done = 0

    def finished(task: jobs.Job) -> None:
        nonlocal done
        done += task.cost
        reporter.progress(done, total)

    return finished
