"""Builds one package: content → checks → manifest → image → signature → NAME_VERSION_ARCH.opk."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from imager.cache import Cache, space_error
from imager.mirror import Mirror
from imager.package.content import Gathered, Place, gather
from imager.package.dependencies import (
    Dependencies,
    collision_findings,
    fit_findings,
    overlay_findings,
    requirement_findings,
    resolve,
)
from imager.package.findings import Finding, refuse
from imager.package.image import write_image
from imager.package.interfaces import interface_findings
from imager.package.opk import SBOM, SUFFIX, OpkFile, file_name, read_opk, write_opk
from imager.package.programs import command_findings, has_machine_code, program_findings
from imager.package.sbom import make_lock, make_package_sbom
from imager.package.signing import PackageSigner
from imager.package.view import Layer, View
from imager.pyc import compile_sources
from imager.tools import Tools
from imager.tree import Tree
from manifests.architectures import DEBIAN
from manifests.decoding import decode_json
from manifests.interface import FORMAT, OsInterface
from manifests.package import PackageSource
from manifests.package_convert import device_manifest
from manifests.versions import compare_versions
from recovery import value
from recovery.errors import ManifestError, ToolError
from recovery.packages import model
from recovery.packages.digest import file_digest
from recovery.reporter import Reporter, SilentReporter

INTERFACE = "interface.json"
_PYTHON = re.compile(r"usr/bin/python(3\.[0-9]+)")


@dataclass(frozen=True)
class PackageWorkshop:
    """What building needs beside the package's folder.

    interface: of the image it is built against. signer: the publisher's. keys:
    the key directory. architecture: Debian's name of the target's.
    available: package files at hand for dependencies. previous: the version
    before, for its interfaces. built: time of all files, seconds since the epoch.
    """

    cache: Cache
    tools: Tools
    interface: OsInterface
    signer: PackageSigner
    keys: Path
    architecture: str
    built: int
    available: Sequence[OpkFile] = ()
    previous: OpkFile | None = None
    mirror: Mirror | None = None
    refresh: bool = False
    reporter: Reporter = field(default_factory=SilentReporter)


@dataclass(frozen=True)
class BuiltPackage:
    """opk: the file. lock: what its content was made of, beside it; None for nothing from
    elsewhere. left_out: what Debian packages brought outside usr/."""

    opk: OpkFile
    lock: Path | None
    left_out: tuple[str, ...]


def load_interface(build: Path) -> OsInterface:
    """What the image in a build directory promises. Raises ManifestError."""
    path = build / INTERFACE if build.is_dir() else build
    try:
        interface = decode_json(path.read_bytes(), OsInterface)
        if interface.format != FORMAT:
            raise ValueError(f"its format is {interface.format}, not {FORMAT}")
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ManifestError(
            f"cannot read what the image promises to packages: {path}",
            details=str(error),
            resolution="name a build directory of 'orbital image build'",
        ) from error
    return interface


def target_architecture(interface: OsInterface, chosen: str | None = None) -> str:
    """Debian's name of the architecture to build for. Raises ManifestError."""
    own = DEBIAN.get(interface.architecture, interface.architecture)
    wanted = DEBIAN.get(chosen, chosen) if chosen else own
    if wanted != own:
        raise ManifestError(
            f"cannot build for {wanted} against an image for {own}",
            resolution="name the build directory of an image for that architecture",
        )
    return own


def build_package(source: PackageSource, output: Path, workshop: PackageWorkshop) -> BuiltPackage:
    """Writes OUTPUT/NAME_VERSION_ARCH.opk, and a .lock beside it; same inputs, same bytes.

    Raises RefusedError that lists everything that is wrong with the package;
    what gathering its content raises; TrustError and ToolError from signing.
    Then nothing is written.
    """
    name = f"{source.manifest.package} {source.manifest.version}"
    with tempfile.TemporaryDirectory(prefix="orbital-package.") as scratch:
        workshop.reporter.stage("content")
        place = _place(workshop, Path(scratch))
        gathered = gather(source, place)
        _add_bytecode(gathered.tree, place, workshop.tools)
        workshop.reporter.stage("check")
        manifest = complete_manifest(source, gathered.tree, workshop.architecture)
        refuse(name, findings(manifest, gathered, workshop))
        workshop.reporter.stage("write")
        tree = _image_tree(manifest, gathered)
        image = Path(scratch) / "image.erofs"
        try:
            write_image(
                tree,
                image,
                workshop.tools,
                name=f"{manifest.name}_{manifest.version}",
                built=workshop.built,
            )
            signature = workshop.signer.sign(file_digest(image))
            write_opk(image, signature, output / file_name(manifest))
            lock = _write_lock(output / file_name(manifest), gathered)
        except OSError as error:
            raise space_error(error, f"write {file_name(manifest)}", output) or ToolError(
                f"cannot write {output / file_name(manifest)}: {error.strerror}",
                resolution="choose a folder you can write to with --output",
            ) from error
    # What a device would find, read back from what was written.
    opk = read_opk(output / file_name(manifest), workshop.keys)
    return BuiltPackage(opk, lock, gathered.left_out)


