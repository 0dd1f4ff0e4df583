"""Brings images of packages from a source into the store.

    store/DIGEST          a whole image under fs-verity, named by its digest
    store/.DIGEST.part    one that is being fetched, or what a cut left of it

A segment counts by its signed digest when it is fetched; the whole by the
fs-verity digest that the kernel computes when it takes the file under its
care, from then on for ever. So nothing is read back here: a block that went
bad on its way to the disk is found whenever it is read.

The order, and what a power cut after each arrow leaves:

    segments into .DIGEST.part             pieces, or nothing; the next run keeps right ones
    → fs-verity enabled                    pieces, or a whole image that nobody reads yet
    → renamed to DIGEST, **flushed**       it is in the store, in place of one that went bad

One flush, of the renamed file and its directory, makes data, hash tree and
name last; nothing durable names DIGEST before `fetch` returns. A cut before
that leaves the old name or the new one. A file with the new one that were not
whole (ext4 writes all of a file's blocks before the mark that it is under
fs-verity, and that before the rename: fs/ext4/verity.c, "ext4_end_enable_verity")
would be found so by the next run, which measures and reads it, and be replaced.
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
from typing import Protocol

from manifests.index import Stream
from manifests.package_index import PackageRelease
from recovery import durable
from recovery.errors import OrbitalError, SpaceError, StateError, TrustError
from recovery.packages import fsverity
from recovery.reporter import Reporter
from updater.runs import Piece, pieces
from updater.source import Source
from updater.transfer import WORKERS, segment_blocks

_PART = ".part"
_READ = 1 << 20
_BLOCK = 1 << 18
# The hash tree takes 1/127 of the data; the file system something, too.
_OVERHEAD = 64
_SPARE = 1 << 20

_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2


class Verity(Protocol):
    """What puts files under fs-verity: `recovery.packages.fsverity`, or a table in a test."""

    def enable(self, path: Path, signature: bytes, /) -> None:
        """Puts the file under fs-verity; durable once it is flushed.

        Raises TrustError, StateError, OSError.
        """

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
            # The run that brought it may have been killed before it flushed.
            durable.sync_file(final)
            durable.sync_directory(store)
            return final
        # In a run that was killed it may have come under fs-verity already.
        if not _is_whole(part, release.digest, verity):
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
        todo = pieces(stream)
        workers = min(WORKERS, len(todo))

        def place(piece: Piece) -> int:
            if not (resume and _holds(fd, piece)):
                _place(fd, piece, source)
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
    # The disk starts to write while we fetch and hash on; this promises nothing and may
    # fail (sync_file_range(2)): what makes the image durable is the flush at its end.
    _libc.sync_file_range(fd, piece.offset, piece.segment.size, _SYNC_FILE_RANGE_WRITE)


def _write(fd: int, offset: int, data: memoryview) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


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
