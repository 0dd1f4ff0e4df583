"""What is in the initramfs, without booting it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imager.initramfs import APPLETS, initramfs_tree, write_initramfs
from imager.tools import Tools
from imager.tree import Tree
from recovery.errors import ManifestError

INIT = (Path(__file__).parents[2] / "imager/initramfs/init").read_text()
# Programs that a shell script would reach for; what init uses of them must be linked.
COMMON = {
    "awk", "basename", "blkid", "cat", "chmod", "chroot", "cp", "cut", "date", "dd", "dmesg",
    "echo", "expr", "find", "grep", "head", "hexdump", "insmod", "ln", "ls", "mkdir", "mknod",
    "modprobe", "mount", "mv", "od", "poweroff", "readlink", "reboot", "rm", "sed", "sleep",
    "stat", "switch_root", "sync", "tail", "touch", "tr", "umount", "usleep", "wc", "xargs",
    "xxd",
}  # fmt: skip
BUILT_IN = {"echo"}


@pytest.fixture(scope="session")
def root(tools: Tools) -> Tree:
    """A root tree: real, dynamically linked dmsetup stand-in and static busybox stand-in."""
    tree = Tree()
    tree.symlink("lib64", "usr/lib64")
    tree.symlink("bin", "usr/bin")
    libraries = "usr/lib/x86_64-linux-gnu"
    for path in tools.file(libraries).glob("*.so*"):
        if path.is_file() and path.stat().st_size < 16 << 20:
            tree.host_file(f"{libraries}/{path.name}", path, 0o755)
    tree.symlink("usr/lib64/ld-linux-x86-64.so.2", f"../../{libraries}/ld-linux-x86-64.so.2")
    tree.host_file("usr/sbin/dmsetup", tools.file("usr/sbin/veritysetup"), 0o755)
    # Static programs have no interpreter and no dynamic section.
    tree.file("usr/bin/busybox", b"\x7fELF\x02\x01" + bytes(58), 0o755)
    return tree


def _modules(tmp_path: Path, *names: str) -> list[tuple[str, Path]]:
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    return [(name, tmp_path / name) for name in names]


def test_dmsetup_comes_with_its_whole_closure_of_libraries(root: Tree) -> None:
    tree = initramfs_tree(root, [], [])
    libraries = {path.removeprefix("lib/") for path in tree.glob("lib/*")}
    # libdevmapper is needed by libcryptsetup, libudev in turn by libdevmapper.
    assert {"libcryptsetup.so.12", "libdevmapper.so.1.02.1", "libudev.so.1"} <= libraries
    assert tree.read("lib64/ld-linux-x86-64.so.2").startswith(b"\x7fELF")
    loader = tree.get("lib64/ld-linux-x86-64.so.2")
    assert loader is not None
    assert loader.mode == 0o755


def test_modules_keep_their_order_and_the_watchdog_comes_first(root: Tree, tmp_path: Path) -> None:
    watchdog = _modules(tmp_path, "watchdog", "i6300esb")
    modules = _modules(tmp_path, "virtio_blk", "watchdog", "dm_mod", "dm_verity")
    tree = initramfs_tree(root, watchdog, modules)
    assert tree.glob("modules/*/*") == [
        "modules/root/00-virtio_blk.ko",
        "modules/root/01-dm_mod.ko",
        "modules/root/02-dm_verity.ko",
        "modules/watchdog/00-watchdog.ko",
        "modules/watchdog/01-i6300esb.ko",
    ]
    assert tree.read("modules/root/02-dm_verity.ko") == b"dm_verity"


def test_hooks_are_programs(root: Tree) -> None:
    tree = initramfs_tree(root, [], [], {"10-unlock": b"#!/bin/sh\n"})
    entry = tree.get("hooks/10-unlock")
    assert entry is not None
    assert entry.mode == 0o755


@pytest.mark.parametrize("missing", ["usr/bin/busybox", "usr/sbin/dmsetup"])
def test_a_root_image_without_a_program_is_an_error_that_names_the_package(
    root: Tree, missing: str
) -> None:
    poor = root.copy()
    poor.remove(missing)
    with pytest.raises(ManifestError, match=f"the root image has no {Path(missing).name}") as error:
        initramfs_tree(poor, [], [])
    assert "busybox-static and dmsetup" in error.value.resolution


def test_a_library_that_is_missing_in_depth_is_named(root: Tree) -> None:
    poor = root.copy()
    poor.remove("usr/lib/x86_64-linux-gnu/libudev.so*")
    with pytest.raises(ManifestError, match=r"dmsetup needs libudev\.so\.1"):
        initramfs_tree(poor, [], [])


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = Tree()
    tree.file("init", INIT, 0o755)
    tree.symlink("bin/sh", "busybox")
    one, two = tmp_path / "one.cpio", tmp_path / "elsewhere.cpio"
    size = write_initramfs(tree, one, mtime=1_760_000_000)
    write_initramfs(tree, two, mtime=1_760_000_000)
    assert one.read_bytes() == two.read_bytes()
    assert size == one.stat().st_size
    other = tmp_path / "other.cpio"
    write_initramfs(tree, other, mtime=1_760_000_001)
    assert one.read_bytes() != other.read_bytes()


def test_init_uses_only_the_applets_that_are_linked() -> None:
    code = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in INIT.splitlines())
    code = re.sub(r'"[^"\n]*"', '""', code)
    code = re.sub(r"DM_\w+|DEVNAME|/[a-z]\S*", " ", code)
    used = {word for word in re.findall(r"[a-z_]+", code) if word in COMMON} - BUILT_IN
    assert used == set(APPLETS) - {"sh"}
