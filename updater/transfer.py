"""Moving a stream onto a medium: fetch or make, verify, write and read back overlap.

Worker threads take the runs one by one through two tasks. Place: make the run
from the base image, or fetch → digest of the stored bytes → decompress; write
what the medium does not hold yet. Then, once this thread has flushed the
medium, check: read back what is there now, a piece at a time, and hand it to the
check, which is what decides. hashlib, zstandard and the system calls release the interpreter's
lock, so tasks of both kinds run beside each other on all cores. In memory are
as many runs as there are workers, with their stored form.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, Protocol

import zstandard

from manifests.index import Segment, chunk_path
from recovery.errors import OrbitalError, TrustError
from updater import medium
from updater.medium import Medium
from updater.runs import Piece, Run
from updater.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from delta.frame import Base

WORKERS = 4
PATCHING_WORKERS = 2
# Bytes that are read of the medium at once, to compare and to check: they stay in the cache.
_READ = 1 << 20
# A worker gives back the memory of a longer run: these are few, and others need it meanwhile.
_HELD = 8 << 20

Check = Callable[[int, memoryview], None]


class Maker(Protocol):
    """Makes runs from the base; see `updater.making.Making`."""

    def make(
        self, run: Run, missing: Sequence[Piece], base: Base, into: memoryview
    ) -> Sequence[Piece]:
        """Fills into, which has the run's size; those of the missing pieces that have to be
        fetched in full. Raises FetchError when the source is gone.
        """


@dataclass(frozen=True)
class Transferred:
    """What a transfer moved, in bytes.

    fetched: stored bytes of segments that were fetched. kept: of pieces that were on
    the medium already. written: to the medium, all other blocks being as they should.
    """

    fetched: int
    kept: int
    written: int


def transfer(
    runs: Sequence[Run],
    source: Source,
    target: Medium,
    *,
    resume: bool,
    check: Check | None,
    progress: Callable[[int, int], None],
    maker: Maker | None = None,
    base: Base | None = None,
    workers: int | None = None,
) -> Transferred:
    """Writes the runs to the target and reads all of it back through check(offset, data).

    resume: pieces that the target already holds are recognised by their
    digest and not fetched. check is called in several threads, in any order, with
    pieces of whole blocks; data is only valid during the call. Without one nothing is
    read back: that is left to the caller. progress(done, total) counts bytes that are
    done with, in this thread. maker, base: what makes the
    runs that need not be fetched in full; without them all are. workers: at most so many
    runs are in memory; None: as many as are quickest.

    Power cut at any point: some pieces are on the medium, some are not; the
    next run recognises those that are.

    Raises TrustError for wrong data, and what source and target raise.
    """
    # A run made from the base is longer than a segment, and so is what it is made of.
    quickest = WORKERS if maker is None else PATCHING_WORKERS
    job = _Job(
        runs,
        source,
        target,
        resume=resume,
        check=check,
        maker=maker,
        base=base,
        workers=workers or quickest,
    )
    total = sum(run.size for run in runs)
    done = 0
    try:
        job.start()
        while done < total:
            written, checked = job.results()
            if written:
                # Everything the workers have placed meanwhile is flushed at
                # once: the slower the medium, the larger the batch.
                target.flush()
                job.check(written)
            if checked:
                done += sum(run.size for run in checked)
                progress(done, total)
    except BaseException:
        # Ends the pauses between attempts of a source that is gone.
        source.close()
        raise
    finally:
        job.stop()
    return Transferred(job.fetched, job.kept, job.written)


def fetch_segment(source: Source, segment: Segment, into: memoryview) -> memoryview:
    """Fetches and verifies one segment; returns the part of into that holds it.

    The digest of the stored bytes is the signed one before they are
    decompressed, so the content is the publisher's. That it also arrived on
    the medium is judged there, by reading back.

    Raises TrustError when the bytes are wrong, and FetchError.
    """
    path, stored = _stored(source, segment)
    plain = into[: segment.size]
    try:
        with zstandard.ZstdDecompressor().stream_reader(stored) as reader:
            size = reader.readinto(plain)
            more = reader.read(1)
    except zstandard.ZstdError as error:
        raise _damaged(source, path, f"it cannot be decompressed: {error}") from error
    if size != segment.size or more:
        raise _damaged(source, path, "its content does not have the signed size")
    return plain


def segment_blocks(source: Source, segment: Segment, memory: memoryview) -> Iterator[memoryview]:
    """Fetches and verifies one segment as `fetch_segment`; its content, block by block in memory.

    For content that is verified as a whole before it is used: a segment whose content has
    another size than the signed one is an error after its last block. Raises as `fetch_segment`.
    """
    path, stored = _stored(source, segment)
    left = segment.size
    try:
        with zstandard.ZstdDecompressor().stream_reader(stored) as reader:
            while left and (size := reader.readinto(memory[:left])):
                left -= size
                yield memory[:size]
            more = reader.read(1)
    except zstandard.ZstdError as error:
        raise _damaged(source, path, f"it cannot be decompressed: {error}") from error
    if left or more:
        raise _damaged(source, path, "its content does not have the signed size")


def _stored(source: Source, segment: Segment) -> tuple[str, bytearray]:
    """Where the segment is stored and its bytes there, as they were signed."""
    name = segment.stored_sha256
    path = chunk_path(name)
    # Not joined: for a moment that takes twice the memory.
    stored = bytearray()
    for part in source.open(path, segment.stored_size):
        stored += part
    if len(stored) != segment.stored_size or hashlib.sha256(stored).hexdigest() != name:
        raise _damaged(source, path, "its digest is not the signed one")
    return path, stored


class _Job:
    """The workers of one transfer and what they have still to do."""

    def __init__(
        self,
        runs: Sequence[Run],
        source: Source,
        target: Medium,
        *,
        resume: bool,
        check: Check | None,
        maker: Maker | None,
        base: Base | None,
        workers: int,
    ) -> None:
        self._source = source
        self._target = target
        self._resume = resume
        self._check = check
        self._maker = maker
        self._base = base
        self._memory_size = max((run.size for run in runs), default=0)
        self._workers = workers
        self._to_place = deque(runs)
        self._to_check: deque[Run] = deque()
        self._unchecked = len(self._to_place)
        self._changed = threading.Condition()
        self._results: SimpleQueue[tuple[Literal["placed", "checked"], Run] | BaseException]
        self._results = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.fetched = 0
        self.kept = 0
        self.written = 0

    def start(self) -> None:
        """Starts the workers."""
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"transfer-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def results(self) -> tuple[list[Run], list[Run]]:
        """Waits for a result and takes all there are: runs placed, and runs checked.

        Raises what a worker raised.
        """
        found = [self._results.get()]
        while not self._results.empty():
            found.append(self._results.get())
        by_kind: dict[str, list[Run]] = {"placed": [], "checked": []}
        for item in found:
            if isinstance(item, BaseException):
                raise item
            by_kind[item[0]].append(item[1])
        return by_kind["placed"], by_kind["checked"]

    def check(self, flushed: list[Run]) -> None:
        """Lets the workers check runs that are on the medium."""
        with self._changed:
            self._to_check.extend(flushed)
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the workers and waits for them: nobody writes to the medium afterwards."""
        with self._changed:
            self._unchecked = 0
            self._to_place.clear()
            self._to_check.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        memory = medium.buffer(self._memory_size)
        scratch = medium.buffer(_READ)
        try:
            while (task := self._next()) is not None:
                kind, run = task
                if kind == "placed":
                    self._place(run, memory, scratch)
                    if run.size > _HELD:
                        medium.forget(memory)
                else:
                    self._read_back(run, scratch)
                self._results.put(task)
        except BaseException as error:
            self._results.put(error)

    def _next(self) -> tuple[Literal["placed", "checked"], Run] | None:
        """The next task, checks first; None when nothing will be left to do."""
        with self._changed:
            while self._unchecked:
                if self._to_check:
                    self._unchecked -= 1
                    if not self._unchecked:
                        self._changed.notify_all()
                    return "checked", self._to_check.popleft()
                if self._to_place:
                    return "placed", self._to_place.popleft()
                self._changed.wait()
            return None

    def _place(self, run: Run, memory: memoryview, scratch: memoryview) -> None:
        """Makes the target hold the run: keep what is there, else make it, else fetch it."""
        missing = [piece for piece in run.pieces if not self._present(piece, memory)]
        self._count(kept=run.size - sum(piece.segment.size for piece in missing))
        left: Sequence[Piece] = missing
        if self._maker is not None and self._base is not None:
            left = self._maker.make(run, missing, self._base, memory[: run.size])
        # Before memory is used for what is fetched.
        for piece in missing:
            if piece not in left:
                start = piece.offset - run.offset
                self._write(piece, memory[start : start + piece.segment.size], scratch)
        for piece in left:
            self._write(piece, fetch_segment(self._source, piece.segment, memory), scratch)
            self._count(fetched=piece.segment.stored_size)

    def _read_back(self, run: Run, scratch: memoryview) -> None:
        """Hands what the target holds of the run to the check."""
        if self._check is None:
            return
        for start in range(0, run.size, len(scratch)):
            wanted = min(len(scratch), run.size - start)
            place = run.offset + start
            size = self._target.read_back(place, scratch[: medium.aligned(wanted)])
            self._check(place, scratch[: min(size, wanted)])

    def _present(self, piece: Piece, memory: memoryview) -> bool:
        if not self._resume:
            return False
        size = self._target.read_back(piece.offset, memory[: medium.aligned(piece.segment.size)])
        found = memory[: min(size, piece.segment.size)]
        return hashlib.sha256(found).hexdigest() == piece.segment.sha256

    def _write(self, piece: Piece, data: memoryview, scratch: memoryview) -> None:
        self._count(written=self._target.write_changed(piece.offset, data, scratch))

    def _count(self, *, fetched: int = 0, kept: int = 0, written: int = 0) -> None:
        with self._changed:
            self.fetched += fetched
            self.kept += kept
            self.written += written


def _damaged(source: Source, path: str, details: str) -> OrbitalError:
    return TrustError(
        f"cannot use {path} from {source.name}: it is damaged or tampered with",
        details=details,
        resolution="repair or replace the repository's copy; the running system is not affected",
    )
