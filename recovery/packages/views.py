"""Views: the /usr that the programs of one package see, made of verified images only.

A view is one read-only overlay, topmost first: the package, the packages it
uses, system packages that are layered over the image, the image's own /usr.
Its name follows from what it is made of, so a set that comes back finds its
view, and two packages made of the same things share one.

    /run/orbital/packages/base/          the image's /usr, whatever lies over /usr
    /run/orbital/packages/views/VIEW/    usr/ the mount; images: digests, one a line
"""

from __future__ import annotations

import hashlib
import os

from recovery.packages import inuse, mountapi
from recovery.packages.paths import VIEW_SOURCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from recovery.packages.paths import Paths


def view_name(root_hash: str, digests: Sequence[str]) -> str:
    """Name of the view made of these images, topmost first, over the OS image."""
    text = "\n".join((root_hash, *digests))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def layers_of(paths: Paths, digests: Sequence[str]) -> list[Path]:
    """The usr directories of the images that have one, topmost first; the image's own last."""
    found = [paths.image(digest) / "usr" for digest in digests]
    return [*(path for path in found if path.is_dir()), ensure_base(paths)]


def ensure_base(paths: Paths) -> Path:
    """The image's own /usr under another name, made before anything is mounted over /usr."""
    if not os.path.ismount(paths.base):
        paths.base.mkdir(parents=True, exist_ok=True)
        mountapi.attach(mountapi.clone(paths.root / "usr"), paths.base)
    return paths.base


def ensure_view(paths: Paths, root_hash: str, digests: Sequence[str]) -> Path:
    """The /usr of the view of these images, which are mounted; made if it is not there.

    Raises OSError with the kernel's words.
    """
    name = view_name(root_hash, digests)
    target = paths.view(name)
    if os.path.ismount(target):
        return target
    target.mkdir(parents=True, exist_ok=True)
    (paths.views / name / "images").write_text("".join(f"{digest}\n" for digest in digests))
    lower = layers_of(paths, digests)
    if len(lower) == 1:
        # A package without files of its own: its programs are the image's.
        mountapi.attach(mountapi.clone(lower[0]), target)
    else:
        mountapi.attach(mountapi.overlay(f"{VIEW_SOURCE}{name}", lower), target)
    return target


def retire(paths: Paths, keep: Collection[str]) -> tuple[str, ...]:
    """Takes views and images away that are neither in keep (digests) nor in use; returns images.

    A view stays while all its images do: it comes back at no cost. Who still
    runs in a view keeps its own mount of it; the images of such a view stay,
    so that `in_use` can tell about them.
    """
    used = inuse.users_of_views(paths)
    needed = set(keep)
    for view in inuse.views(paths):
        digests = inuse.images_of_view(paths, view)
        if view in used:
            needed.update(digests)
        elif not needed.issuperset(digests):
            _drop(paths.view(view))
            (paths.views / view / "images").unlink(missing_ok=True)
            (paths.views / view).rmdir()
    gone = tuple(digest for digest in inuse.images(paths) if digest not in needed)
    for digest in gone:
        # Lazily: an overlay that is still used holds its layers by itself.
        _drop(paths.image(digest))
    return gone


def _drop(target: Path) -> None:
    if os.path.ismount(target):
        mountapi.detach(target)
    if target.is_dir():
        target.rmdir()
