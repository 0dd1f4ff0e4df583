"""Brings images of packages from a source into the store.

    store/DIGEST          a whole image under fs-verity, named by its digest
    store/.DIGEST.part    one that is being fetched, or what a cut left of it

A segment counts by its signed digest when it is fetched; the whole by the
fs-verity digest that the kernel computes when it takes the file under its
care, from then on for ever. So nothing is read back here: a block that went
bad on its way to the disk is found whenever it is read.

The order, and what a power cut after each arrow leaves:

    segments into .DIGEST.part, made from  pieces, or nothing; the next run keeps right ones
    an older image or fetched
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
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from manifests.package_index import PackageRelease
from recovery import durable
from recovery.errors import OrbitalError, SpaceError, StateError, TrustError
from recovery.packages import fsverity
from recovery.reporter import Reporter
from updater.packages.filling import Filling
from updater.packages.parcels import Parcel
from updater.source import Source

_PART = ".part"
_READ = 1 << 20
# The hash tree takes 1/127 of the data; the file system something, too.
_OVERHEAD = 64
_SPARE = 1 << 20


class Verity(Protocol):
    """What puts files under fs-verity: `recovery.packages.fsverity`, or a table in a test."""

    def enable(self, path: Path, signature: bytes, /) -> None:
        """Puts the file under fs-verity; durable once it is flushed.

        Raises TrustError, StateError, OSError.
        """

    def measure(self, file: Path, /) -> str:
        """The digest that is enforced for the file, hex. Raises TrustError, OSError."""


@dataclass(frozen=True)
class Arrival:
    """An image that is in the store now. path: where.

    fetched: bytes that came from the source; full: what that would be without a delta and
    with nothing there. from_version: from what a delta made something, empty if none did.
    wasted: part of fetched that was of no use. notes: why parts of the delta were not, for
    people.
    """

    name: str
    version: str
    path: Path
    fetched: int
    full: int
    from_version: str = ""
    wasted: int = 0
    notes: tuple[str, ...] = ()


def fetch_all(
    parcels: Iterable[Parcel],
    source: Source,
    store: Path,
    reporter: Reporter,
    *,
    verity: Verity = fsverity,
) -> tuple[Arrival, ...]:
    """Fetches several images, and removes what cut runs left of others. Raises as `fetch`."""
    wanted = {parcel.release.digest: parcel for parcel in parcels}
    durable.make_directory(store)
    clean(store, keep=wanted)
    return tuple(
        fetch(parcel, source, store, reporter, verity=verity) for parcel in wanted.values()
    )


def fetch(
    parcel: Parcel,
    source: Source,
    store: Path,
    reporter: Reporter,
    *,
    verity: Verity = fsverity,
) -> Arrival:
    """Brings the image into the store, unless it is there and whole.

    parcel: as `updater.packages.parcels` packs it, so checked. The caller has
    told the reporter the stage; progress counts bytes of the image.

    Raises TrustError when chunks or the image are not what was signed,
    FetchError when they cannot be read (what was fetched is kept for the next
    run), SpaceError or StateError for the disk.
    """
    release = parcel.release
    final = store / release.digest
    part = store / f".{release.digest}{_PART}"
    filling = Filling(parcel, source, store)
    try:
        durable.make_directory(store)
        if _is_whole(final, release.digest, verity):
            # The run that brought it may have been killed before it flushed.
            durable.sync_file(final)
            durable.sync_directory(store)
            return _arrival(parcel, final, filling)
        # In a run that was killed it may have come under fs-verity already.
        if not _is_whole(part, release.digest, verity):
            _require_room(store, release.stream.size)
            filling.fill(part, reporter.progress)
            _seal(part, release, verity)
        durable.publish_file(part, final)
    except OSError as error:
        raise _disk_failure(store, error) from error
    return _arrival(parcel, final, filling)


def _arrival(parcel: Parcel, path: Path, filling: Filling) -> Arrival:
    return Arrival(
        name=parcel.name,
        version=parcel.release.version,
        path=path,
        fetched=filling.fetched,
        full=parcel.full_bytes,
        from_version=parcel.from_version if filling.made else "",
        wasted=filling.wasted,
        notes=filling.notes,
    )


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
