"""Gathers the content of a package: every source in turn, then one tree of usr/.

Order: Debian packages, tars, wheels, folders. A folder is the author's own and
may replace what the others brought; anything else that two sources bring with
different content is a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imager.cache import Cache
from imager.lock import DebianPackage
from imager.mirror import Mirror
from imager.package.collect import Collector
from imager.package.findings import Finding
from imager.package.sources import (
    collect_directory,
    collect_tar,
    fetch_debian,
    read_tar,
)
from imager.package.wheel import collect_wheel
from imager.tree import Entry, Tree
from manifests.feature import Content, FeaturePackage, LibraryPackage
from manifests.package import PackageSource, SystemPackage
from manifests.package_convert import definition_path
from recovery.errors import ManifestError


@dataclass(frozen=True)
class Component:
    """A thing from elsewhere that is in the package. kind: tar or wheel. sha256: of the file."""

    kind: str
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Gathered:
    """What a package consists of.

    tree: usr/ and below, modes and owners as in every package. debian,
    components: where it is from. findings: what is wrong with it. left_out:
    paths outside usr/ that Debian packages brought and the package does not have.
    """

    tree: Tree
    debian: tuple[DebianPackage, ...]
    components: tuple[Component, ...]
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where content is gathered for.

    architecture: Debian's name. python: version of the image's Python ("3.13"),
    "" for none. scratch: a folder that must stay while the tree is used.
    """

    architecture: str
    python: str
    cache: Cache
    scratch: Path
    mirror: Mirror | None = None
    refresh: bool = False


def gather(source: PackageSource, place: Place) -> Gathered:
    """The package's content; nothing for a suite.

    Raises ManifestError for a source that is not there, ToolError for a damaged
    one, and what fetching Debian packages raises.
    """
    manifest, folder = source.manifest, source.folder
    match manifest:
        case FeaturePackage() | LibraryPackage():
            gathering = _Gathering(manifest.content, folder, place)
            gathering.run()
            if isinstance(manifest, FeaturePackage):
                for item in manifest.provides:
                    gathering.add_definition(item.interface, folder / item.definition)
            return gathering.result()
        case SystemPackage():
            content = Content(directories=("tree",), exclude=("etc/**",))
            gathering = _Gathering(content, folder, place)
            if source.tree is not None:
                gathering.run()
            return gathering.result()
        case _:
            return Gathered(Tree(), (), (), (), ())


class _Gathering:
    def __init__(self, content: Content, folder: Path, place: Place) -> None:
        self._content, self._folder, self._place = content, folder, place
        self._tree = Tree()
        self._owners: dict[str, str] = {}
        self._debian: list[DebianPackage] = []
        self._components: list[Component] = []
        self._findings: list[Finding] = []
        self._left_out: list[str] = []

    def run(self) -> None:
        content, place = self._content, self._place
        for item in fetch_debian(
            content.debian,
            place.architecture,
            place.cache,
            mirror=place.mirror,
            refresh=place.refresh,
        ):
            self._debian.append(item.package)
            label = f"Debian's {item.package.name}"
            self._merge(read_tar(item.data, label, drop_outside=True))
        for name in content.tars:
            path = self._inside(name)
            collector = collect_tar(path, name, place.scratch)
            digest = place.cache.content(path)
            self._components.append(Component("tar", path.name, "", digest))
            self._merge(collector)
        for name in content.wheels:
            wheel, collector = collect_wheel(self._inside(name), place.architecture, place.python)
            self._components.append(Component("wheel", wheel.name, wheel.version, wheel.sha256))
            self._merge(collector)
        for name in self._directories():
            self._merge(collect_directory(self._inside(name), f"{name}/"), replaces=True)

    def add_definition(self, interface: str, path: Path) -> None:
        """Puts the definition of a provided interface where everybody looks for it."""
        if not path.is_file():
            self._findings.append(
                Finding(f"provides {interface}", f"there is no definition {path}")
            )
            return
        place = definition_path(interface)
        entry = Entry("file", 0o644, content=path.read_bytes())
        present = self._tree.get(place)
        if present is not None and (present.kind != "file" or present.read() != entry.content):
            self._findings.append(Finding(place, "is in the content, with another definition"))
            return
        self._tree.put(place, entry)

    def result(self) -> Gathered:
        return Gathered(
            _without_empty(self._tree),
            tuple(self._debian),
            tuple(self._components),
            tuple(self._findings),
            tuple(sorted(set(self._left_out))),
        )

    def _directories(self) -> tuple[str, ...]:
        if self._content.directories or not (self._folder / "tree").is_dir():
            return self._content.directories
        return ("tree",)

    def _inside(self, name: str) -> Path:
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise ManifestError(
                f"cannot take content from {name}: it lies outside the package's folder",
                resolution="copy it into the folder, so that the package can be built anywhere",
            )
        return path

    def _merge(self, collector: Collector, *, replaces: bool = False) -> None:
        collector.exclude(self._content.exclude)
        self._findings += collector.findings
        self._left_out += collector.left_out
        for path, entry in collector.tree.items():
            present = self._tree.get(path)
            owner = self._owners.get(path, "")
            if present is None or (replaces and present.kind == entry.kind == "file"):
                if self._fits(path, collector.label):
                    self._tree.put(path, entry)
                    self._owners[path] = collector.label
            elif not _same(present, entry):
                self._findings.append(
                    Finding(path, f"comes from {owner} and, different, from {collector.label}")
                )

    def _fits(self, path: str, label: str) -> bool:
        """Whether all above path are directories, so that it can be placed."""
        parent = path.rpartition("/")[0]
        while parent:
            present = self._tree.get(parent)
            if present is not None and present.kind != "directory":
                problem = f"from {label} lies below {parent}, a {present.kind}"
                self._findings.append(Finding(path, problem))
                return False
            parent = parent.rpartition("/")[0]
        return True


def _same(left: Entry, right: Entry) -> bool:
    if (left.kind, left.mode, left.target, left.size) != (
        right.kind,
        right.mode,
        right.target,
        right.size,
    ):
        return False
    return left.kind != "file" or left.read() == right.read()


def _without_empty(tree: Tree) -> Tree:
    """Directories with nothing in them go: a checkout by git does not have them either."""
    full = Tree()
    for path, entry in tree.items():
        if entry.kind != "directory":
            full.put(path, entry)
    return full
