"""Folders, tars and Debian packages as content of a package. Nothing of them is ever run."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zstandard import ZstdError

from imager import deb
from imager.bootstrap import ARCHIVES, LOCK_MEMBER, VERSION, download
from imager.cache import Cache, Input
from imager.debian import EPOCH, decompressed
from imager.lock import DebianPackage, format_lock, parse_lock
from imager.mirror import Mirror, find_mirror
from imager.package.collect import Collector, find_kind
from imager.tree import Entry, Slice, Tree
from recovery.errors import ManifestError, SpaceError, ToolError

# An archive that unpacks to more is a mistake, or meant to fill the disk.
_UNPACKED_AT_MOST = 4 << 30
_MEMBERS_AT_MOST = 200_000
# Raise when what `unpack_archive` keeps changes.
_VERSION = 1
_KINDS = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device node",
    stat.S_IFBLK: "device node",
}
_TAR_KINDS = {
    tarfile.FIFOTYPE: "named pipe",
    tarfile.CHRTYPE: "device node",
    tarfile.BLKTYPE: "device node",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}


@dataclass(frozen=True)
class DebianContent:
    """One unpacked Debian package. data: its files as an uncompressed tar."""

    package: DebianPackage
    data: Path


def collect_directory(folder: Path, label: str) -> Collector:
    """The files in a folder that holds usr/. Raises ManifestError when it is none."""
    if not folder.is_dir():
        raise ManifestError(
            f"cannot take content from {folder}: there is no such folder",
            resolution="paths in package.yaml are relative to its folder",
        )
    collector = Collector(label)
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            collector.add(name, Entry("symlink", target=str(path.readlink())))
        elif stat.S_ISDIR(status.st_mode):
            collector.add(name, Entry("directory", stat.S_IMODE(status.st_mode)))
        elif stat.S_ISREG(status.st_mode):
            content = Slice(path, 0, status.st_size)
            collector.add(name, Entry("file", stat.S_IMODE(status.st_mode), content=content))
        else:
            find_kind(collector, name, _KINDS.get(stat.S_IFMT(status.st_mode), "special file"))
    return collector


def collect_tar(path: Path, label: str, scratch: Path) -> Collector:
    """The files in a tar that holds usr/; compressed with gzip, xz, zstd or not.

    scratch: a folder for what is unpacked, which must stay while the files are used.
    Raises ManifestError when there is no such file, ToolError when it is no tar.
    """
    if not path.is_file():
        raise ManifestError(
            f"cannot take content from {path}: there is no such file",
            resolution="paths in package.yaml are relative to its folder",
        )
    unpacked = scratch / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.tar"
    _decompress(path, unpacked, path.name)
    return read_tar(unpacked, label)


def read_tar(path: Path, label: str, *, drop_outside: bool = False) -> Collector:
    """The files in an uncompressed tar, which stays where it is."""
    collector = Collector(label, drop_outside=drop_outside)
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            for number, member in enumerate(tar):
                if number >= _MEMBERS_AT_MOST:
                    raise ToolError(f"cannot use {label}: more than {_MEMBERS_AT_MOST} members")
                _take_member(collector, path, member)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ToolError(f"cannot read {label}: not a tar archive", details=str(error)) from error
    return collector


def fetch_debian(
    names: tuple[str, ...],
    architecture: str,
    cache: Cache,
    *,
    mirror: Mirror | None = None,
    refresh: bool = False,
) -> tuple[DebianContent, ...]:
    """Debian packages from the machine's mirror or the cache, sorted; no script of them runs.

    Raises what `imager.bootstrap.download` raises, ToolError for a damaged archive.
    """
    if not names:
        return ()

    def build(directory: Path) -> None:
        fetched = directory / "fetched.tar"
        download(
            sorted(names),
            fetched,
            mirror=mirror or find_mirror(),
            epoch=EPOCH,
            architecture=architecture,
        )
        tree = Tree.from_tar(fetched)
        lock = parse_lock(tree.read(LOCK_MEMBER).decode())
        archives = {
            hashlib.sha256(data).hexdigest(): data
            for path in tree.glob(f"{ARCHIVES}/*.deb")
            for data in [tree.read(path)]
        }
        for package in lock:
            unpack_archive(archives[package.sha256], directory / f"{package.name}.tar")
        (directory / LOCK_MEMBER).write_text(format_lock(lock))
        fetched.unlink()

    inputs: dict[str, Input] = {
        "packages": " ".join(sorted(set(names))),
        "architecture": architecture,
        "version": f"{VERSION}.{_VERSION}",
    }
    directory = cache.stage("package-debian", inputs, build, refresh=refresh)
    lock = parse_lock((directory / LOCK_MEMBER).read_text())
    return tuple(DebianContent(item, directory / f"{item.name}.tar") for item in lock)


def _walk(folder: Path) -> Iterator[Path]:
    for item in sorted(folder.iterdir()):
        yield item
        if item.is_dir() and not item.is_symlink():
            yield from _walk(item)


def _take_member(collector: Collector, archive: Path, member: tarfile.TarInfo) -> None:
    mode = member.mode & 0o7777
    if member.type in _TAR_KINDS or member.issparse():
        find_kind(collector, member.name, _TAR_KINDS.get(member.type, "sparse file"))
    elif member.isdir():
        collector.add(member.name, Entry("directory", mode))
    elif member.issym():
        collector.add(member.name, Entry("symlink", target=member.linkname))
    elif member.islnk():
        # Only to a file that this archive has brought: nothing of the host can be meant.
        target = collector.tree.get(_plain(member.linkname))
        if target is None or target.kind != "file":
            collector.find(member.name, f"is a hard link to {member.linkname}, no file before it")
        else:
            collector.add(member.name, target)
    elif member.isreg():
        content = Slice(archive, member.offset_data, member.size)
        collector.add(member.name, Entry("file", mode, content=content))
    else:
        find_kind(collector, member.name, f"member of the unknown kind {member.type!r}")


def _plain(name: str) -> str:
    path = name.removeprefix("./")
    top = path.split("/")[0]
    return f"usr/{path}" if top in ("bin", "sbin", "lib", "lib64") else path


def _decompress(path: Path, output: Path, label: str) -> None:
    written = 0
    try:
        with decompressed(path) as stream, output.open("wb") as out:
            while data := stream.read(1 << 20):
                written += len(data)
                if written > _UNPACKED_AT_MOST:
                    raise SpaceError(
                        f"cannot use {label}: it unpacks to more than {_UNPACKED_AT_MOST >> 30} GiB"
                    )
                out.write(data)
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, ZstdError, EOFError) as error:
        raise ToolError(f"cannot unpack {label}: it is damaged", details=str(error)) from error


def unpack_archive(archive: bytes, output: Path) -> None:
    """The data member of a .deb (deb(5): an ar archive), decompressed."""
    try:
        parts = dict(deb.members(archive))
    except ValueError as error:
        raise ToolError(f"cannot unpack a Debian package: it is {error}") from error
    for name, data in parts.items():
        if name.startswith("data.tar"):
            packed = output.with_suffix(".packed")
            packed.write_bytes(data)
            _decompress(packed, output, name)
            packed.unlink()
            return
    raise ToolError("cannot unpack a Debian package: it has no data.tar")
