"""Package files on their way into a repository: read, verified, cut into segments."""

from __future__ import annotations

import base64
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imager.cache import Cache
from imager.package.opk import OpkFile, read_opk
from imager.segments import cut
from imager.tools import Tools
from manifests.index import Stream
from manifests.package_index import (
    Dependency,
    Fit,
    Interface,
    PackageRelease,
    RequiredInterface,
)
from recovery.packages.model import Package

# The time of an erofs image, seconds since the epoch: Linux, fs/erofs/erofs_fs.h.
_BUILT_AT = 1024 + 24


@dataclass(frozen=True)
class Intake:
    """How package files are taken in.

    read: reads a file and verifies who signed it. cut: cuts an image into
    segments and gives the folder with their chunks.
    """

    read: Callable[[Path], OpkFile]
    cut: Callable[[Path], tuple[Stream, Path]]


@dataclass(frozen=True)
class Incoming:
    """A package file that was read, verified and cut. chunks: the folder with its chunks."""

    opk: OpkFile
    release: PackageRelease
    chunks: Path

    @property
    def package(self) -> Package:
        """Its manifest."""
        return self.opk.manifest

    @property
    def name(self) -> str:
        """Name and version, for people."""
        return f"{self.package.name} {self.package.version}"


def intake(keys: Path, cache: Cache, tools: Tools) -> Intake:
    """Takes in what publishers of the key directory have signed."""
    return Intake(lambda path: read_opk(path, keys), lambda image: cut(image, cache, tools))


def take_in(path: Path, how: Intake) -> Incoming:
    """Reads and cuts a package file. Raises ManifestError or TrustError."""
    opk = how.read(path)
    with tempfile.TemporaryDirectory(prefix="orbital-publish.") as folder:
        image = Path(folder) / "image"
        _copy_image(opk, image)
        stream, chunks = how.cut(image)
        with image.open("rb") as file:
            file.seek(_BUILT_AT)
            (built,) = struct.unpack("<Q", file.read(8))
    return Incoming(opk, _release(opk, stream, built), chunks)


def _copy_image(opk: OpkFile, output: Path) -> None:
    with opk.path.open("rb") as source, output.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
        out.truncate(opk.image_size)


def _release(opk: OpkFile, stream: Stream, built: int) -> PackageRelease:
    package = opk.manifest
    return PackageRelease(
        version=package.version,
        kind=package.kind,
        architecture=package.architecture,
        summary=package.summary,
        digest=opk.digest,
        signature=base64.b64encode(opk.signature).decode(),
        stream=stream,
        built=built,
        depends=tuple(Dependency(item.package, item.versions) for item in package.depends),
        systems=tuple(Fit(item.system, item.versions) for item in package.systems),
        provides=tuple(Interface(item.interface, item.version) for item in package.provides),
        requires=tuple(
            RequiredInterface(item.interface, item.package, item.versions)
            for item in package.requires
        ),
        capabilities=package.capabilities,
        state_version=package.state_version,
        migrates_from=migrates_from(package),
        members=package.members,
    )


def migrates_from(package: Package) -> tuple[int, ...]:
    """Schema versions whose state the package can take over, its own included. Pure.

    Every service with state needs every step of the way.
    """
    stateful = [service.name for service in package.services if service.state]
    have = {(item.service, item.source, item.target) for item in package.migrations}
    found = {package.state_version}
    for step in (1, -1):
        version = package.state_version
        while stateful and all((name, version - step, version) in have for name in stateful):
            version -= step
            found.add(version)
    return tuple(sorted(found))
