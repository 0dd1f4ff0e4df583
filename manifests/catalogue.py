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

from manifests.board import Board, board_problems
from manifests.document import load_document
from manifests.health import HealthCheck
from manifests.package import PackageManifest, PackageSource, package_problems
from manifests.problem import key_text, suggestion
from manifests.system import SystemManifest, late_checks, system_problems
from manifests.versions import version_key
from recovery.errors import ManifestError

REPOSITORY = Path(__file__).resolve().parent.parent
_FOLDERS = {
    "board": Path("boards"),
    "system": Path("manifests/systems"),
    "package": Path("manifests/packages"),
}


@dataclass(frozen=True)
class Product:
    """A system for a board: everything that an image is built from.

    packages: the system packages in the order they are merged.
    files: the documents it was read from, the system's first.
    """

    manifest: SystemManifest
    board: Board
    packages: tuple[PackageSource, ...]
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
        names = set(self.board.kernel.modules)
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
    package_files = [
        _find_package(name, number, system_file, search)
        for number, name in enumerate(manifest.system_packages)
    ]
    packages = tuple(load_package(path) for path in package_files)
    product = Product(manifest, product_board, packages, (system_file, board_file, *package_files))
    _check_health(product)
    return product


def load_system(path: Path) -> SystemManifest:
    """Reads one system manifest. Raises ManifestError."""
    return load_document(path, SystemManifest, system_problems)


def load_board(path: Path) -> Board:
    """Reads one board. Raises ManifestError."""
    return load_document(path, Board, board_problems)


def load_package(path: Path) -> PackageSource:
    """Reads one package manifest and looks at the files beside it. Raises ManifestError."""
    folder = path.resolve().parent
    manifest = load_document(
        path, PackageManifest, lambda document: package_problems(document, folder)
    )
    return PackageSource(manifest, folder)


def names(kind: str, search: Sequence[Path] = (REPOSITORY,)) -> tuple[str, ...]:
    """The names of all systems, packages or boards in the roots, sorted."""
    found: set[str] = set()
    for root in search:
        folder = root / _FOLDERS[kind]
        if kind == "package":
            found.update(path.parent.name for path in folder.glob("*/package.yaml"))
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


def _find_package(name: str, number: int, system_file: Path, search: Sequence[Path]) -> Path:
    """A package's file: beside the system's own folder first, then in the roots."""
    for folder in (system_file.parent / "packages", system_file.parent.parent / "packages"):
        if (folder / name / "package.yaml").is_file():
            return folder / name / "package.yaml"
    try:
        return find("package", name, search)
    except ManifestError as error:
        raise ManifestError(
            f"cannot use {system_file}: system_packages[{number}]: no package {name}",
            details=error.brief,
            resolution=error.resolution,
        ) from error


def _check_health(product: Product) -> None:
    """Check names are unique in the whole product: history names them."""
    seen: dict[str, Path] = {}
    documents = [
        (path, package.manifest.health)
        for path, package in zip(product.files[2:], product.packages, strict=True)
    ]
    documents.append((product.files[0], product.manifest.health))
    for path, checks in documents:
        for problem in late_checks(checks, product.manifest.trial):
            raise ManifestError(
                f"cannot use {path}: {key_text(problem.path)}: {problem.text}",
                resolution=problem.fix,
            )
        for check in checks:
            if check.name in seen:
                raise ManifestError(
                    f"cannot use {path}: health: a second check is named {check.name}",
                    details=f"the first is in {seen[check.name]}",
                    resolution="give each check of the product its own name",
                )
            seen[check.name] = path
