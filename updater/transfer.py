"""Moving a stream from a source onto a medium: fetch, verify, write and read back overlap.

Worker threads take the segments one by one through two tasks. Place: fetch →
digest of the stored bytes → decompress → write. Then, once this thread has
flushed the medium, check: read back what is there now and hand it to the check,
which is what decides. hashlib, zstandard and the system calls release the
interpreter's lock, so tasks of both kinds run beside each other on all cores.
In memory are WORKERS segments with their stored form.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal

import zstandard

from manifests.index import Segment, Stream
from recovery.errors import OrbitalError, TrustError
from updater import medium
from updater.medium import Medium
from updater.source import Source

WORKERS = 4

Check = Callable[[int, memoryview], None]


@dataclass(frozen=True)
class Piece:
    """A segment and where in the stream it lies."""

    number: int
    offset: int
    segment: Segment


@dataclass(frozen=True)
class Transferred:
    """What a transfer moved. fetched: stored bytes that were fetched. kept: bytes of pieces
    that were on the medium already."""

    fetched: int
    kept: int


def pieces(stream: Stream) -> tuple[Piece, ...]:
    """The segments of the stream with their offsets."""
    return tuple(
        Piece(number, number * stream.segment_size, segment)
        for number, segment in enumerate(stream.segments)
    )


def transfer(
    stream: Stream,
    source: Source,
    target: Medium,
    *,
    resume: bool,
    check: Check,
    progress: Callable[[int, int], None],
) -> Transferred:
    """Writes the stream to the target and reads all of it back through check(offset, data).

    resume: pieces that the target already holds are recognised by their
    digest and not fetched. check is called in several threads, once for each
    piece, in any order; data is only valid during the call. progress(done,
    total) counts bytes read back, in this thread.

    Power cut at any point: some pieces are on the medium, some are not; the
    next run recognises those that are.

    Raises TrustError for wrong data, and what source and target raise.
    """
    job = _Job(stream, source, target, resume, check)
    done = 0
    try:
        job.start()
        while done < stream.size:
            written, checked = job.results()
            if written:
                # Everything the workers have placed meanwhile is flushed at
                # once: the slower the medium, the larger the batch.
                target.flush()
                job.check(written)
            if checked:
                done += sum(piece.segment.size for piece in checked)
                progress(done, stream.size)
    except BaseException:
        # Ends the pauses between attempts of a source that is gone.
        source.close()
        raise
    finally:
        job.stop()
    return Transferred(job.fetched, job.kept)


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


def _stored(source: Source, segment: Segment) -> tuple[str, bytes]:
    """Where the segment is stored and its bytes there, as they were signed."""
    name = segment.stored_sha256
    path = f"chunks/{name[:2]}/{name}"
    stored = b"".join(source.open(path, segment.stored_size))
    if len(stored) != segment.stored_size or hashlib.sha256(stored).hexdigest() != name:
        raise _damaged(source, path, "its digest is not the signed one")
    return path, stored


class _Job:
    """The workers of one transfer and what they have still to do."""

    def __init__(
        self, stream: Stream, source: Source, target: Medium, resume: bool, check: Check
    ) -> None:
        self._segment_size = stream.segment_size
        self._source = source
        self._target = target
        self._resume = resume
        self._check = check
        self._to_place = deque(pieces(stream))
        self._to_check: deque[Piece] = deque()
        self._unchecked = len(self._to_place)
        self._changed = threading.Condition()
        self._results: SimpleQueue[tuple[Literal["placed", "checked"], Piece] | BaseException]
        self._results = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.fetched = 0
        self.kept = 0

    def start(self) -> None:
        """Starts the workers."""
        for number in range(WORKERS):
            thread = threading.Thread(target=self._work, name=f"transfer-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def results(self) -> tuple[list[Piece], list[Piece]]:
        """Waits for a result and takes all there are: pieces placed, and pieces checked.

        Raises what a worker raised.
        """
        found = [self._results.get()]
        while not self._results.empty():
            found.append(self._results.get())
        by_kind: dict[str, list[Piece]] = {"placed": [], "checked": []}
        for item in found:
            if isinstance(item, BaseException):
                raise item
            by_kind[item[0]].append(item[1])
        return by_kind["placed"], by_kind["checked"]

    def check(self, flushed: list[Piece]) -> None:
        """Lets the workers check pieces that are on the medium."""
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
        memory = medium.buffer(self._segment_size)
        try:
            while (task := self._next()) is not None:
                kind, piece = task
                if kind == "placed":
                    self._place(piece, memory)
                else:
                    self._check(piece.offset, _read_back(self._target, piece, memory))
                self._results.put(task)
        except BaseException as error:
            self._results.put(error)

    def _next(self) -> tuple[Literal["placed", "checked"], Piece] | None:
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

    def _place(self, piece: Piece, memory: memoryview) -> None:
        """Makes the target hold the piece, in the cheapest way that works.

        Today: keep what is there, else fetch it whole. A delta against the
        running slot belongs between the two.
        """
        segment = piece.segment
        if self._resume:
            present = _read_back(self._target, piece, memory)
            if hashlib.sha256(present).hexdigest() == segment.sha256:
                with self._changed:
                    self.kept += segment.size
                return
        self._target.write(piece.offset, fetch_segment(self._source, segment, memory))
        with self._changed:
            self.fetched += segment.stored_size


def _read_back(target: Medium, piece: Piece, memory: memoryview) -> memoryview:
    """What the target holds in the piece's place; less at the target's end."""
    size = target.read_back(piece.offset, memory)
    return memory[: min(size, piece.segment.size)]


def _damaged(source: Source, path: str, details: str) -> OrbitalError:
    return TrustError(
        f"cannot use {path} from {source.name}: it is damaged or tampered with",
        details=details,
        resolution="repair or replace the repository's copy; the running system is not affected",
    )
