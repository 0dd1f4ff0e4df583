"""Finds systems, packages and boards by name or path, and puts a product together.

A root is a folder laid out like this repository:

    boards/NAME.yaml
    manifests/systems/NAME.yaml
    manifests/packages/NAME/package.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from manifests.board import Board
from manifests.board_problems import board_problems
from manifests.document import load_document, read_document, refuse
from manifests.health import HealthCheck
from manifests.package import (
    PACKAGE,
    PackageSource,
    SystemPackage,
    SystemSource,
    package_problems,
)
from manifests.problem import Problem, suggestion
from manifests.system import SystemManifest, late_checks, system_problems
from manifests.versions import version_key
from recovery.errors import ManifestError

REPOSITORY = Path(__file__).resolve().parent.parent
_FOLDERS = {
    "board": Path("boards"),
    "system": Path("manifests/systems"),
    "package": Path("manifests/packages"),
    "capabilities": Path("manifests"),
}
_NOT_IN_AN_IMAGE = (
    "only type system is merged into an image; the others are installed on the device "
    "with 'orbital package install'"
)


@dataclass(frozen=True)
class Product:
    """A system for a board: everything that an image is built from.

    packages: the system packages in the order they are merged.
    files: the documents it was read from, the system's first.
    """

    manifest: SystemManifest
    board: Board
    packages: tuple[SystemSource, ...]
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """SYSTEM_VERSION_BOARD, the name of the build directory."""
        return f"{self.manifest.system}_{self.manifest.version}_{self.board.board}"

    @property
    def health(self) -> tuple[HealthCheck, ...]:
        """All checks that a boot must pass: the packages', then the system's."""
        checks = [check for package in self.packages for check in package.manifest.health]
        return (*checks, *self.manifest.health)

    @property
    def debian_packages(self) -> tuple[str, ...]:
        """The Debian packages to install (without the kernel), sorted, each once."""
        names = set(self.manifest.base.debian.packages if self.manifest.base.debian else ())
        for package in self.packages:
            names.update(package.manifest.debian_packages)
        return tuple(sorted(names))

    @property
    def kernel_modules(self) -> tuple[str, ...]:
        """The kernel modules to keep in the image (each with what it needs), sorted."""
        names = {*self.board.kernel.modules, *self.manifest.kernel_modules}
        for package in self.packages:
            names.update(package.manifest.kernel_modules)
        return tuple(sorted(names))

    @property
    def enabled_units(self) -> tuple[str, ...]:
        """The systemd units that start at boot, sorted, each once."""
        names = set(self.manifest.units.enable)
        for package in self.packages:
            names.update(package.manifest.enable)
        return tuple(sorted(names))

    @property
    def base_path(self) -> Path | None:
        """The tar archive or folder the image starts from; None for a Debian base."""
        chosen = self.manifest.base.tar or self.manifest.base.directory
        return self.files[0].parent / chosen if chosen else None


def load_product(
    system: str,
    board: str,
    search: Sequence[Path] = (REPOSITORY,),
    version: str | None = None,
) -> Product:
    """Reads a system, its packages and a board, and checks that they fit together.

    system, board: names looked up in the roots of search, or paths of YAML files.
    version: replaces the manifest's version.

    Raises ManifestError that names the document, line and key.
    """
    system_file = find("system", system, search)
    board_file = find("board", board, search)
    manifest = load_system(system_file)
    if version is not None:
        version_key(version)
        manifest = msgspec.structs.replace(manifest, version=version)
    product_board = load_board(board_file)
    if manifest.boards and product_board.board not in manifest.boards:
        raise ManifestError(
            f"cannot build {manifest.system} for board {product_board.board}:"
            f" {system_file} is made for {', '.join(manifest.boards)}",
            resolution=f'choose one of these boards, or add "{product_board.board}" to boards',
        )
    package_files = _package_files(manifest, system_file, search)
    packages = _system_packages(system_file, package_files)
    product = Product(manifest, product_board, packages, (system_file, board_file, *package_files))
    _check_health(product)
    return product


def load_system(path: Path) -> SystemManifest:
    """Reads one system manifest. Raises ManifestError."""
    return load_document(path, SystemManifest, system_problems)


def load_board(path: Path) -> Board:
    """Reads one board; kernel.archive becomes absolute. Raises ManifestError."""
    board = load_document(path, Board, board_problems)
    if board.kernel.archive is None:
        return board
    archive = str(path.resolve().parent / board.kernel.archive)
    kernel = msgspec.structs.replace(board.kernel, archive=archive)
    return msgspec.structs.replace(board, kernel=kernel)


def load_package(path: Path) -> PackageSource:
    """Reads one package manifest and looks at the files beside it. Raises ManifestError.

    A system package comes as `SystemSource`.
    """
    folder = path.resolve().parent
    manifest = load_document(path, PACKAGE, lambda document: package_problems(document, folder))
    if isinstance(manifest, SystemPackage):
        return SystemSource(manifest, folder)
    return PackageSource(manifest, folder)


def load_system_package(path: Path) -> SystemSource:
    """Reads the manifest of a package for an image. Raises ManifestError, also for other kinds."""
    source = load_package(path)
    if not isinstance(source, SystemSource):
        raise ManifestError(
            f"cannot put the package {source.manifest.package} into an image: {path} has"
            f" type {_type(source)}",
            resolution=_NOT_IN_AN_IMAGE,
        )
    return source


def names(kind: str, search: Sequence[Path] = (REPOSITORY,)) -> tuple[str, ...]:
    """The names of all documents of a kind in the roots, sorted."""
    found: set[str] = set()
    for root in search:
        folder = root / _FOLDERS[kind]
        if kind == "package":
            found.update(path.parent.name for path in _packages(folder))
        else:
            found.update(path.stem for path in folder.glob("*.yaml"))
    return tuple(sorted(found))


def find(kind: str, name: str, search: Sequence[Path] = (REPOSITORY,)) -> Path:
    """The file of a system, package or board given by name or path.

    Raises ManifestError, with a suggestion, when there is none.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name)
        if path.is_file():
            return path
        if kind == "package" and (path / "package.yaml").is_file():
            return path / "package.yaml"
        raise ManifestError(f"cannot find {kind} {name}: no such file", resolution="check the path")
    for root in search:
        folder = root / _FOLDERS[kind]
        path = folder / name / "package.yaml" if kind == "package" else folder / f"{name}.yaml"
        if path.is_file():
            return path
    known = names(kind, search)
    folders = ", ".join(str(root / _FOLDERS[kind]) for root in search)
    raise ManifestError(
        f"cannot find {kind} {name} in {folders}",
        resolution=f"{suggestion(name, known)}known: {', '.join(known) or 'none'}",
    )


