"""What no generation needs and no program uses any more, removed.

Needed is what the committed, previous, undo, trial and changing generations
have, with the versions that they may roll back to. In use is what the active
set or a running program has mounted (`PackageHost.in_use`), and state layers
that are mounted anywhere.

    store/DIGEST            image of a package
    layers/NAME/N/          state layer
    generations/N.json      record; with etc/N

Nothing here is a commit point: every removal is of something that nothing
durable names, so a power cut leaves less to do for the next run.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recovery import durable
from recovery.errors import OrbitalError, StateError
from recovery.generations import Generation
from recovery.packages import mountapi
from updater.packages.device import PackageDevice

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LAYER = re.compile(r"/orbital/layers/([^/]+)/([0-9]+)(?:/|$)")

log = logging.getLogger("orbital")


@dataclass(frozen=True)
class Garbage:
    """What can go, and what has to wait.

    images: digests. layers: (package, number). generations: numbers. bytes: on
    disk, of images and layers. held_images, held_layers: not needed by any
    generation, but by a program that runs.
    """

    images: tuple[str, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    generations: tuple[int, ...] = ()
    bytes: int = 0
    held_images: tuple[str, ...] = ()
    held_layers: tuple[tuple[str, int], ...] = ()


def collect(device: PackageDevice, *, dry_run: bool = False) -> Garbage:
    """Removes garbage and returns it; with dry_run only says what it is. The caller holds the lock.

    Raises StateError when a generation that has to be kept cannot be read:
    then nobody knows what it needs.
    """
    store = device.store
    if not dry_run:
        device.host.retire()
    garbage = _find(device)
    if dry_run:
        return garbage
    for digest in garbage.images:
        durable.remove_file(store.root / "store" / digest)
    for name, number in garbage.layers:
        shutil.rmtree(store.root / "layers" / name / str(number), ignore_errors=True)
    for cut in (store.root / "layers").glob("*/*.new"):
        shutil.rmtree(cut, ignore_errors=True)
    for directory in (store.root / "layers").glob("*"):
        with contextlib.suppress(OSError):
            directory.rmdir()  # only if nothing is left in it
    store.generations.prune(store.load().referenced())
    return garbage


def after_change(device: PackageDevice) -> None:
    """Collects after a change; whatever is wrong is only logged, for the change stands."""
    try:
        collect(device)
    except (OrbitalError, OSError) as error:
        log.warning("cannot remove what is not needed any more: %s", error)


def _find(device: PackageDevice) -> Garbage:
    store = device.store
    keep = store.load().referenced()
    kept = [_load(device, number) for number in sorted(keep)]
    digests = {digest for generation in kept for digest in generation.digests()}
    layers = {layer for generation in kept for layer in generation.state_layers()}
    images = {path.name for path in _files(store.root / "store")} - digests
    loose = set(_layers(store.root / "layers")) - layers
    used = device.host.in_use() if images else frozenset()
    mounted = layers_in_use(device.root / "proc") if loose else frozenset()
    gone, free = images - used, loose - mounted
    return Garbage(
        images=tuple(sorted(gone)),
        layers=tuple(sorted(free)),
        generations=tuple(number for number in store.generations.numbers() if number not in keep),
        bytes=sum(_size(store.root / "store" / digest) for digest in gone)
        + sum(_size(store.root / "layers" / name / str(number)) for name, number in free),
        held_images=tuple(sorted(images & used)),
        held_layers=tuple(sorted(loose & mounted)),
    )


def layers_in_use(proc: Path) -> frozenset[tuple[str, int]]:
    """State layers that any process has mounted, or something inside them."""
    found = set()
    for path in proc.glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):  # it ended
            for mounted in mountapi.table(path):
                match = _LAYER.search(mounted.root)
                if match:
                    found.add((match[1], int(match[2])))
    return frozenset(found)


def _load(device: PackageDevice, number: int) -> Generation:
    generation = device.store.generations.load(number)
    if generation is None:
        raise StateError(
            f"cannot collect garbage: the record of generation {number} cannot be read",
            details="nobody knows which packages it needs",
            resolution="reboot: early boot makes records of running images again",
        )
    return generation


def _files(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (path for path in directory.iterdir() if _DIGEST.fullmatch(path.name))


def _layers(directory: Path) -> Iterable[tuple[str, int]]:
    for path in directory.glob("*/*"):
        if path.name.isascii() and path.name.isdigit():
            yield path.parent.name, int(path.name)


def _size(path: Path) -> int:
    """Bytes on disk of a file or a directory's files."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_blocks * 512
    return total
