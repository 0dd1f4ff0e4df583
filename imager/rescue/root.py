"""The root of the rescue system: programs, Python and the agent out of a Debian base. Pure.

Named things are taken from the base, with the libraries that they need, rather than unwanted
things removed: what a person must trust and a small partition must hold stays countable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from imager.agent import LIBRARY, install_agent
from imager.elf import dependencies
from imager.tree import Tree
from recovery.device import DEVICE_FILE
from recovery.errors import ManifestError

PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "dmsetup",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "python3",
    "python3-cryptography",
    "python3-msgspec",
    "python3-resolvelib",
    "python3-tuf",
    "python3-urllib3",
    "python3-zstandard",
)
LOGIN_PACKAGES = ("dropbear-bin",)
"""For a network login, where the product has keys for one."""
LOADER = f"{LIBRARY}/loader"
"""Copies of what firmware reads before any slot, to be put back."""
MODULES = f"{LIBRARY}/modules"
"""Kernel modules, NN-NAME.ko in the order in which they are loaded."""

_INFO = "var/lib/dpkg/info"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
FILES = Path(__file__).with_name("files")
# From usr/bin or usr/sbin of the base.
_PROGRAMS = (
    "blkdiscard", "blkid", "busybox", "dmsetup", "dumpe2fs", "e2fsck", "fsck.fat", "mke2fs",
    "mkfs.fat", "resize2fs", "sfdisk", "tune2fs",
)  # fmt: skip
_LOGIN_PROGRAMS = ("dropbear", "dropbearkey")
_LINKS = {
    "fsck.vfat": "fsck.fat", "mkfs.vfat": "mkfs.fat", "mkfs.ext4": "mke2fs",
    "fsck.ext4": "e2fsck",
}  # fmt: skip
APPLETS = (
    "[", "ash", "blockdev", "cat", "chmod", "clear", "cp", "cut", "date", "dd", "df", "dmesg",
    "du", "echo", "env", "false", "fdisk", "find", "free", "grep", "halt", "head", "hexdump",
    "hostname", "ifconfig", "insmod", "ip", "kill", "less", "ln", "losetup", "ls", "lsmod",
    "md5sum", "mkdir", "mknod", "mount", "mountpoint", "mv", "nslookup", "ping", "poweroff", "ps",
    "readlink", "reboot", "rm", "rmdir", "route", "sed", "seq", "sh", "sha256sum", "sleep", "sort",
    "stat", "stty", "sync", "tail", "tar", "test", "top", "touch", "tr", "true", "udhcpc", "umount",
    "uname", "vi", "watchdog", "wc", "wget", "xargs",
)  # fmt: skip
# Of Python's own library: what nothing of ours imports and is large.
_PYTHON_UNWANTED = (
    "**/__pycache__", "**/test", "**/tests", "LICENSE.txt", "_pyrepl", "config-*", "curses",
    "dbm", "ensurepip", "idlelib", "lib2to3", "pydoc.py", "pydoc_data", "sitecustomize.py",
    "sqlite3", "test", "tkinter", "turtle.py", "turtledemo", "unittest", "venv",
    "wsgiref", "xmlrpc",
    "lib-dynload/_curses*", "lib-dynload/_dbm*", "lib-dynload/_gdbm*", "lib-dynload/_sqlite3*",
    "lib-dynload/_tkinter*", "lib-dynload/_test*", "lib-dynload/_xxtest*", "lib-dynload/_codecs_*",
    "lib-dynload/readline*",
)  # fmt: skip
_PACKAGES_UNWANTED = (
    "*.egg-info", "*.dist-info", "**/__pycache__", "**/test", "**/tests", "**/*.pyi", "bcrypt",
    "chardet", "zstandard/_cffi*", "**/test_data",
)  # fmt: skip
_MOUNT_POINTS = {"dev": 0o755, "proc": 0o555, "run": 0o755, "state": 0o755, "sys": 0o555,
                 "tmp": 0o1777, "var": 0o755, "root": 0o700, "mnt": 0o755}  # fmt: skip


def rescue_tree(
    base: Tree,
    *,
    device: bytes,
    os_release: str,
    trust: Mapping[str, bytes],
    modules: Sequence[tuple[str, Path]],
    loader: Mapping[str, Path | bytes],
    login: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> Tree:
    """The root of the rescue system, its Python not yet compiled (`without_sources`).

    base: a Debian base with `PACKAGES`. device: device.json. trust: as in the image. modules: names
    and files in load order. loader: by path below `LOADER`. login: public keys that may log in.
    extra: Debian packages of which every file is taken.
    Raises ManifestError when the base lacks something.
    """
    tree = Tree()
    for path, mode in _MOUNT_POINTS.items():
        tree.directory(path, mode)
    for name in ("bin", "sbin", "lib", "lib64"):
        if (link := base.get(name)) is not None and link.kind == "symlink":
            tree.put(name, link)
            tree.directory(link.target)
    programs = (*_PROGRAMS, *(_LOGIN_PROGRAMS if login else ()))
    wanted = [_program(base, name) for name in programs]
    wanted.append(base.resolve("usr/bin/python3"))
    # Python's cryptography does not begin without it.
    wanted += base.glob("usr/lib/*/ossl-modules/legacy.so")
    wanted += _python(base)
    for package in extra:
        wanted += _files_of(base, package)
    _take(tree, base, wanted)
    tree.symlink("usr/bin/python3", PurePosixPath(base.resolve("usr/bin/python3")).name)
    for name, target in _LINKS.items():
        tree.symlink(f"usr/sbin/{name}", target)
    for applet in APPLETS:
        if f"usr/bin/{applet}" not in tree and f"usr/sbin/{applet}" not in tree:
            tree.symlink(f"usr/bin/{applet}", "busybox")
    tree.file(_CERTIFICATES, base.read(_CERTIFICATES))
    _configure(tree, os_release, login)
    install_agent(tree)
    tree.remove("usr/lib/systemd", "usr/share/dbus-1")
    tree.file(str(DEVICE_FILE.relative_to("/")), device)
    for path, data in trust.items():
        tree.file(path, data)
    for number, (name, file) in enumerate(modules):
        tree.host_file(f"{MODULES}/{number:03}-{name}.ko", file)
    for path, content in loader.items():
        if isinstance(content, bytes):
            tree.file(f"{LOADER}/{path}", content)
        else:
            tree.host_file(f"{LOADER}/{path}", content)
    return tree


def packages_in(tree: Tree, base: Tree) -> list[str]:
    """Names of the Debian packages of which the tree has a file of the base, sorted."""
    # The bundle is made at installation: no package lists it.
    found = {"ca-certificates"} if _CERTIFICATES in tree else set()
    for path in base.glob(f"{_INFO}/*.list"):
        package = PurePosixPath(path).stem.partition(":")[0]
        if package in found:
            continue
        for line in base.read(path).decode().splitlines():
            # Old packages list /bin/busybox although /bin is a link to usr/bin.
            parent, _, name = line.strip("/").rpartition("/")
            file = f"{base.resolve(parent)}/{name}" if parent else name
            entry = tree.get(file)
            if entry is not None and entry.kind == "file" and entry == base.get(file):
                found.add(package)
                break
    return sorted(found)


def without_sources(tree: Tree) -> None:
    """Puts each compiled Python file in the place of its source (PEP 3147, "sourceless")."""
    for path in tree.glob("**/__pycache__/*.pyc"):
        entry = tree.get(path)
        folder, _, name = path.rpartition("/__pycache__/")
        source = f"{folder}/{name.partition('.')[0]}.py"
        if entry is not None and source in tree:
            tree.remove(source)
            tree.put(f"{source}c", entry)
    tree.remove("**/__pycache__")


def code() -> list[Path]:
    """What the tree depends on, beside its inputs."""
    return [Path(__file__), FILES]


def _configure(tree: Tree, os_release: str, login: Sequence[str]) -> None:
    for path in sorted(FILES.rglob("*")):
        if path.is_file():
            name = path.relative_to(FILES).as_posix()
            tree.file(name, path.read_bytes(), 0o755 if name.startswith("usr/") else 0o644)
    tree.file("etc/os-release", os_release)
    tree.file("etc/hostname", "rescue\n")
    tree.file("etc/hosts", "127.0.0.1 localhost rescue\n::1 localhost\n")
    # A name for uid 0. No password: "*" is no digest of any.
    tree.file("etc/passwd", "root:*:0:0:root:/root:/bin/sh\n")
    tree.file("etc/group", "root:*:0:\n")
    tree.symlink("etc/resolv.conf", "../run/resolv.conf")
    tree.symlink("etc/mtab", "../proc/self/mounts")
    if login:
        tree.file("root/.ssh/authorized_keys", "".join(f"{key}\n" for key in login), 0o600)
        tree.directory("root/.ssh", 0o700)
        tree.file("etc/shells", "/bin/sh\n")


def _python(base: Tree) -> list[str]:
    """Python's library and the packages, without what nobody needs in a rescue."""
    library = [path for path in base.glob("usr/lib/python3.*") if path.count("/") == 2]
    own, packages = base.copy(), "usr/lib/python3/dist-packages"
    own.remove(*(f"{folder}/{name}" for folder in library for name in _PYTHON_UNWANTED))
    own.remove(*(f"{packages}/{name}" for name in _PACKAGES_UNWANTED))
    found = [path for folder in (*library, packages) for path in own.glob(f"{folder}/**")]
    return [path for path in found if (entry := own.get(path)) and entry.kind != "directory"]