def complete_manifest(source: PackageSource, tree: Tree, architecture: str) -> model.Package:
    """The device's document, with what only the content tells."""
    manifest = device_manifest(source, architecture if has_machine_code(tree) else "all")
    if manifest.kind == "system":
        files = tuple(path for path, entry in tree.items() if entry.kind != "directory")
        manifest = value.replace(manifest, overlay=files)
    return manifest


def findings(
    manifest: model.Package, gathered: Gathered, workshop: PackageWorkshop
) -> Iterator[Finding]:
    """Everything that is wrong with the package."""
    yield from gathered.findings
    yield from _kind_findings(manifest, gathered.tree)
    yield from fit_findings(manifest, workshop.interface)
    yield from _previous_findings(manifest, workshop.previous)
    if manifest.kind == "suite":
        return
    tree = gathered.tree
    dependencies = resolve(manifest, workshop.available, workshop.architecture)
    yield from dependencies.missing
    view = _view(manifest, tree, dependencies, workshop.interface)
    yield from program_findings(tree, view, workshop.architecture)
    yield from command_findings(manifest, view)
    others = dict.fromkeys((*dependencies.packages, *dependencies.libraries))
    yield from collision_findings(tree, manifest, workshop.interface, tuple(others))
    yield from overlay_findings(tree, manifest)
    yield from requirement_findings(manifest, dependencies.packages)
    yield from interface_findings(manifest, tree, workshop.previous)


def read_available(places: Sequence[Path], keys: Path) -> tuple[OpkFile, ...]:
    """The package files in folders (and below), or named one by one; each is verified.

    Raises ManifestError when there are none, and what `read_opk` raises.
    """
    files: list[Path] = []
    for place in places:
        found = sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place]
        if not found:
            raise ManifestError(
                f"cannot find package files in {place}",
                resolution=f"name a folder that holds *{SUFFIX}, or such a file",
            )
        files += found
    return tuple(read_opk(path, keys) for path in dict.fromkeys(files))


def _place(workshop: PackageWorkshop, scratch: Path) -> Place:
    found = (_PYTHON.fullmatch(path) for path in workshop.interface.files)
    return Place(
        architecture=workshop.architecture,
        python=next((match[1] for match in found if match), ""),
        cache=workshop.cache,
        scratch=scratch,
        mirror=workshop.mirror,
        refresh=workshop.refresh,
    )


def _add_bytecode(tree: Tree, place: Place, tools: Tools) -> None:
    """Adds compiled Python modules: a read-only view cannot keep what it compiles.

    Not when the image's Python is another version than the tools': the device
    then compiles at each start.
    """
    sources = {path: tree.read(path) for path in tree.glob("usr/lib/**.py")}
    if not sources or not (tools.directory / f"tree/usr/bin/python{place.python}").exists():
        return
    folder = place.scratch / "python"
    compile_sources(sources, folder, tools)
    for path in sorted(folder.rglob("*.pyc")):
        name = path.relative_to(folder).as_posix()
        if name not in tree:
            tree.file(name, path.read_bytes())


def _view(
    manifest: model.Package, tree: Tree, dependencies: Dependencies, interface: OsInterface
) -> View:
    layers = [Layer("the package", tree)]
    layers += [
        Layer(f"{item.manifest.name} {item.manifest.version}", item.tree)
        for item in dependencies.libraries
    ]
    return View(layers, interface, whole_image=manifest.kind == "system")


def _kind_findings(manifest: model.Package, tree: Tree) -> Iterator[Finding]:
    if manifest.kind in ("library", "system") and not len(tree):
        yield Finding("content", f"a {manifest.kind} package without files has no use")
    if not manifest.publisher:
        yield Finding(
            "publisher", "nobody is named", "name the publisher whose key signs the package"
        )
    for path in (model.MANIFEST, SBOM):
        if path in tree:
            yield Finding(path, "is a name of the image's own")


def _previous_findings(manifest: model.Package, previous: OpkFile | None) -> Iterator[Finding]:
    if previous is None:
        return
    before = previous.manifest
    if before.name != manifest.name:
        yield Finding("--previous", f"is a version of {before.name}, not of {manifest.name}")
    elif compare_versions(before.version, manifest.version) >= 0:
        yield Finding(
            "version", f"{manifest.version} is not newer than --previous, {before.version}"
        )


def _image_tree(manifest: model.Package, gathered: Gathered) -> Tree:
    tree = gathered.tree.copy()
    tree.file(model.MANIFEST, model.encode(manifest))
    if gathered.debian or gathered.components:
        tree.file(SBOM, make_package_sbom(manifest, gathered))
    return tree


def _write_lock(opk: Path, gathered: Gathered) -> Path | None:
    path = opk.with_suffix(".lock")
    text = make_lock(gathered)
    if not text:
        path.unlink(missing_ok=True)
        return None
    path.write_text(text)
    return path
