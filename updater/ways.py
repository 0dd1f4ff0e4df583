"""Which way an image comes: by delta, by slices of the running image, or in full.

What a delta and a full download cost is signed, and known before anything is fetched. What
slices cost is known once the map is here (its size is signed) and the running image was read:
some seconds, so that is done only for an update, and only when no delta serves well.
"""

from __future__ import annotations

from pathlib import Path

from manifests.index import OsIndex
from manifests.slices import slices_target
from recovery.errors import OrbitalError
from recovery.reporter import Reporter
from updater.base import FileBase
from updater.device import Device
from updater.runs import Slice, Way
from updater.trust import TrustedRepository

_WELL = 0.5
"""A delta that costs less than this share of the full download is not compared with slices."""


def may_gather(way: Way, repository: TrustedRepository, index: OsIndex) -> bool:
    """Whether the slices of the running image are worth a look. Raises TrustError, FetchError."""
    if way.from_version and way.fetch_bytes < _WELL * index.stored_size:
        return False
    # The modules for it are not needed for most updates.
    from updater.slices import MAP_SHARE

    size = repository.size_of(slices_target(index.system, index.board, index.version))
    return size is not None and size <= MAP_SHARE * index.stored_size


def cheaper(
    way: Way, device: Device, repository: TrustedRepository, index: OsIndex, reporter: Reporter
) -> tuple[Way, tuple[str, ...]]:
    """The way, or one by slices that fetches less with its map; and why slices do not serve."""
    from updater.slices import by_slices, decode_slices

    try:
        if not may_gather(way, repository, index):
            return way, ()
        data = repository.target(slices_target(index.system, index.board, index.version))
        if data is None:
            return way, ()
        root, boot = decode_slices(data, index)
    except OrbitalError as error:
        # Without it the update costs more and is as good.
        return way, (f"{error.brief}: nothing is taken from the running image",)
    running = device.boot_control.current_slot()
    reporter.stage("look for parts of the image in the running one")
    found = (
        _places(device.slots[running], root, reporter),
        _places(device.boot_artifact(running), boot, reporter),
    )
    gathered = by_slices(index, root, boot, places=found, from_version=device.config.version)
    if gathered.fetch_bytes + len(data) < way.fetch_bytes:
        return gathered, ()
    return way, ()


def _places(path: Path, slices: tuple[Slice, ...], reporter: Reporter) -> dict[bytes, int]:
    """Where slices are in what the device runs; nothing when it cannot be read."""
    from updater.scan import find

    try:
        base = FileBase(path)
    except OSError:
        return {}
    try:
        return find(base, slices, reporter.progress)
    finally:
        base.close()
