"""Pairs of images out of Debian's own archive, as the imager unpacks them.

Old packages are those of the last point release (the archive's main part), new ones those of
its security archive, so each pair is an update that Debian really published:

a  the packages of a few sources, of those that had a security update
b  the kernel; kernel and modules as Orbital's images hold them: not compressed (`imager.kernel`),
   the kernel in a boot artifact of its own (`imager.bzimage`)
c  one application
d  the release before, to this one

No maintainer script runs and nothing is configured; what differs is what packages contain.
"""

from __future__ import annotations

import lzma
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from imager import bootstrap
from imager.bootstrap import EXCLUDED
from imager.bzimage import open_kernel
from imager.cache import Cache
from imager.deb import Deb
from imager.mirror import Mirror, find_mirror
from imager.root import build_root
from imager.tools import Tools
from imager.tree import Tree
from imager.unpack import read_debs, unpack

RELEASE, BEFORE = "trixie", "bookworm"
KERNEL = "linux-image-amd64"
APPLICATION = "roundcube-core"
# Sources whose packages pair a takes from the security archive; where that has none, they stay.
SECURITY = frozenset(["openssl", "curl", "expat", "nginx", "gnutls28", "libxml2"])
SMALL = ("curl", "nginx-light", "openssl")
FULL = (
    *SMALL,
    "bind9-host", "busybox", "ca-certificates", "dbus", "dosfstools", "e2fsprogs", "ethtool",
    "gnupg", "htop", "iproute2", "iputils-ping", "kmod", "less",
    "libpam-systemd", "network-manager", "nftables", "openssh-server",
    "perl", "python3", "python3-cryptography", "python3-requests", "rsync", "socat", "strace",
    "sudo", "systemd-resolved", "systemd-sysv", "systemd-timesyncd", "tcpdump", "tmux", "udev",
    "wget", "wireless-regdb", "wpasupplicant", "xz-utils", "zstd",
)  # fmt: skip
_EPOCH = 1_700_000_000
_DAY = 86400
# Bytes of a file of random data: it has blocks, and an end behind its inode.
_FILE = 100_000
# Raise when the images are made in another way.
_VERSION = 1
_OPENED = 1


@dataclass(frozen=True)
class Image:
    """An image to update from or to. size: bytes of its file system; no verity tree counts.

    boot: its boot artifact, None when the kernel is none of the update's business.
    """

    path: Path
    size: int
    boot: Path | None = None


@dataclass(frozen=True)
class Pair:
    """An update. changed: what Debian changed, for people."""

    name: str
    what: str
    old: Image
    new: Image
    changed: tuple[str, ...]


@dataclass(frozen=True)
class _Contents:
    """Archives of an image by folder; a later folder's packages replace an earlier one's.

    taken: of a folder, only packages of these sources; None for all of them. data: bytes of
    random files beside them. opened: the kernel is in a boot artifact, it and modules are open.
    """

    folders: tuple[tuple[Path, frozenset[str] | None], ...]
    data: int = 0
    opened: bool = False


