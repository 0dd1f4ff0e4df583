"""Devices in a directory, with real mounts of real images on this host's kernel."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from imager.cache import Cache, default_directory
from imager.tools import Tools, prepare_tools
from recovery.packages import model, mountapi
from recovery.packages.digest import file_digest
from recovery.packages.model import Package
from recovery.packages.paths import Paths

Put = Callable[[Package, Mapping[str, str]], str]


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The pinned tools tree; from the cache, or built from the Debian mirror."""
    return prepare_tools(Cache(default_directory()))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Paths]:
    """A root directory with a small /usr; what is mounted below it is taken off at the end."""
    paths = Paths(tmp_path / "root")
    for folder in ("usr/bin", "usr/lib", "run", "state"):
        (paths.root / folder).mkdir(parents=True)
    (paths.root / "usr/bin/sh").write_text("shell of the image")
    (paths.root / "proc").symlink_to("/proc")
    usr = paths.root / "usr"
    try:
        mountapi.attach(mountapi.clone(usr), usr)
    except OSError as error:
        pytest.skip(f"this host lets us mount nothing: {error}")
    yield paths
    table = list(mountapi.table(Path("/proc/self/mountinfo")))
    for mounted in reversed(table):
        if mounted.point.startswith(str(paths.root)):
            mountapi.detach(Path(mounted.point))


@pytest.fixture
def put(device: Paths, tools: Tools, tmp_path: Path) -> Put:
    """Puts a package with these files into the device's store; returns its digest."""

    def put_image(package: Package, files: Mapping[str, str]) -> str:
        archive, image = tmp_path / "package.tar", tmp_path / "package.erofs"
        contents = {model.MANIFEST: model.encode(package)}
        contents.update({name: text.encode() for name, text in files.items()})
        with tarfile.open(archive, "w") as tar:
            for name, data in sorted(contents.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o4755
                tar.addfile(member, io.BytesIO(data))
        tools.run("mkfs.erofs", "--quiet", "-x-1", "--all-root", "--tar=f", image, archive)
        digest = file_digest(image)
        device.store.mkdir(parents=True, exist_ok=True)
        image.rename(device.stored(digest))
        try:
            mountapi.erofs(device.stored(digest))
        except OSError as error:
            pytest.skip(f"this host's kernel mounts no erofs file: {error}")
        return digest

    return put_image
