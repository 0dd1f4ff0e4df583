"""Moving a stream from a source onto a medium: fetch, verify, write and read back overlap.

Two worker threads take segments one by one: fetch → digest of the stored bytes
→ decompress → digest of the piece → write. This thread follows them: flush,
then read back what is now on the medium and hand it to a check. hashlib,
zstandard and the system calls release the interpreter's lock, so the stages
run on all cores. In memory are at most WORKERS segments and their stored form.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import zstandard

from manifests.index import Segment, Stream
from recovery.errors import OrbitalError, TrustError
from updater.medium import Medium
from updater.source import Source

WORKERS = 2
_READ_BACK = 1 << 20


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
    medium: Medium,
    *,
    resume: bool,
    check: Callable[[int, bytes], None],
    progress: Callable[[int, int], None],
) -> Transferred:
    """Writes the stream to the medium and reads all of it back through check(offset, data).

    resume: pieces that the medium already holds are recognised by their
    digest and not fetched. check is called in this thread, block by block, in
    any order of pieces. progress(done, total) counts bytes read back.

    Power cut at any point: some pieces are on the medium, some are not; the
    next run recognises those that are.

    Raises TrustError for wrong data, and what source and medium raise.
    """
    job = _Job(pieces(stream), source, medium, resume)
    done = 0
    try:
        job.start()
        while done < stream.size:
            batch = job.written()
            # Everything the workers have finished meanwhile is flushed at
            # once: the slower the medium, the larger the batch.
            medium.flush()
            for piece in batch:
                _read_back(medium, piece, check)
                done += piece.segment.size
                progress(done, stream.size)
    finally:
        job.stop()
    return Transferred(job.fetched, job.kept)


def fetch_segment(source: Source, segment: Segment) -> bytes:
    """One segment's verified bytes. Raises TrustError when they are wrong, and FetchError."""
    name = segment.stored_sha256
    path = f"chunks/{name[:2]}/{name}"
    stored = b"".join(source.open(path, segment.stored_size))
    if len(stored) != segment.stored_size or hashlib.sha256(stored).hexdigest() != name:
        raise _damaged(source, path, "its digest is not the signed one")
    try:
        # A frame may leave its size out (-1); what it says must be right: it is
        # what gets allocated.
        if zstandard.frame_content_size(stored) not in (-1, segment.size):
            raise _damaged(source, path, "its content has another size than the signed one")
        plain = zstandard.ZstdDecompressor().decompress(stored, max_output_size=segment.size)
    except zstandard.ZstdError as error:
        raise _damaged(source, path, f"it cannot be decompressed: {error}") from error
    if len(plain) != segment.size or hashlib.sha256(plain).hexdigest() != segment.sha256:
        raise _damaged(source, path, "its content is not the signed one")
    return plain


class _Job:
    """The workers of one transfer."""

    def __init__(self, todo: Sequence[Piece], source: Source, medium: Medium, resume: bool) -> None:
        self._todo: Iterator[Piece] = iter(todo)
        self._source = source
        self._medium = medium
        self._resume = resume
        self._lock = threading.Lock()
        self._stopped = False
        self._results: SimpleQueue[Piece | BaseException] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.fetched = 0
        self.kept = 0

    def start(self) -> None:
        """Starts the workers."""
        for number in range(WORKERS):
            thread = threading.Thread(target=self._work, name=f"transfer-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def written(self) -> list[Piece]:
        """Waits for a piece, and takes all that are written. Raises what a worker raised."""
        batch = [self._results.get()]
        while not self._results.empty():
            batch.append(self._results.get())
        for item in batch:
            if isinstance(item, BaseException):
                raise item
        return [item for item in batch if isinstance(item, Piece)]

    def stop(self) -> None:
        """Ends the workers and waits for them: nobody writes to the medium afterwards."""
        with self._lock:
            self._stopped = True
        if any(thread.is_alive() for thread in self._threads):
            # Ends the pauses between attempts of a source that is gone.
            self._source.close()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while (piece := self._next()) is not None:
                self._place(piece)
                self._results.put(piece)
        except BaseException as error:
            self._results.put(error)

    def _next(self) -> Piece | None:
        with self._lock:
            return None if self._stopped else next(self._todo, None)

    def _place(self, piece: Piece) -> None:
        """Makes the medium hold the piece."""
        segment = piece.segment
        if self._resume:
            present = self._medium.read(piece.offset, segment.size)
            if hashlib.sha256(present).hexdigest() == segment.sha256:
                with self._lock:
                    self.kept += segment.size
                return
        data = fetch_segment(self._source, segment)
        self._medium.write(piece.offset, data)
        with self._lock:
            self.fetched += segment.stored_size


def _read_back(medium: Medium, piece: Piece, check: Callable[[int, bytes], None]) -> None:
    end = piece.offset + piece.segment.size
    for offset in range(piece.offset, end, _READ_BACK):
        check(offset, medium.read_back(offset, min(_READ_BACK, end - offset)))


def _damaged(source: Source, path: str, details: str) -> OrbitalError:
    return TrustError(
        f"cannot use {path} from {source.name}: it is damaged or tampered with",
        details=details,
        resolution="repair or replace the repository's copy; the running system is not affected",
    )