class Workshop:
    """Fetches and builds in one cache directory; what is there is not made again."""

    def __init__(self, cache: Cache, tools: Tools, *, small: bool) -> None:
        self._cache = cache
        self._tools = tools
        self._packages = SMALL if small else FULL
        self._kernels = not small
        self._mirror = find_mirror()

    def pair(self, name: str) -> Pair:
        """The pair of that letter. Raises FetchError when the mirror cannot be reached."""
        return {"a": self._security, "b": self._kernel, "c": self._application, "d": self._major}[
            name
        ]()

    def _security(self) -> Pair:
        old, new = self._system(RELEASE, security=False), self._system(RELEASE, security=True)
        kernel = self._kernel_folder(RELEASE, security=False)
        return self._build(
            "a",
            "security update of a few packages",
            _Contents(((old, None), *kernel)),
            _Contents(((old, None), *kernel, (new, SECURITY))),
        )

    def _kernel(self) -> Pair:
        system = self._system(RELEASE, security=False)
        kernels = [self._fetch_kernel(RELEASE, security=newer) for newer in (False, True)]
        old, new = (_Contents(((system, None), (kernel, None)), opened=True) for kernel in kernels)
        return self._build("b", "kernel update", old, new)

    def _application(self) -> Pair:
        system = self._system(RELEASE, security=False)
        kernel = self._kernel_folder(RELEASE, security=False)
        old, new = (
            _Contents(((system, None), *kernel, (self._fetch_application(security=newer), None)))
            for newer in (False, True)
        )
        return self._build("c", "application change only", old, new)

    def grown(self, size: int) -> Pair:
        """The application's change in an image with at least size bytes of other data."""
        system = self._system(RELEASE, security=False)
        old, new = (
            _Contents(((system, None), (self._fetch_application(security=newer), None)), size)
            for newer in (False, True)
        )
        return self._build("c", f"application change beside {size >> 20} MiB of data", old, new)

    def versions(self) -> Iterator[Image]:
        """Versions of a system without a kernel, without end: each has one security update more
        than the one before it; when there are no more, an application changes forth and back."""
        system, newer = (self._system(RELEASE, security=security) for security in (False, True))
        applications = [self._fetch_application(security=security) for security in (False, True)]
        known: dict[str, str] = {}
        for number in count():
            updates = sorted(SECURITY)[:number]
            application = applications[max(number - len(SECURITY), 0) % 2]
            contents = _Contents(((system, None), (application, None), (newer, frozenset(updates))))
            name = f"gateway_{number}_versions"
            found, image = self._image(name, contents, _EPOCH + number * _DAY)
            # Not every update is one of what this system has.
            if found != known:
                known = found
                yield image

    def _major(self) -> Pair:
        old, new = (
            _Contents(
                (
                    (self._system(release, security=True), None),
                    *self._kernel_folder(release, security=True),
                )
            )
            for release in (BEFORE, RELEASE)
        )
        return self._build("d", f"major release, {BEFORE} to {RELEASE}", old, new)

    def _build(self, name: str, what: str, old: _Contents, new: _Contents) -> Pair:
        before, old_image = self._image(f"gateway_1_{name}", old, _EPOCH)
        after, new_image = self._image(f"gateway_2_{name}", new, _EPOCH + _DAY)
        return Pair(name, what, old_image, new_image, _changes(before, after))

    def _image(self, name: str, contents: _Contents, built: int) -> tuple[dict[str, str], Image]:
        """Versions by package, and the image."""

        def build(directory: Path) -> None:
            parts = directory / "parts"
            parts.mkdir()
            debs = _debs(contents, parts)
            tree = _without_scripts(unpack(debs, EXCLUDED))
            _fill(tree, parts / "data", contents.data)
            if contents.opened:
                (directory / "boot.img").write_bytes(_opened(tree, parts / "modules"))
            facts = build_root(
                tree,
                directory / "root.img",
                self._tools,
                name=name,
                built=built,
            )
            shutil.rmtree(parts)
            (directory / "size").write_text(str(facts.hash_offset))
            versions = (f"{deb.name}\t{deb.package.version}\n" for deb in debs)
            (directory / "versions").write_text("".join(versions))

        result = self._cache.stage(
            "benchmark-image",
            {
                "folders": [str(folder) for folder, _ in contents.folders],
                "taken": [" ".join(sorted(taken or ())) for _, taken in contents.folders],
                "name": name,
                "built": built,
                "tools": self._tools.lock,
                "version": _VERSION,
                **({"data": contents.data} if contents.data else {}),
                **({"opened": _OPENED} if contents.opened else {}),
            },
            build,
        )
        lines = (result / "versions").read_text().splitlines()
        versions = dict(line.split("\t") for line in lines)
        boot = result / "boot.img" if contents.opened else None
        return versions, Image(result / "root.img", int((result / "size").read_text()), boot)

    def _system(self, release: str, *, security: bool) -> Path:
        mirror = self._archive(security=security)
        return self._fetched(
            f"system {release} {security} {' '.join(self._packages)}",
            lambda tar: bootstrap.download_system(
                self._packages, tar, mirror=mirror, epoch=_EPOCH, release=release
            ),
        )

    def _kernel_folder(
        self, release: str, *, security: bool
    ) -> tuple[tuple[Path, frozenset[str] | None], ...]:
        if not self._kernels:
            return ()
        return ((self._fetch_kernel(release, security=security), None),)

    def _fetch_kernel(self, release: str, *, security: bool) -> Path:
        mirror = self._archive(security=security)
        return self._fetched(
            f"kernel {release} {security}",
            lambda tar: bootstrap.download_kernel(
                KERNEL, tar, mirror=mirror, epoch=_EPOCH, release=release
            ),
        )

    def _fetch_application(self, *, security: bool) -> Path:
        mirror = self._archive(security=security)
        return self._fetched(
            f"application {APPLICATION} {security}",
            lambda tar: bootstrap.download(
                [APPLICATION], tar, mirror=mirror, epoch=_EPOCH, release=RELEASE
            ),
        )

    def _archive(self, *, security: bool) -> Mirror:
        return self._mirror if security else replace(self._mirror, security="")

    def _fetched(self, key: str, fetch: Callable[[Path], None]) -> Path:
        """A folder with archives, *.deb."""

        def build(directory: Path) -> None:
            tar = directory / "archives.tar"
            fetch(tar)
            archives = Tree.from_tar(tar)
            for path in archives.glob(f"{bootstrap.ARCHIVES}/*.deb"):
                (directory / Path(path).name).write_bytes(archives.read(path))
            tar.unlink()

        return self._cache.stage(
            "benchmark-debian", {"what": key, "version": bootstrap.VERSION}, build
        )