def _files_of(base: Tree, package: str) -> list[str]:
    lists = [*base.glob(f"{_INFO}/{package}.list"), *base.glob(f"{_INFO}/{package}:*.list")]
    lines = [line for path in lists for line in base.read(path).decode().splitlines()]
    paths = [base.resolve(line) for line in lines]
    return [path for path in paths if (entry := base.get(path)) and entry.kind == "file"]


def _program(base: Tree, name: str) -> str:
    for directory in ("usr/bin", "usr/sbin"):
        path = base.resolve(f"{directory}/{name}")
        entry = base.get(path)
        if entry is not None and entry.kind == "file":
            return path
    raise ManifestError(f"cannot build the rescue system: its base has no {name}")


def _take(tree: Tree, base: Tree, paths: Iterable[str]) -> None:
    """Copies files, and at their own places all libraries that those of them in ELF need."""
    todo = list(paths)
    done: set[str] = set()
    while todo:
        path = todo.pop()
        entry = base.get(path)
        if path in done or entry is None:
            continue
        done.add(path)
        tree.put(path, entry)
        if entry.kind != "file":
            continue
        content = entry.read()
        if not content.startswith(b"\x7fELF"):
            continue
        needs = dependencies(content, path)
        if needs.interpreter:
            _link(tree, base, needs.interpreter, todo)
        todo += [found for name in needs.needed if (found := _library(tree, base, name))]


def _link(tree: Tree, base: Tree, path: str, todo: list[str]) -> None:
    """The loader at the path in the program, which may be a link into the libraries' folder."""
    real = base.resolve(path)
    todo.append(real)
    parent, _, name = path.strip("/").rpartition("/")
    place = f"{base.resolve(parent)}/{name}"
    if place != real and (entry := base.get(place)) is not None:
        tree.put(place, entry)


def _library(tree: Tree, base: Tree, name: str) -> str:
    """Where the library with this soname is; the name itself, if it is a link, goes into tree."""
    for path in (*base.glob(f"usr/lib/*/{name}"), *base.glob(f"usr/lib/{name}")):
        entry = base.get(path)
        if entry is not None and entry.kind == "symlink":
            tree.put(path, entry)
        return base.resolve(path)
    raise ManifestError(f"cannot build the rescue system: its base has no {name}")
