"""The board's kernel: its image, and the modules that initramfs and root image keep.

Comes from the board's Debian package, unpacked only: nothing of it runs here.
"""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from imager import bootstrap, modules
from imager.bootstrap import LOCK_MEMBER
from imager.cache import Cache, Input
from imager.debian import EPOCH
from imager.lock import DebianPackage, format_lock, parse_lock
from imager.mirror import Mirror, find_mirror
from imager.modules import ModuleIndex, parse_index
from imager.tools import Tools
from imager.tree import Tree
from imager.unpack import read_debs, unpack
from manifests.architectures import DEBIAN
from manifests.board import Board
from recovery.errors import ManifestError, ToolError

_INDEX_FILES = ("modules.dep", "modules.softdep", "modules.alias", "modules.builtin")
# Raise when what `prepare_kernel` keeps of the package changes.
_VERSION = 2
# Made by the kernel's build, not by depmod; depmod needs them.
_ORDER_FILES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package. version: as `uname -r` will say."""

    directory: Path
    version: str
    tools: Tools = field(compare=False, repr=False)
    cache: Cache = field(compare=False, repr=False)

    @property
    def image(self) -> Path:
        """The compressed kernel, as a boot loader starts it."""
        return self.directory / "vmlinuz"

    def device_tree(self, name: str | None) -> Path | None:
        """A device tree of the package. Raises ManifestError when it has none of that name."""
        if name is None:
            return None
        path = self.directory / "device-trees" / name
        if not path.is_file():
            raise ManifestError(
                f"cannot find the device tree {name} in the kernel package",
                resolution="check kernel.device_tree of the board: paths are as below "
                f"/usr/lib/linux-image-{self.version}",
            )
        return path

    @property
    def packages(self) -> tuple[DebianPackage, ...]:
        """What was fetched for it; only the package with the kernel itself is used."""
        found = parse_lock((self.directory / LOCK_MEMBER).read_text())
        return tuple(item for item in found if item.name == f"linux-image-{self.version}")

    @cached_property
    def index(self) -> ModuleIndex:
        """Which modules there are and what they need."""
        return parse_index({name: (self._modules / name).read_text() for name in _INDEX_FILES})

    def module_files(self, names: Iterable[str]) -> list[tuple[str, Path]]:
        """The modules and all they need, in load order, as (name, decompressed .ko file).

        Modules that are built into the kernel are left out.
        Raises ManifestError for a name that the kernel does not have.
        """
        order = self.index.closure(names)
        inputs: dict[str, Input] = {
            "kernel": self.cache.content(self.directory / LOCK_MEMBER),
            "modules": " ".join(sorted(order)),
        }
        directory = self.cache.stage("modules", inputs, lambda out: self._decompress(order, out))
        return [(name, directory / f"{name}.ko") for name in order]

    def module_tree(self, names: Iterable[str]) -> Tree:
        """/usr/lib/modules with the modules, all they need, and depmod's files for just these."""
        chosen = self.module_files(sorted(set(names)))
        inputs: dict[str, Input] = {
            "kernel": self.cache.content(self.directory / LOCK_MEMBER),
            "modules": " ".join(sorted(name for name, _ in chosen)),
            "tools": self.tools.lock,
            "code": [Path(modules.__file__), Path(__file__)],
        }

        def build(directory: Path) -> None:
            top = directory / "usr/lib/modules" / self.version
            for name, source in chosen:
                path = top / self.index.files[name].removesuffix(".xz")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read_bytes())
            top.mkdir(parents=True, exist_ok=True)
            for name in _ORDER_FILES:
                (top / name).write_bytes((self._modules / name).read_bytes())
            self.tools.run("depmod", "-b", directory / "usr", self.version)

        return Tree.from_directory(self.cache.stage("module-tree", inputs, build))

    @property
    def _modules(self) -> Path:
        return self.directory / "lib/modules" / self.version

    def _decompress(self, order: list[str], directory: Path) -> None:
        for name in order:
            path = self._modules / self.index.files[name]
            data = path.read_bytes()
            if path.suffix == ".xz":
                data = lzma.decompress(data)
            (directory / f"{name}.ko").write_bytes(data)


def prepare_kernel(
    board: Board,
    cache: Cache,
    tools: Tools,
    *,
    mirror: Mirror | None = None,
    refresh: bool = False,
) -> Kernel:
    """The board's kernel, from the cache or fetched now.

    Raises what `imager.bootstrap.bootstrap` raises; ToolError when the package has no kernel;
    ManifestError when kernel.archive is not there.
    """
    own = None if board.kernel.archive is None else Path(board.kernel.archive)

    def build(directory: Path) -> None:
        archives = [own.read_bytes()] if own else _fetch(board, directory, mirror)
        debs = read_debs(archives, directory / "parts")
        _unpack(unpack(debs), directory, board)
        shutil.rmtree(directory / "parts")
        (directory / LOCK_MEMBER).write_text(format_lock(deb.package for deb in debs))
        version = (directory / "version").read_text()
        tools.run("depmod", "-b", directory, version)

    inputs: dict[str, Input] = {
        "package": board.kernel.package,
        "architecture": board.architecture,
        "version": f"{bootstrap.VERSION}.{_VERSION}",
    }
    if board.kernel.device_tree:
        inputs["device-tree"] = board.kernel.device_tree
    if own:
        if not own.is_file():
            raise ManifestError(
                f"cannot find the kernel of board {board.board}: there is no {own}",
                details=f"{board.kernel.package} is not Debian's; its maker publishes it",
                resolution="put the maker's .deb file there, or change kernel.archive",
            )
        inputs["archive"] = own
    directory = cache.stage("kernel", inputs, build, refresh=refresh)
    return Kernel(directory, (directory / "version").read_text(), tools, cache)


def _fetch(board: Board, directory: Path, mirror: Mirror | None) -> list[bytes]:
    """The archives of Debian's package."""
    fetched = directory / "kernel.tar"
    bootstrap.download_kernel(
        board.kernel.package,
        fetched,
        mirror=mirror or find_mirror(),
        epoch=EPOCH,
        architecture=DEBIAN[board.architecture],
    )
    archives = Tree.from_tar(fetched)
    found = [archives.read(path) for path in archives.glob(f"{bootstrap.ARCHIVES}/*.deb")]
    fetched.unlink()
    return found


def _unpack(tree: Tree, directory: Path, board: Board) -> None:
    images = tree.glob("boot/vmlinu[xz]-*")
    if len(images) != 1:
        raise ToolError(
            f"cannot find the kernel of {board.kernel.package}",
            details=f"expected one boot/vmlinuz-VERSION, found: {', '.join(images) or 'none'}",
            resolution="name a linux-image package in the board's kernel.package",
        )
    version = images[0].partition("-")[2]
    (directory / "version").write_text(version)
    (directory / "vmlinuz").write_bytes(tree.read(images[0]))
    (directory / "config").write_bytes(tree.read(f"boot/config-{version}"))
    if board.kernel.device_tree:
        top = f"usr/lib/linux-image-{version}/"
        data = tree.read(top + board.kernel.device_tree)
        target = directory / "device-trees" / board.kernel.device_tree
        target.parent.mkdir(parents=True)
        target.write_bytes(data)
    # Other makers' packages may not know the merged /usr.
    for path in tree.glob(f"usr/lib/modules/{version}/**") + tree.glob(f"lib/modules/{version}/**"):
        entry = tree.get(path)
        if entry is not None and entry.kind == "file":
            target = directory / path.removeprefix("usr/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.read())
