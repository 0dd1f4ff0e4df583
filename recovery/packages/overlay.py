"""What packages add to the system's own /usr: declared paths, nothing else, without a gap.

A package of type feature may offer commands to the administrator, a package of
type system replaces files of the image; both name the paths (`overlay` in the
manifest). Only these may appear, though an image holds more. So the overlay's
top layer is a skeleton: a tmpfs with directories, links, and for each declared
file an empty one that points (overlayfs.rst, "Metadata only copy up" and
"Data-only lower layers") at the verified image that holds the content.

The switch: the new overlay is mounted beneath the one that is on /usr, then
the old one is taken off. At no moment is there a /usr without either.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from recovery.errors import RefusedError
from recovery.packages import mountapi
from recovery.packages.paths import SYSTEM_SOURCE
from recovery.packages.views import ensure_base
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recovery.packages.model import Package
    from recovery.packages.paths import Paths


class Addition(Value):
    """The part of one package. replaces: its files may take the place of the image's."""

    package: str
    digest: str
    paths: tuple[str, ...]
    replaces: bool


def addition(package: Package, digest: str) -> Addition:
    """What a package adds by its manifest."""
    return Addition(package.name, digest, package.overlay, package.kind == "system")


class Overlay:
    """The system's /usr."""

    def __init__(self, paths: Paths) -> None:
        """Nothing is read or changed."""
        self.paths = paths
        self.target = paths.root / "usr"

    def mounted(self) -> str:
        """Name of our overlay that is seen on /usr; "" when there is none."""
        table = mountapi.table(self.paths.root / "proc/self/mountinfo")
        ours = [
            item
            for item in table
            if item.point == str(self.target) and item.source.startswith(SYSTEM_SOURCE)
        ]
        # Several after a switch that was cut: the topmost is nobody's parent.
        below = {item.parent for item in ours}
        top = next((item for item in ours if item.number not in below), None)
        return top.source.removeprefix(SYSTEM_SOURCE) if top is not None else ""

    def apply(self, root_hash: str, additions: Sequence[Addition]) -> dict[str, str]:
        """Makes /usr the image with these additions; returns why by package, of those left out.

        Raises OSError when the system itself cannot do it; /usr is as before then.
        """
        refused: dict[str, str] = {}
        accepted: list[Addition] = []
        taken: set[str] = set()
        for item in additions:
            try:
                files = set(self._check(item))
                if taken & files:
                    raise RefusedError(f"two packages add {min(taken & files)} to the system")
                self._unambiguous(item, files, accepted)
            except (OSError, RefusedError) as error:
                refused[item.package] = str(error)
                continue
            taken |= files
            accepted.append(item)
        before = self.mounted()
        name = _name(root_hash, accepted) if accepted else ""
        if before != name:
            self._switch(name, accepted, bool(before))
        return refused

    def _switch(self, name: str, additions: Sequence[Addition], covered: bool) -> None:
        if name:
            mount = self._make(name, additions)
            # Beneath an overlay of ours, or the first one on top of the image's /usr.
            mountapi.attach(mount, self.target, beneath=covered)
        if covered:
            # From here the new one is seen (or the image, when nothing is added).
            mountapi.detach(self.target)

    def _make(self, name: str, additions: Sequence[Addition]) -> int:
        base = ensure_base(self.paths)
        skeleton = self.paths.run / f"skeleton.{name}"
        skeleton.mkdir(parents=True, exist_ok=True)
        options = [("source", "orbital-skeleton"), ("mode", "0755")]
        attributes = mountapi.NO_SUID | mountapi.NO_DEVICES
        mountapi.attach(mountapi.make("tmpfs", options, (), attributes), skeleton)
        try:
            for item in additions:
                for path in self._check(item):
                    self._place(skeleton, item, path)
            data = [self.paths.image(item.digest) for item in additions]
            return mountapi.overlay(
                f"{SYSTEM_SOURCE}{name}",
                [skeleton, base],
                data=data,
                attributes=mountapi.READ_ONLY | mountapi.NO_DEVICES,
            )
        finally:
            # The overlay holds its layers; nobody needs to see the skeleton.
            mountapi.detach(skeleton)
            skeleton.rmdir()

    def _check(self, item: Addition) -> Iterator[str]:
        """Every file and link that is added, below usr/. Raises RefusedError."""
        top = self.paths.image(item.digest)
        base = ensure_base(self.paths)
        for declared in item.paths:
            start = top / declared
            info = start.lstat()
            found = _files(start) if stat.S_ISDIR(info.st_mode) else iter([start])
            for file in found:
                path = str(file.relative_to(top / "usr"))
                self._fits(item, base, path)
                yield path

    def _fits(self, item: Addition, base: Path, path: str) -> None:
        """The file may be added where it is: directories stay directories."""
        parent = base
        *folders, _ = path.split("/")
        for folder in folders:
            parent = parent / folder
            if _kind(parent) not in (0, stat.S_IFDIR):
                raise RefusedError(f"{path} is below a file of the image")
        existing = _kind(base / path)
        if existing == stat.S_IFDIR:
            raise RefusedError(f"{path} is a directory in the image")
        if existing and not item.replaces:
            raise RefusedError(f"{path} is a file of the image")

    def _unambiguous(self, item: Addition, files: set[str], before: Sequence[Addition]) -> None:
        """Content is looked up by path in all images in turn: no other may have that path."""
        for other in before:
            if other.digest == item.digest:
                continue
            for path in files:
                if _kind(self.paths.image(other.digest) / "usr" / path):
                    raise RefusedError(f"{path} is in package {other.package}, too")

    def _place(self, skeleton: Path, item: Addition, path: str) -> None:
        source = self.paths.image(item.digest) / "usr" / path
        target = skeleton / path
        _make_folders(skeleton, path)
        info = source.lstat()
        if stat.S_ISLNK(info.st_mode):
            target.symlink_to(source.readlink())
            return
        if not stat.S_ISREG(info.st_mode):
            raise RefusedError(f"{path} is no file")
        with target.open("xb") as out:
            out.truncate(info.st_size)
        # Never set-user-ID: what a package adds gives nobody more rights.
        target.chmod(stat.S_IMODE(info.st_mode) & 0o755)
        os.setxattr(target, "trusted.overlay.metacopy", b"")
        # From the image's top: where the base has a folder of the path's first name, the
        # kernel forgets that the redirect is absolute, and finds no data (6.12).
        os.setxattr(target, "trusted.overlay.redirect", f"/usr/{path}".encode())


def _make_folders(top: Path, path: str) -> None:
    """The directories above path; theirs are the modes that /usr shows."""
    for folder in path.split("/")[:-1]:
        top = top / folder
        if not top.is_dir():
            top.mkdir()
            top.chmod(0o755)


def _files(top: Path) -> Iterator[Path]:
    for path in sorted(top.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _kind(path: Path) -> int:
    """File type bits; 0 when it does not exist."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _name(root_hash: str, additions: Sequence[Addition]) -> str:
    parts = [root_hash]
    for item in additions:
        parts += [item.digest, *item.paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
