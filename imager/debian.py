"""The root file system an image starts from: Debian packages, or any tar or folder.

Always ends as one uncompressed tar in the cache. Debian's packages are fetched
(stage "debian") and stay as they were resolved until `refresh` asks the mirror
again, so warm builds need no network; then they are unpacked and configured
(stage "base") without running anything of them, for every architecture alike.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from zstandard import ZstdDecompressor

from imager import archive, bootstrap, deb, tree, units
from imager import configure as configuration
from imager import unpack as unpacking
from imager.archive import write_tar
from imager.bootstrap import EXCLUDED, LOCK_MEMBER
from imager.cache import Cache, Input
from imager.configure.base import configure
from imager.crossbuild import build_missing, split_missing
from imager.deb import read_package
from imager.lock import DebianPackage, format_lock, parse_lock
from imager.mirror import Mirror, find_mirror
from imager.package import elf
from imager.tree import Tree
from imager.unpack import read_debs, unpack
from manifests.architectures import DEBIAN
from manifests.catalogue import Product
from recovery.errors import ManifestError, ToolError

# What decides how packages become a base; `imager.configure` as a whole does as well.
_MODULES = [Path(str(module.__file__)) for module in (archive, deb, elf, tree, unpacking, units)]
# No file time in the tar depends on when or for what it is made.
EPOCH = 1_700_000_000


class Readable(Protocol):
    """A stream of bytes, compressed or not."""

    def read(self, size: int, /) -> bytes:
        """At most size bytes."""


@dataclass(frozen=True)
class BaseSystem:
    """The base. archive: an uncompressed tar. packages: what is in it, as far as known."""

    archive: Path
    packages: tuple[DebianPackage, ...]

    def tree(self) -> Tree:
        """The base as a tree of one's own."""
        return self._read.copy()

    @cached_property
    def _read(self) -> Tree:
        return Tree.from_tar(self.archive)


def prepare_base(
    product: Product, cache: Cache, *, mirror: Mirror | None = None, refresh: bool = False
) -> BaseSystem:
    """The product's base, from the cache or made now.

    Raises FetchError when the mirror is needed and cannot be reached,
    ManifestError when base.tar or base.directory is not there, and what
    `bootstrap` raises.
    """
    source = product.base_path
    if source is None:
        debian = product.manifest.base.debian
        directory = _debian(
            product.debian_packages,
            DEBIAN[product.board.architecture],
            cache,
            mirror=mirror,
            refresh=refresh,
            without_scripts=sorted(debian.without_scripts) if debian else [],
        )
    else:
        _check_source(source, product)
        code: list[Input] = [Path(archive.__file__), Path(tree.__file__)]
        directory = cache.stage("base", {"source": source, "code": code}, _importer(source))
    text = (directory / LOCK_MEMBER).read_text()
    return BaseSystem(directory / "base.tar", parse_lock(text))


def debian_base(
    wanted: tuple[str, ...],
    architecture: str,
    cache: Cache,
    *,
    mirror: Mirror | None = None,
    refresh: bool = False,
    without_scripts: Sequence[str] = (),
) -> BaseSystem:
    """A base of Debian packages, which need not be a product's; see `prepare_base`.

    architecture: Debian's name.
    """
    directory = _debian(
        wanted,
        architecture,
        cache,
        mirror=mirror,
        refresh=refresh,
        without_scripts=without_scripts,
    )
    return BaseSystem(directory / "base.tar", parse_lock((directory / LOCK_MEMBER).read_text()))


def _debian(
    wanted: tuple[str, ...],
    architecture: str,
    cache: Cache,
    *,
    mirror: Mirror | None,
    refresh: bool,
    without_scripts: Sequence[str],
) -> Path:
    packages, missing = split_missing(wanted, architecture)
    archives = _fetch(packages, architecture, cache, mirror, refresh)
    built = [
        build_missing(item, architecture, cache, mirror=mirror, refresh=refresh) for item in missing
    ]

    def build(directory: Path) -> None:
        parts = directory / "parts"
        debs = read_debs((path.read_bytes() for path in sorted(archives.glob("*.deb"))), parts)
        content = unpack(debs, EXCLUDED)
        configure(content, debs, EPOCH, without_scripts)
        known = [deb.package for deb in debs]
        for extra, package in built:
            content.merge(extra)
            known.append(package)
        write_tar(content, directory / "base.tar", EPOCH)
        shutil.rmtree(parts)
        (directory / LOCK_MEMBER).write_text(format_lock(known))

    inputs: dict[str, Input] = {
        "archives": archives / LOCK_MEMBER,
        "built": [repr(package) for _, package in built],
        "excluded": " ".join(EXCLUDED),
        "without_scripts": " ".join(without_scripts),
        "code": [*_MODULES, Path(str(configuration.__file__)).parent],
    }
    return cache.stage("base", inputs, build)


def _fetch(
    packages: tuple[str, ...], architecture: str, cache: Cache, mirror: Mirror | None, refresh: bool
) -> Path:
    """Stage "debian": SHA256.deb of each package; packages.lock says what they are."""

    def build(directory: Path) -> None:
        fetched = directory / "fetched.tar"
        bootstrap.download_system(
            packages,
            fetched,
            mirror=mirror or find_mirror(),
            epoch=EPOCH,
            architecture=architecture,
        )
        archives = Tree.from_tar(fetched)
        known: list[DebianPackage] = []
        for path in archives.glob(f"{bootstrap.ARCHIVES}/*.deb"):
            data = archives.read(path)
            known.append(read_package(data))
            (directory / f"{known[-1].sha256}.deb").write_bytes(data)
        fetched.unlink()
        (directory / LOCK_MEMBER).write_text(format_lock(known))

    inputs: dict[str, Input] = {
        "packages": " ".join(packages),
        "architecture": architecture,
        "version": bootstrap.VERSION,
    }
    return cache.stage("debian", inputs, build, refresh=refresh)


def _check_source(source: Path, product: Product) -> None:
    wanted = Path.is_dir if product.manifest.base.directory else Path.is_file
    if not wanted(source):
        raise ManifestError(
            f"cannot use {product.files[0]}: base: there is no {source}",
            resolution="paths in a manifest are relative to its folder",
        )
    if product.debian_packages:
        raise ManifestError(
            f"cannot add Debian packages to the base {source}",
            details=f"wanted by system packages: {', '.join(product.debian_packages)}",
            resolution="put them into the base itself and leave them out of debian_packages, "
            "or use base.debian",
        )


def _importer(source: Path) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        output = directory / "base.tar"
        if source.is_dir():
            write_tar(Tree.from_directory(source), output, EPOCH)
        else:
            with decompressed(source) as stream, output.open("wb") as out:
                while data := stream.read(1 << 20):
                    out.write(data)
            Tree.from_tar(output)
        (directory / LOCK_MEMBER).write_text("")

    return build


def decompressed(path: Path) -> AbstractContextManager[Readable]:
    """The tar inside path, by its first bytes: gzip, xz, zstd or not compressed."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if magic == b"\xfd7zXZ\x00":
        return lzma.open(path)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return ZstdDecompressor().stream_reader(path.open("rb"), closefd=True)
    if magic.startswith(b"BZh"):
        raise ToolError(
            f"cannot read {path}: bzip2 is not supported", resolution="use gzip, xz or zstd"
        )
    return path.open("rb")
