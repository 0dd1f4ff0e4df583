"""What a program of the package will see below /usr: its package, its libraries, the image. Pure.

Feature packages that a feature depends on are not in its view: it talks to
them over IPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imager.tree import Entry, Tree
from manifests.interface import OsInterface

_MERGED = ("bin", "sbin", "lib", "lib64")
_LINKS_AT_MOST = 40


@dataclass(frozen=True)
class Layer:
    """One package in the view. label: how findings name it."""

    label: str
    tree: Tree


def plain(path: str) -> str:
    """The path without a leading slash, with /bin and its like as what they are links to."""
    parts = path.strip("/").split("/")
    return "/".join(["usr", *parts] if parts[0] in _MERGED else parts)


class View:
    """Layers, the nearest first, over an image.

    whole_image: its programs may be all files of the image, as those of a
    system package may; otherwise only what the image promises.
    """

    def __init__(
        self, layers: Sequence[Layer], interface: OsInterface, *, whole_image: bool = False
    ) -> None:
        self.layers = tuple(layers)
        self.interface = interface
        self.image = frozenset(map(plain, interface.files))
        self._programs = self.image if whole_image else frozenset(map(plain, interface.programs))

    def resolve(self, path: str) -> str:
        """The path with every link of the layers followed; "" for a loop."""
        done: list[str] = []
        todo = plain(path).split("/")
        links = 0
        while todo:
            name = todo.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                del done[-1:]
                continue
            entry = self._entry("/".join([*done, name]))
            if entry is None or entry.kind != "symlink":
                done.append(name)
                continue
            links += 1
            if links > _LINKS_AT_MOST:
                return ""
            if entry.target.startswith("/"):
                done, target = [], plain(entry.target)
            else:
                target = entry.target
            todo = [*target.split("/"), *todo]
        return "/".join(done)

    def file(self, path: str) -> Entry | None:
        """The file of a layer that path leads to, or None."""
        entry = self._entry(self.resolve(path))
        return entry if entry is not None and entry.kind == "file" else None

    def exists(self, path: str) -> bool:
        """Whether anything is there, in a layer or in the image."""
        place = self.resolve(path)
        if self._entry(place) is not None or place in self.image:
            return True
        return any(name.startswith(f"{place}/") for name in self.image)

    def cannot_run(self, path: str) -> str:
        """Why a program cannot be started; "" when it can."""
        place = self.resolve(path)
        entry = self._entry(place)
        if entry is not None:
            if entry.kind != "file":
                return "is a directory"
            return "" if entry.mode & 0o111 else "is not executable"
        if place in self._programs or plain(path) in self._programs:
            return ""
        if place in self.image:
            return "is in the image, which does not promise it to packages"
        return "is neither in the package nor in its libraries nor among the image's programs"

    def _entry(self, path: str) -> Entry | None:
        for layer in self.layers:
            entry = layer.tree.get(path)
            if entry is not None:
                return entry
        return None