def _package_files(
    manifest: SystemManifest, system_file: Path, search: Sequence[Path]
) -> tuple[Path, ...]:
    """The files of a system's packages: beside its own folder first, then in the roots."""
    near = [system_file.parent / "packages", system_file.parent.parent / "packages"]
    folders = [*near, *(root / _FOLDERS["package"] for root in search)]
    files: list[Path] = []
    problems: list[Problem] = []
    for number, name in enumerate(manifest.system_packages):
        found = [file for folder in folders if (file := folder / name / "package.yaml").is_file()]
        files.extend(found[:1])
        if not found:
            files_known = [file for folder in folders for file in _packages(folder)]
            known = sorted({file.parent.name for file in files_known if _says_system(file)})
            problems.append(
                Problem(
                    ("system_packages", number),
                    "the name of a package",
                    f'"{name}"',
                    f"{suggestion(name, known)}known: {', '.join(known) or 'none'}",
                )
            )
    _refuse(system_file, problems)
    return tuple(files)


def _system_packages(system_file: Path, files: Sequence[Path]) -> tuple[SystemSource, ...]:
    """The system's packages; only type system can be part of an image."""
    sources = [load_package(path) for path in files]
    _refuse(
        system_file,
        [
            Problem(
                ("system_packages", number),
                "a package of type system",
                f'"{source.manifest.package}", which has type {_type(source)}',
                _NOT_IN_AN_IMAGE,
            )
            for number, source in enumerate(sources)
            if not isinstance(source, SystemSource)
        ],
    )
    return tuple(source for source in sources if isinstance(source, SystemSource))


def _type(source: PackageSource) -> str:
    return str(source.manifest.__struct_config__.tag)


def _says_system(file: Path) -> bool:
    """Whether a package.yaml has type system, as far as it can be read."""
    try:
        value = read_document(file).value
    except ManifestError:
        return False
    return isinstance(value, dict) and value.get("type") == "system"


def _packages(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/package.yaml"))


def _check_health(product: Product) -> None:
    """Names are unique in the whole product (history shows them), deadlines within the trial."""
    owners: dict[str, Path] = {}
    documents = [
        (path, package.manifest.health)
        for path, package in zip(product.files[2:], product.packages, strict=True)
    ]
    documents.append((product.files[0], product.manifest.health))
    for path, checks in documents:
        problems = list(late_checks(checks, product.manifest.trial))
        for number, check in enumerate(checks):
            if check.name in owners:
                problems.append(
                    Problem(
                        ("health", number, "name"),
                        "a name that no other check has",
                        f'"{check.name}", which {owners[check.name]} has',
                        "history names the check that failed; rename one of them",
                    )
                )
            owners[check.name] = path
        _refuse(path, problems)


def _refuse(path: Path, problems: Sequence[Problem]) -> None:
    """Raises ManifestError for problems of a document that was read before."""
    if problems:
        refuse(str(path), read_document(path), problems)
