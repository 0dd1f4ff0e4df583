"""Fills the file of one image: pieces there are kept, made by a delta, or fetched.

What a delta makes is made first, one run after the other, those with the smallest parts in
the lead: what these save may be risked for the next (`updater.patches`). Then threads fetch
segments and write them as they are decompressed. Memory holds one run, its references and its
part; or a stored segment for each thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from recovery import durable
from updater.base import FileBase
from updater.packages.parcels import Parcel
from updater.runs import Piece, Run
from updater.source import Source
from updater.transfer import WORKERS, segment_blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.patches import Patches

_BLOCK = 1 << 18

_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2


class Filling:
    """The filling of one file, and what it fetched.

    fetched: bytes from the source. wasted: those of them that were of no use. made: bytes of
    the image that came from the base. notes: why parts of the delta were of no use, for people.
    """

    def __init__(self, parcel: Parcel, source: Source, store: Path) -> None:
        """store: where the base is."""
        self._parcel = parcel
        self._source = source
        self._base = store / parcel.base
        self.fetched = 0
        self.wasted = 0
        self.made = 0
        self.notes: tuple[str, ...] = ()

    def fill(self, part: Path, progress: Callable[[int, int], None]) -> None:
        """Makes part hold the image. progress: bytes of the image that are there, and all.

        Raises TrustError when segments are not what was signed, FetchError, OSError.
        """
        size = self._parcel.release.stream.size
        fd = _open(part)
        try:
            resume = os.fstat(fd).st_size > 0
            os.ftruncate(fd, size)
            os.fchmod(fd, 0o644)
            todo = [piece for run in self._parcel.runs for piece in run.pieces]
            if resume:
                todo = [piece for piece in todo if not _holds(fd, piece)]

            def done(left: int) -> None:
                progress(size - left, size)

            if self._parcel.base:
                made = self._make(fd, frozenset(todo), done)
                todo = [piece for piece in todo if piece not in made]
            self._fetch(fd, todo, done)
        finally:
            os.close(fd)

    def _make(self, fd: int, todo: Collection[Piece], done: Callable[[int], None]) -> set[Piece]:
        """Places what the delta makes of the pieces; which these are."""
        # Decoders are loaded where they are needed.
        from updater.ledger import Ledger
        from updater.patches import Patches

        runs = sorted((run for run in self._parcel.runs if run.payload), key=_by_part)
        ledger = Ledger(self._parcel.full_bytes)
        patches = Patches(self._source, runs, ledger)
        made: set[Piece] = set()
        left = _size(todo)
        memory = memoryview(bytearray(max(run.size for run in runs)))
        try:
            base = FileBase(self._base)
        except OSError as error:
            self.notes = (f"the base image cannot be read: {error.strerror}",)
            return made
        with contextlib.closing(base):
            for run in runs:
                missing = [piece for piece in run.pieces if piece in todo]
                if _made(run, missing, base, memory, patches):
                    for piece in missing:
                        start = piece.offset - run.offset
                        _write(fd, piece.offset, memory[start : start + piece.segment.size])
                        _start_writing(fd, piece)
                    made.update(missing)
                    left -= _size(missing)
                    done(left)
        self.fetched += ledger.fetched
        self.wasted = ledger.wasted
        self.made = _size(made)
        self.notes = tuple(patches.notes)
        return made

    def _fetch(self, fd: int, todo: Collection[Piece], done: Callable[[int], None]) -> None:
        """Fetches the pieces with several threads. Raises what the first that failed raised."""
        left = _size(todo)
        done(left)
        if not todo:
            return
        lock = threading.Lock()

        def place(piece: Piece) -> int:
            _place(fd, piece, self._source)
            with lock:
                self.fetched += piece.segment.stored_size
            return piece.segment.size

        workers = min(WORKERS, len(todo))
        with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
            try:
                waiting = {pool.submit(place, piece) for piece in todo}
                while waiting:
                    finished, waiting = wait(waiting, return_when=FIRST_EXCEPTION, timeout=0.2)
                    left -= sum(future.result() for future in finished)
                    done(left)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                # Ends the pauses between attempts of a source that is gone.
                self._source.close()
                raise


def _made(
    run: Run, missing: Collection[Piece], base: FileBase, memory: memoryview, patches: Patches
) -> bool:
    """Whether memory now holds the run, made from the base."""
    instead = sum(piece.segment.stored_size for piece in missing)
    # What is left of the run may be cheaper to fetch.
    if run.payload is None or run.payload.size >= instead:
        patches.skip(run)
        return False
    return patches.make(run, base, memory[: run.size], instead)


def _by_part(run: Run) -> tuple[int, str, int]:
    """Smallest parts first, and what is in one together."""
    if run.payload is None:
        return 0, "", run.offset
    return run.payload.part.size, run.payload.part.sha256, run.offset


def _size(pieces: Collection[Piece]) -> int:
    return sum(piece.segment.size for piece in pieces)


def _open(part: Path) -> int:
    """Opens part for writing; one that cannot be written any more is replaced."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(part, flags, 0o600)
    except OSError as error:
        # Under fs-verity and yet not the image (EPERM), or not a file of ours (ELOOP, EISDIR).
        if error.errno not in (errno.EPERM, errno.ELOOP):
            raise
    durable.remove_file(part)
    return os.open(part, flags | os.O_EXCL, 0o600)


def _holds(fd: int, piece: Piece) -> bool:
    found, offset = hashlib.sha256(), piece.offset
    memory = memoryview(bytearray(_BLOCK))
    end = offset + piece.segment.size
    while offset < end and (size := os.preadv(fd, [memory[: end - offset]], offset)):
        found.update(memory[:size])
        offset += size
    return offset == end and found.hexdigest() == piece.segment.sha256


def _place(fd: int, piece: Piece, source: Source) -> None:
    """Writes the segment as it is decompressed, through memory that the processor's cache holds."""
    offset = piece.offset
    for block in segment_blocks(source, piece.segment, memoryview(bytearray(_BLOCK))):
        _write(fd, offset, block)
        offset += len(block)
    _start_writing(fd, piece)


def _start_writing(fd: int, piece: Piece) -> None:
    """The disk starts to write while we fetch and hash on; this promises nothing and may
    fail (sync_file_range(2)): what makes the image durable is the flush at its end."""
    _libc.sync_file_range(fd, piece.offset, piece.segment.size, _SYNC_FILE_RANGE_WRITE)


def _write(fd: int, offset: int, data: memoryview) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
