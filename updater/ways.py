"""Which way an image comes: by delta, by slices of the running image, or in full.

What a delta and a full download cost is signed, and known before anything is fetched. What
slices cost is known once the map is here (its size is signed) and the running image was read:
some seconds, so that is done only for an update, and only when no delta serves well.
"""

from __future__ import annotations

import hashlib
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


def cheaper(
    way: Way,
    index: OsIndex,
    found: Signed,
    *,
    device: Device,
    source: Source,
    reporter: Reporter,
) -> tuple[Way, tuple[str, ...]]:
    """The way, or one by slices that fetches less with its map; and why slices do not serve."""
    reporter.stage("look for parts of the image in the running one")
    try:
        gathered, size = look(device, source, index, found, reporter.progress)
    except OrbitalError as error:
        # Without it the update costs more and is as good.
        return way, (f"{error.brief}: nothing is taken from the running image",)
    return (gathered if gathered.fetch_bytes + size < way.fetch_bytes else way), ()


def look(
    device: Device, source: Source, index: OsIndex, found: Signed, progress: Progress
) -> tuple[Way, int]:
    """The way by slices of the running image, and the bytes of their map, which is fetched.

    Raises TrustError, ManifestError, FetchError.
    """
    # Most updates do without.
    from updater.slices import by_slices, decode_slices

    data = read(source, found.path, found.size)
    if len(data) != found.size or hashlib.sha256(data).hexdigest() != found.sha256:
        raise TrustError(
            f"cannot use {found.path} from {source.name}: it is damaged or tampered with",
            resolution="repair or replace the repository's copy",
        )
    root, boot = decode_slices(data, index)
    running = device.boot_control.current_slot()
    places = (
        _places(device.slots[running], root, progress),
        _places(device.boot_artifact(running), boot, progress),
    )
    version = device.config.version
    return by_slices(index, root, boot, places=places, from_version=version), found.size


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
