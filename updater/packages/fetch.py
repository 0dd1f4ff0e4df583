"""Brings images of packages from a source into the store.

    store/DIGEST          a whole image under fs-verity, named by its digest
    store/.DIGEST.part    one that is being fetched, or what a cut left of it

A segment counts by its signed digest when it is fetched; the whole by the
fs-verity digest that the kernel computes when it takes the file under its
care, from then on for ever. So nothing is read back here: a block that went
bad on its way to the disk is found whenever it is read.

The order, and what a power cut after each arrow leaves:

    segments into .DIGEST.part             pieces, or nothing; the next run keeps right ones
    → fs-verity enabled, flushed           a whole image with a name that nobody reads
    → **renamed to DIGEST**                it is in the store, in place of one that went bad

The second step flushes data and hash tree at once: flushing the data before
would only cost time, for a cut in between leaves pieces all the same.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from manifests.index import Stream
from manifests.package_index import PackageRelease
from recovery import durable
from recovery.errors import OrbitalError, SpaceError, StateError, TrustError
from recovery.packages import fsverity
from recovery.reporter import Reporter
from updater import medium
from updater.source import Source
from updater.transfer import WORKERS, Piece, fetch_segment, pieces

_PART = ".part"
_READ = 1 << 20
# The hash tree takes 1/127 of the data; the file system something, too.
_OVERHEAD = 64
_SPARE = 1 << 20

_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2


class Verity(Protocol):
    """What puts files under fs-verity: `recovery.packages.fsverity`, or a table in a test."""

    def enable(self, path: Path, signature: bytes, /) -> None:
        """Puts the file under fs-verity, durably. Raises TrustError, StateError, OSError."""

    def measure(self, file: Path, /) -> str:
        """The digest that is enforced for the file, hex. Raises TrustError, OSError."""


def fetch_all(
    releases: Iterable[PackageRelease],
    source: Source,
    store: Path,
    reporter: Reporter,
    *,
    verity: Verity = fsverity,
) -> tuple[Path, ...]:
    """Fetches several images, and removes what cut runs left of others. Raises as `fetch`."""
    wanted = {release.digest: release for release in releases}
    durable.make_directory(store)
    clean(store, keep=wanted)
    return tuple(
        fetch(release, source, store, reporter, verity=verity) for release in wanted.values()
    )


def fetch(
    release: PackageRelease,
    source: Source,
    store: Path,
    reporter: Reporter,
    *,
    verity: Verity = fsverity,
) -> Path:
    """The image of the release in the store; fetched unless it is there and whole.

    release: as `updater.packages.offers` gives it, so checked. The caller has
    told the reporter the stage; progress counts bytes of the image.

    Raises TrustError when chunks or the image are not what was signed,
    FetchError when they cannot be read (what was fetched is kept for the next
    run), SpaceError or StateError for the disk.
    """
    final = store / release.digest
    part = store / f".{release.digest}{_PART}"
    try:
        durable.make_directory(store)
        if _is_whole(final, release.digest, verity):
            return final
        if _is_whole(part, release.digest, verity):
            # Enabled in a run that was killed, perhaps before it was flushed.
            durable.sync_file(part)
        else:
            _require_room(store, release.stream.size)
            _fill(part, release.stream, source, reporter)
            _seal(part, release, verity)
        durable.publish_file(part, final)
    except OSError as error:
        raise _disk_failure(store, error) from error
    return final


def clean(store: Path, keep: Iterable[str] = ()) -> None:
    """Removes what cut runs left of images, but of those with a digest in keep."""
    kept = {f".{digest}{_PART}" for digest in keep}
    for path in store.glob(f".*{_PART}"):
        if path.name not in kept:
            durable.remove_file(path)


def _is_whole(path: Path, digest: str, verity: Verity) -> bool:
    """Whether the file is the image, every block of it: the kernel compares them as they are
    read."""
    try:
        if verity.measure(path) != digest:
            return False
        with path.open("rb", buffering=0) as file:
            while file.read(_READ):
                pass
    except (OSError, TrustError):
        return False
    return True


def _fill(part: Path, stream: Stream, source: Source, reporter: Reporter) -> None:
    """Makes part hold the stream; pieces that it holds already are kept."""
    fd = _open(part)
    try:
        resume = os.fstat(fd).st_size > 0
        os.ftruncate(fd, stream.size)
        os.fchmod(fd, 0o644)
        memories: SimpleQueue[memoryview] = SimpleQueue()
        todo = pieces(stream)
        workers = min(WORKERS, len(todo))
        for _ in range(workers):
            memories.put(medium.buffer(stream.segment_size))

        def place(piece: Piece) -> int:
            memory = memories.get()
            try:
                if not (resume and _holds(fd, piece, memory)):
                    _write(fd, piece.offset, fetch_segment(source, piece.segment, memory))
            finally:
                memories.put(memory)
            return piece.segment.size

        _run(place, todo, workers, source, lambda done: reporter.progress(done, stream.size))
    finally:
        os.close(fd)


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


def _run(
    place: Callable[[Piece], int],
    todo: tuple[Piece, ...],
    workers: int,
    source: Source,
    progress: Callable[[int], None],
) -> None:
    """Places all pieces with several threads. Raises what the first that failed raised."""
    done = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        try:
            waiting = {pool.submit(place, piece) for piece in todo}
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_EXCEPTION, timeout=0.2)
                for future in finished:
                    done += future.result()
                progress(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Ends the pauses between attempts of a source that is gone.
            source.close()
            raise


def _holds(fd: int, piece: Piece, memory: memoryview) -> bool:
    plain = memory[: piece.segment.size]
    size = os.preadv(fd, [plain], piece.offset)
    return size == len(plain) and hashlib.sha256(plain).hexdigest() == piece.segment.sha256


def _write(fd: int, offset: int, data: memoryview) -> None:
    start, size = offset, len(data)
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
    # The disk starts to write while we fetch and hash on; this promises nothing and may
    # fail (sync_file_range(2)): what makes the image durable is the flush at its end.
    _libc.sync_file_range(fd, start, size, _SYNC_FILE_RANGE_WRITE)


def _seal(part: Path, release: PackageRelease, verity: Verity) -> None:
    """Puts the file under fs-verity; removes it when it is not the image after all."""
    try:
        verity.enable(part, base64.b64decode(release.signature))
        found = verity.measure(part)
        if found != release.digest:
            raise TrustError(
                "cannot use a fetched image: it is not the one that was signed",
                details=f"its fs-verity digest is {found}, the signed one {release.digest}",
                resolution="the repository offers a wrong image; tell the publisher",
            )
    except TrustError:
        with contextlib.suppress(OSError):
            durable.remove_file(part)
        raise


def _require_room(store: Path, size: int) -> None:
    """Raises SpaceError before anything is fetched that will not fit."""
    state = os.statvfs(store)
    free = state.f_bavail * state.f_frsize
    needed = size + size // _OVERHEAD + _SPARE
    if needed > free:
        raise SpaceError(
            f"cannot store an image of {size >> 10} KiB: {free >> 10} KiB are free on the state "
            "partition",
            resolution="remove packages, or run 'orbital package gc'",
        )


def _disk_failure(store: Path, error: OSError) -> OrbitalError:
    kind = SpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateError
    return kind(
        f"cannot write {store}: {error.strerror}",
        details=str(error.filename or ""),
        resolution="nothing that runs is affected; check the disk, then run the command again",
    )
