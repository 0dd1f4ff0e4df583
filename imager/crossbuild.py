"""Builds what Debian lacks for an architecture: python3-msgspec for armhf.

Nothing of the target runs: the pinned clang compiles the source as Debian's mirror
has it (one C file) against Debian's headers of the architecture, and the pinned lld
links it. What comes out is a tree, added to the base as a package would be.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imager import bootstrap
from imager.cache import Cache, Input
from imager.lock import DebianPackage, format_lock, parse_lock
from imager.mirror import Mirror, find_mirror
from imager.tools import Tools, prepare_tools
from imager.tree import Tree
from imager.unpack import read_debs
from recovery.errors import ToolError

# Fetched files get one time; it is in no result.
_EPOCH = 1_700_000_000
_PYTHON = "python3.13"
_FOLDER = "usr/lib/python3/dist-packages"
_HEADERS = ("libc6", "libc6-dev", "libgcc-14-dev", "libpython3.13-dev", "linux-libc-dev")


@dataclass(frozen=True)
class Missing:
    """A package that an architecture lacks: a Python package with one extension in C.

    source: Debian's source package. module: the Python package, with the C file
    _core.c. needs: Debian packages that it depends on.
    """

    name: str
    source: str
    module: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """triplet: GNU's name. flags: of the processor that Debian's port is for, and its ABI."""

    triplet: str
    flags: tuple[str, ...]


_MSGSPEC = Missing("python3-msgspec", "python-msgspec", "msgspec", ("python3",))
# By Debian's name of the architecture. Debian builds msgspec for 64 bits only.
_MISSING = {"armhf": (_MSGSPEC,)}
# armhf is ARMv7 with VFPv3-D16, and its times have 64 bits since trixie.
_TARGETS = {
    "armhf": _Target(
        "arm-linux-gnueabihf",
        ("-march=armv7-a", "-mfpu=vfpv3-d16", "-D_FILE_OFFSET_BITS=64", "-D_TIME_BITS=64"),
    )
}
_COMPILE = ("-O2", "-fPIC", "-fwrapv", "-fno-strict-aliasing", "-DNDEBUG", "-w", "-nostdinc")
_LINK = ("-shared", "-s", "-z", "now", "-z", "relro", "--hash-style=gnu", "--build-id=none")


def split_missing(
    packages: Sequence[str], architecture: str
) -> tuple[tuple[str, ...], tuple[Missing, ...]]:
    """What to fetch of the packages, and what to build because the architecture lacks it."""
    missing = tuple(item for item in _MISSING.get(architecture, ()) if item.name in packages)
    needs = {need for item in missing for need in item.needs}
    fetched = {*packages, *needs} - {item.name for item in missing}
    return tuple(sorted(fetched)), missing


def build_missing(
    missing: Missing,
    architecture: str,
    cache: Cache,
    *,
    mirror: Mirror | None = None,
    refresh: bool = False,
) -> tuple[Tree, DebianPackage]:
    """The package's files, and what they are (sha256: of its source).

    Raises what `imager.bootstrap.bootstrap` raises, and ToolError when it does not build.
    """
    tools = prepare_tools(cache, mirror)

    def build(directory: Path) -> None:
        found = mirror or find_mirror()
        with tempfile.TemporaryDirectory(prefix="orbital-build.") as name:
            work = Path(name)
            source, headers = work / "source.tar", work / "headers.tar"
            bootstrap.download_source(missing.source, source, mirror=found, epoch=_EPOCH)
            bootstrap.download(
                _HEADERS, headers, mirror=found, epoch=_EPOCH, architecture=architecture
            )
            version, digest = _unpack_source(source, work / "source")
            _unpack_headers(headers, work)
            _compile(_TARGETS[architecture], work, tools)
            _install(missing, _TARGETS[architecture], version, work, directory / "tree")
        package = DebianPackage(missing.name, version, architecture, missing.source, digest)
        (directory / bootstrap.LOCK_MEMBER).write_text(format_lock([package]))

    inputs: dict[str, Input] = {
        "package": repr(missing),
        "target": repr(_TARGETS[architecture]),
        "architecture": architecture,
        "tools": tools.lock,
        "code": [Path(__file__), Path(bootstrap.__file__)],
    }
    directory = cache.stage("missing", inputs, build, refresh=refresh)
    (package,) = parse_lock((directory / bootstrap.LOCK_MEMBER).read_text())
    return Tree.from_directory(directory / "tree"), package


def _unpack_source(fetched: Path, output: Path) -> tuple[str, str]:
    """Unpacks the source archive, without its top folder's name; its version and SHA-256."""
    content = Tree.from_tar(fetched)
    paths = content.glob(f"{bootstrap.ARCHIVES}/*_*.orig.tar.*")
    if len(paths) != 1:
        raise ToolError(
            f"cannot build from source: expected one archive, found {', '.join(paths) or 'none'}"
        )
    data = content.read(paths[0])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(output.with_name("unpacked"), filter="data")
    (top,) = output.with_name("unpacked").iterdir()
    top.rename(output)
    version = paths[0].rpartition("_")[2].partition(".orig.")[0]
    return version, hashlib.sha256(data).hexdigest()


def _unpack_headers(fetched: Path, work: Path) -> None:
    content = Tree.from_tar(fetched)
    paths = content.glob(f"{bootstrap.ARCHIVES}/*.deb")
    for deb in read_debs((content.read(path) for path in paths), work / "debs"):
        with tarfile.open(deb.files) as tar:
            tar.extractall(work / "system", filter="tar")


def _compile(target: _Target, work: Path, tools: Tools) -> None:
    """work/source/*/_core.c to work/_core.so. Paths are relative: none of the host's is in it."""
    (source,) = (path.relative_to(work) for path in (work / "source").glob("*/_core.c"))
    (compiler,) = (
        path.relative_to(work) for path in work.glob(f"system/usr/lib/gcc/{target.triplet}/*")
    )
    include = Path("system/usr/include")
    folders = (compiler / "include", include / target.triplet, include, include / _PYTHON)
    options = [word for folder in folders for word in ("-isystem", folder)]
    # fmt: off
    tools.run("clang", f"--target={target.triplet}", *target.flags, *_COMPILE, *options,
              "-c", source, "-o", "_core.o", cwd=work)
    # The tools' lld is called lld-link; its first argument makes it the linker of ELF files.
    tools.run("lld-link", "-flavor", "gnu", *_LINK, "-o", "_core.so", "_core.o",
              compiler / "libgcc.a", "-L", Path("system/usr/lib") / target.triplet,
              "-l:libc.so.6", "-l:libm.so.6", cwd=work)
    # fmt: on


def _install(missing: Missing, target: _Target, version: str, work: Path, output: Path) -> None:
    """The package's files as its setup.py would install them, below output."""
    folder = output / _FOLDER / missing.module
    folder.mkdir(parents=True)
    for path in sorted((work / "source" / missing.module).glob("*.py")):
        shutil.copyfile(path, folder / path.name)
    # Generated by every build: what the development tree would ask git for.
    text = f'def get_versions():\n    return {{"version": "{version}"}}\n'
    (folder / "_version.py").write_text(text)
    library = folder / f"_core.cpython-{_PYTHON[6:].replace('.', '')}-{target.triplet}.so"
    shutil.copyfile(work / "_core.so", library)
    for path in output.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
