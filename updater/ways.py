"""Which way an image comes: by delta, by slices of the running image, or in full.

What a delta and a full download cost is signed, and known before anything is fetched. What
slices cost is known once the map is here (its size is signed) and the running image was read:
some seconds, so that is done only for an update, and only when no delta serves well, or when
time is what the update shall spare: a delta fetches least and computes most.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from manifests.index import OsIndex
from manifests.slices import slices_target
from recovery.errors import OrbitalError, TrustError
from recovery.reporter import Reporter
from updater.base import FileBase
from updater.device import Device
from updater.runs import Slice, Way
from updater.signed import Signed
from updater.source import Source, read
from updater.trust import TrustedRepository

MAP_SHARE = 0.005
"""What a map may have, as a share of the full download."""
_WELL = 0.5
"""A delta that costs less than this share of the full download is not compared with slices."""

QUICK_LINK = 1_000_000
"""Bytes a second; on a slower link a delta is taken without looking further."""
MAKING = 6.0
"""Processor time for making a part of an image by delta, less what copying slices takes, by that
for looking through as much of an image (ADR 10)."""

Progress = Callable[[int, int], None]


def slice_map(repository: TrustedRepository, index: OsIndex) -> Signed | None:
    """The image's slice map, if there is one that is worth its size.

    Raises TrustError, FetchError.
    """
    found = repository.signed(slices_target(index.system, index.board, index.version))
    return found if found is not None and found.size <= MAP_SHARE * index.stored_size else None


def serves(way: Way, index: OsIndex) -> bool:
    """Whether the way is good enough not to be compared with slices."""
    return way.kind == "delta" and way.fetch_bytes < _WELL * index.stored_size


class Search:
    """The search for slices of an image in the running one. fetched: bytes of the map so far."""

    def __init__(self, device: Device, source: Source, index: OsIndex, found: Signed) -> None:
        """found: the image's slice map."""
        self._device = device
        self._source = source
        self._found = found
        self.index = index
        self.fetched = 0

    def look(self, progress: Progress) -> tuple[Way, int]:
        """The way by slices of the running image, and the bytes of their map, which is fetched.

        Raises TrustError, ManifestError, FetchError.
        """
        return self.gather(self.fetch(), progress), self._found.size

    def fetch(self) -> bytes:
        """The map, as it was signed. Raises TrustError, FetchError."""
        source, found = self._source, self._found
        data = read(source, found.path, found.size)
        self.fetched += len(data)
        if len(data) != found.size or hashlib.sha256(data).hexdigest() != found.sha256:
            raise TrustError(
                f"cannot use {found.path} from {source.name}: it is damaged or tampered with",
                resolution="repair or replace the repository's copy",
            )
        return data

    def gather(self, data: bytes, progress: Progress) -> Way:
        """The way by slices of the running image. data: the map. Raises ManifestError."""
        # Most updates do without.
        from updater.slices import by_slices, decode_slices

        device, index = self._device, self.index
        root, boot = decode_slices(data, index)
        running = device.boot_control.current_slot()
        places = (
            _places(device.slots[running], root, progress),
            _places(device.boot_artifact(running), boot, progress),
        )
        return by_slices(index, root, boot, places=places, from_version=device.config.version)


def cheaper(way: Way, search: Search, reporter: Reporter) -> tuple[Way, tuple[str, ...]]:
    """The way, or one by slices that fetches less with its map; and why slices do not serve."""
    reporter.stage("look for parts of the image in the running one")
    try:
        gathered, size = search.look(reporter.progress)
    except OrbitalError as error:
        # Without it the update costs more and is as good.
        return way, (f"{error.brief}: nothing is taken from the running image",)
    return (gathered if gathered.fetch_bytes + size < way.fetch_bytes else way), ()


def quicker(way: Way, search: Search, reporter: Reporter) -> tuple[Way, tuple[str, ...]]:
    """The way by delta, or by slices if that takes less time; and a note that says so.

    Nobody has to know the link or the device: the rate is measured while the map comes, and
    how quick the processor is while the running image is looked through.
    """
    reporter.stage("look for the quickest way")
    try:
        began = time.monotonic()
        data = search.fetch()
        rate = len(data) / max(time.monotonic() - began, 1e-6)
        if rate < QUICK_LINK:
            return way, ()
        began = time.thread_time()
        gathered = search.gather(data, reporter.progress)
        spent = time.thread_time() - began
    except OrbitalError as error:
        return way, (f"{error.brief}: the delta is taken, quick or not",)
    more = gathered.fetch_bytes - way.fetch_bytes
    searching = spent / (search.index.root.stream.size + search.index.boot.stream.size)
    if not sooner(more, rate, way.made_bytes, searching):
        return way, ()
    return gathered, (f"{more} bytes more than by delta are fetched: here that takes less time",)


def sooner(more: int, rate: float, made: int, searching: float) -> bool:
    """Whether fetching that many bytes more takes less time than what a delta makes. Pure.

    rate: of the link, bytes a second. made: bytes that the delta makes. searching: seconds of
    processor time in which this device looks through a byte.
    """
    return more < rate * made * searching * MAKING


def _places(path: Path, slices: tuple[Slice, ...], progress: Progress) -> dict[bytes, int]:
    """Where slices are in what the device runs; nothing when it cannot be read."""
    from updater.scan import find

    try:
        base = FileBase(path)
    except OSError:
        return {}
    try:
        return find(base, slices, progress)
    finally:
        base.close()
