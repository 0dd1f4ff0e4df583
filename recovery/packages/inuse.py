"""Which views and images running programs still have, from /proc/PID/mountinfo.

A program that started with a view keeps it in a mount namespace of its own,
mounted on /usr there. Our own mounts below /run/orbital do not count, nor
their copies that other services see at the same place.
"""

from __future__ import annotations

from recovery.packages import mountapi
from recovery.packages.paths import VIEW_SOURCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from recovery.packages.paths import Paths


def users_of_views(paths: Paths) -> dict[str, tuple[int, ...]]:
    """Process ids by view, of every process whose namespace has the view in use."""
    ours = f"{paths.run}/"
    namespaces: dict[str, frozenset[str]] = {}
    found: dict[str, list[int]] = {}
    for process in (paths.root / "proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            namespace = str((process / "ns/mnt").readlink())
            if namespace not in namespaces:
                namespaces[namespace] = frozenset(
                    mounted.source.removeprefix(VIEW_SOURCE)
                    for mounted in mountapi.table(process / "mountinfo")
                    if mounted.source.startswith(VIEW_SOURCE) and not mounted.point.startswith(ours)
                )
        except OSError:
            continue  # it ended
        for view in namespaces[namespace]:
            found.setdefault(view, []).append(int(process.name))
    return {view: tuple(sorted(processes)) for view, processes in found.items()}


def images_of_view(paths: Paths, view: str) -> tuple[str, ...]:
    """Digests of the images that a view consists of; empty when it is not known."""
    try:
        return tuple((paths.views / view / "images").read_text().split())
    except OSError:
        return ()


def views(paths: Paths) -> tuple[str, ...]:
    """Every view that is mounted or was left."""
    return _names(paths.views)


def images(paths: Paths) -> tuple[str, ...]:
    """Digests of every image that is mounted or was left."""
    return _names(paths.images)


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(path.name for path in directory.iterdir()))
    except FileNotFoundError:
        return ()
