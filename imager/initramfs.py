"""The initramfs: busybox, dmsetup, kernel modules and `imager/initramfs/init`, not compressed.

::

    init                     imager/initramfs/init (busybox sh)
    bin/busybox, bin/NAME    static, with a link for each applet that init uses
    bin/restart              `imager.restart`, for firmware that takes an argument of a restart
    bin/dmsetup, lib...      from the root image's own tree, so that any
                             architecture works; its libraries at their paths
    modules/watchdog/NN-NAME.ko   loaded first, in the order of NN
    modules/root/NN-NAME.ko       loaded next
    rescue.erofs             root of the rescue system, in its initramfs only
    hooks/NN-NAME            programs of the board or system; a failure fails the boot
    dev proc run sys sysroot mount points
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath

from imager.archive import write_cpio
from imager.elf import dependencies
from imager.tree import Tree
from recovery.errors import ManifestError

# What imager/initramfs/init calls; tests compare the two.
APPLETS = (
    "dd", "hexdump", "insmod", "mkdir", "mount", "reboot", "sh", "sleep", "switch_root",
)  # fmt: skip
_MOUNT_POINTS = ("dev", "proc", "run", "sys", "sysroot")
_PROGRAMS = ("busybox", "dmsetup")
_DIRECTORIES = ("usr/bin", "usr/sbin")


def initramfs_tree(
    root: Tree,
    watchdog: Sequence[tuple[str, Path]],
    modules: Sequence[tuple[str, Path]],
    hooks: Mapping[str, bytes] | None = None,
    rescue: Path | None = None,
    *,
    restart: bytes = b"",
) -> Tree:
    """The content of the initramfs.

    root: tree of the root image (with busybox-static and dmsetup). watchdog,
    modules: names and decompressed files as of `imager.kernel.Kernel.module_files`,
    in the order to load. A module in both is loaded with the watchdog. hooks: by
    file name, run in the order of their names. rescue: the root of the rescue system (erofs),
    for its own initramfs, which opens nothing else. restart: the program, where it is needed.
    Raises ManifestError when the root image lacks a program or a library.
    """
    tree = Tree()
    for name in _MOUNT_POINTS:
        tree.directory(name)
    init = resources.files("imager").joinpath("initramfs", "init").read_bytes()
    tree.file("init", init, 0o755)
    for name in ("busybox",) if rescue else _PROGRAMS:
        _add_program(tree, root, name)
    for applet in APPLETS:
        tree.symlink(f"bin/{applet}", "busybox")
    _add_modules(tree, "modules/watchdog", watchdog)
    early = {name for name, _ in watchdog}
    _add_modules(tree, "modules/root", [item for item in modules if item[0] not in early])
    for name, content in (hooks or {}).items():
        tree.file(f"hooks/{name}", content, 0o755)
    if restart:
        tree.file("bin/restart", restart, 0o755)
    if rescue:
        tree.host_file("rescue.erofs", rescue)
    return tree


def write_initramfs(tree: Tree, output: Path, *, mtime: int) -> int:
    """Writes the archive and returns its size in bytes.

    Not compressed: what did not change in it is the same in two of them, so an update fetches
    and writes only what did. What is downloaded is compressed anyway.
    mtime: seconds since the epoch, of every entry. Same tree, same bytes.
    """
    write_cpio(tree, output, mtime)
    return output.stat().st_size


def _add_program(tree: Tree, root: Tree, name: str) -> None:
    """Copies a program and, at the paths where its loader looks, all libraries it needs."""
    path = _find(root, name, _DIRECTORIES)
    if path is None:
        raise ManifestError(
            f"cannot build the initramfs: the root image has no {name}",
            details=f"looked in {', '.join(_DIRECTORIES)}",
            resolution="add busybox-static and dmsetup to the packages of the system",
        )
    content = root.read(path)
    tree.file(f"bin/{name}", content, 0o755)
    needs = dependencies(content, name)
    if not needs.interpreter:
        return
    # The loader is where the program says; the libraries beside each other.
    tree.file(needs.interpreter, root.read(needs.interpreter), 0o755)
    directories = _library_directories(root, needs.interpreter)
    todo = list(needs.needed)
    done: set[str] = {PurePosixPath(needs.interpreter).name}
    while todo:
        library = todo.pop()
        if library in done:
            continue
        done.add(library)
        found = _find(root, library, directories)
        if found is None:
            raise ManifestError(
                f"cannot build the initramfs: {name} needs {library}, which the root image lacks",
                details=f"looked in {', '.join(directories)}",
                resolution="add the Debian package that holds it to the packages of the system",
            )
        data = root.read(found)
        tree.file(f"lib/{library}", data, 0o644)
        todo.extend(dependencies(data, library).needed)


def _library_directories(root: Tree, interpreter: str) -> list[str]:
    """Where glibc of the tree looks: the directory that holds the loader itself, and /usr/lib.

    Debian keeps the loader among the libraries of its architecture
    (/usr/lib/x86_64-linux-gnu) and links to it from the path in the program.
    """
    return [str(PurePosixPath(root.resolve(interpreter)).parent), "usr/lib", "usr/lib64"]


def _find(root: Tree, name: str, directories: Sequence[str]) -> str | None:
    for directory in directories:
        path = root.resolve(f"{directory}/{name}")
        entry = root.get(path)
        if entry is not None and entry.kind == "file":
            return path
    return None


def _add_modules(tree: Tree, directory: str, modules: Sequence[tuple[str, Path]]) -> None:
    # Uncompressed: the whole archive is compressed once, and every kernel can load them.
    for number, (name, file) in enumerate(modules):
        tree.host_file(f"{directory}/{number:02}-{name}.ko", file)
