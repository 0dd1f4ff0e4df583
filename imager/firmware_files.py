"""Files that a board's firmware reads and nobody may build: from Debian's non-free-firmware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from imager import bootstrap
from imager.bootstrap import LOCK_MEMBER
from imager.cache import Cache, Input
from imager.deb import read_deb
from imager.debian import EPOCH
from imager.lock import DebianPackage, format_lock, parse_lock
from imager.mirror import Mirror, find_mirror
from imager.tree import Tree
from manifests.architectures import DEBIAN
from manifests.board import Board
from recovery.errors import ManifestError

_COMPONENTS = "main non-free-firmware"


@dataclass(frozen=True)
class FirmwareFiles:
    """The files by name. packages: what they were taken from."""

    files: Mapping[str, Path]
    packages: tuple[DebianPackage, ...] = ()


def prepare_firmware_files(
    board: Board, cache: Cache, *, mirror: Mirror | None = None, refresh: bool = False
) -> FirmwareFiles:
    """What the board's firmware needs, from the cache or fetched now; for most boards nothing.

    Raises what `imager.bootstrap.bootstrap` raises; ManifestError when the
    package does not have one of the files.
    """
    wanted = board.raspberry_pi
    if wanted is None or wanted.package is None:
        return FirmwareFiles({})
    package = wanted.package

    def build(directory: Path) -> None:
        fetched = directory / "fetched.tar"
        bootstrap.download(
            [package],
            fetched,
            mirror=replace(mirror or find_mirror(), components=_COMPONENTS),
            epoch=EPOCH,
            architecture=DEBIAN[board.architecture],
        )
        archives = Tree.from_tar(fetched)
        (archive,) = archives.glob(f"{bootstrap.ARCHIVES}/*.deb")
        deb = read_deb(archives.read(archive), directory)
        content = Tree.from_tar(deb.files)
        for name in wanted.files:
            (directory / name).write_bytes(_read(content, name, package))
        (directory / LOCK_MEMBER).write_text(format_lock([deb.package]))
        deb.files.unlink()
        fetched.unlink()

    inputs: dict[str, Input] = {
        "package": package,
        "files": " ".join(wanted.files),
        "architecture": board.architecture,
        "version": bootstrap.VERSION,
    }
    directory = cache.stage("firmware-files", inputs, build, refresh=refresh)
    return FirmwareFiles(
        {name: directory / name for name in wanted.files},
        parse_lock((directory / LOCK_MEMBER).read_text()),
    )


def _read(content: Tree, name: str, package: str) -> bytes:
    found = [path for path, _ in content.items() if path.rpartition("/")[2] == name]
    if len(found) != 1:
        raise ManifestError(
            f"cannot find the firmware file {name} in the Debian package {package}",
            details=f"found: {', '.join(found) or 'none of that name'}",
            resolution="check raspberry_pi.files in the board file",
        )
    return content.read(found[0])