def _debs(contents: _Contents, parts: Path) -> Sequence[Deb]:
    """What is installed, sorted by name."""
    chosen: dict[str, Deb] = {}
    for number, (folder, taken) in enumerate(contents.folders):
        archives = (path.read_bytes() for path in sorted(folder.glob("*.deb")))
        for deb in read_debs(archives, parts / str(number)):
            if taken is None or (deb.package.source in taken and deb.name in chosen):
                chosen[deb.name] = deb
    # As `read_debs` sorts: base-files comes first, since it has the links of the merged /usr.
    return sorted(chosen.values(), key=lambda deb: (deb.name != "base-files", deb.name))


def _without_scripts(tree: Tree) -> Tree:
    """The tree without what only dpkg reads: every image has it, and a device does not need it."""
    tree.remove("var/lib/dpkg")
    return tree


def _opened(tree: Tree, folder: Path) -> bytes:
    """Stores the tree's modules open, and takes the kernel out of it."""
    folder.mkdir()
    for number, path in enumerate(tree.glob("**.ko.xz")):
        module = folder / str(number)
        module.write_bytes(lzma.decompress(tree.read(path)))
        tree.remove(path)
        tree.host_file(path.removesuffix(".xz"), module)
    (path,) = tree.glob("boot/vmlinuz-*")
    kernel = tree.read(path)
    tree.remove(path)
    return open_kernel(kernel) or kernel


def _fill(tree: Tree, folder: Path, size: int) -> None:
    """Adds files of random bytes, the same ones each time."""
    folder.mkdir()
    draw = random.Random(size)
    for number in range(-(-size // _FILE)):
        path = folder / str(number)
        path.write_bytes(draw.randbytes(_FILE))
        tree.host_file(f"srv/data/{number % 50:02}/{number:06}", path)


def _changes(old: dict[str, str], new: dict[str, str]) -> tuple[str, ...]:
    return tuple(
        f"{name} {old.get(name, 'none')} → {new.get(name, 'none')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
