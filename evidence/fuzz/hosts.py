"""Readers of `imager` and `manifests` on the build host: archives, programs, images, YAML."""

from __future__ import annotations

import contextlib
from pathlib import Path

from evidence.fuzz.records import in_folder
from imager.bzimage import open_kernel
from imager.deb import read_deb, read_package
from imager.delta.elf_file import read_executable
from imager.delta.erofs import is_erofs, read_layout
from imager.elf import dependencies
from imager.mirror import find_mirror
from imager.package.build import load_interface
from imager.package.collect import Collector
from imager.package.elf import read_elf
from imager.package.erofs import read_tree
from imager.package.opk import read_opk
from imager.package.pkcs7 import parse_signature
from imager.package.wheel import collect_wheel
from imager.tree import Tree
from manifests.catalogue import load_board, load_package, load_system
from recovery.errors import ManifestError, ToolError


def debian_package(data: bytes) -> None:
    """A .deb."""

    def read(place: Path) -> None:
        read_package(data)
        found = read_deb(data, place)
        Tree.from_tar(found.files)
        outside = {path for path in place.parent.iterdir() if path.name.endswith(".tar")}
        assert not outside, "a file was written outside of the directory"

    in_folder(b"", "x", read)


def tar_archive(data: bytes) -> None:
    """A tar with a root file system."""

    def read(place: Path) -> None:
        for path, entry in Tree.from_tar(place / "x").items():
            assert not path.startswith("/") and ".." not in path.split("/"), path
            if entry.kind == "file":
                entry.read()

    in_folder(data, "x", read)


def program(data: bytes) -> None:
    """An ELF file, as the initramfs, packages and deltas look at it."""
    for read in (dependencies, read_elf):
        try:
            read(data, "x")
        except ToolError:
            continue
    read_executable(data)


def kernel(data: bytes) -> None:
    """A bzImage."""
    open_kernel(data)


def package_image(data: bytes) -> None:
    """The erofs image of a package, and an image that a delta is made of."""

    def read(place: Path) -> None:
        try:
            for path, entry in read_tree(place / "x", len(data)).items():
                assert not path.startswith("/") and ".." not in path.split("/"), path
                entry.read()
        except ManifestError:
            pass
        if is_erofs(data):
            for node in read_layout(data).nodes:
                if not node.packed:
                    node.content(data)

    in_folder(data, "x", read)


def package_file(data: bytes) -> None:
    """A .opk."""
    in_folder(data, "x.opk", lambda place: read_opk(place / "x.opk"))


def pkcs7(data: bytes) -> None:
    """A publisher's signature."""
    parse_signature(data)


def wheel(data: bytes) -> None:
    """A Python wheel."""

    def read(place: Path) -> None:
        _, collector = collect_wheel(place / "demo-2.5-py3-none-any.whl", "amd64", "3.13")
        assert isinstance(collector, Collector)

    in_folder(data, "demo-2.5-py3-none-any.whl", read)


def apt_sources(data: bytes) -> None:
    """apt's sources, in both of their forms."""
    for name in ("sources.list", "sources.list.d/a.sources"):
        with contextlib.suppress(ToolError):
            in_folder(data, name, lambda place: find_mirror(place, {}))


def interface(data: bytes) -> None:
    """interface.json of a build directory."""
    in_folder(data, "interface.json", lambda place: load_interface(place / "interface.json"))


def board(data: bytes) -> None:
    """A board's manifest."""
    in_folder(data, "x.yaml", lambda place: load_board(place / "x.yaml"))


def system(data: bytes) -> None:
    """A system's manifest."""
    in_folder(data, "x.yaml", lambda place: load_system(place / "x.yaml"))


def package(data: bytes) -> None:
    """A package's manifest."""

    def read(place: Path) -> None:
        (place / "wireguard/tree").mkdir()
        load_package(place / "wireguard/package.yaml")

    in_folder(data, "wireguard/package.yaml", read)
