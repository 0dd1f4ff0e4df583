"""Trees as values, and the archives written from them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from imager.archive import write_cpio, write_tar
from imager.tree import Tree, matching
from recovery.errors import ManifestError, ToolError


def sample() -> Tree:
    tree = Tree()
    tree.file("usr/bin/tool", b"\x7fELF", 0o755)
    tree.symlink("bin", "usr/bin")
    tree.symlink("usr/bin/alias", "/usr/bin/tool")
    tree.directory("tmp", 0o1777)
    tree.file("etc/a.conf", "a\n")
    return tree


def member(name: str, kind: bytes, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_a_tar_is_read_without_devices_and_with_hard_links_as_files(tmp_path: Path) -> None:
    path = tmp_path / "base.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member("./", tarfile.DIRTYPE, mode=0o755))
        tar.addfile(member("./dev/null", tarfile.CHRTYPE))
        tar.addfile(member("./etc/shadow", tarfile.REGTYPE, size=4, mode=0o640, gid=42),
                    io.BytesIO(b"root"))  # fmt: skip
        tar.addfile(member("./etc/copy", tarfile.LNKTYPE, linkname="./etc/shadow"))
        tar.addfile(member("./lib", tarfile.SYMTYPE, linkname="usr/lib"))
    tree = Tree.from_tar(path)
    assert [name for name, _ in tree.items()] == ["etc", "etc/copy", "etc/shadow", "lib"]
    shadow = tree.get("etc/shadow")
    assert shadow is not None
    assert (shadow.mode, shadow.gid, shadow.size) == (0o640, 42, 4)
    assert tree.read("etc/copy") == b"root"


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.tar"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(ToolError, match="not an uncompressed tar"):
        Tree.from_tar(path)


def test_links_are_followed_within_the_tree() -> None:
    tree = sample()
    assert tree.resolve("bin/alias") == "usr/bin/tool"
    assert tree.resolve("bin/../etc/a.conf") == "usr/etc/a.conf"
    assert tree.resolve("../../etc/a.conf") == "etc/a.conf"
    assert tree.read("bin/alias") == b"\x7fELF"
    tree.symlink("loop", "loop")
    with pytest.raises(ManifestError, match="loop"):
        tree.read("loop")


@pytest.mark.parametrize("path", ["", "..", "a/../b", "a//b", "a/./b"])
def test_paths_that_leave_the_tree_are_refused(path: str) -> None:
    with pytest.raises(ManifestError, match="not a plain relative path"):
        Tree().file(path, b"")


def test_a_file_never_takes_the_place_of_a_directory_or_lies_below_a_link() -> None:
    tree = sample()
    with pytest.raises(ManifestError, match="a directory is there"):
        tree.file("usr/bin", b"")
    with pytest.raises(ManifestError, match="bin is a symlink"):
        tree.file("bin/other", b"")


def test_patterns_cross_names_only_with_two_stars() -> None:
    paths = ["a/b.py", "a/c/b.py", "a/c/d/b.py", "a/b.pyc", "ab.py"]
    assert matching(paths, "a/*.py") == ["a/b.py"]
    assert matching(paths, "a/**/*.py") == ["a/b.py", "a/c/b.py", "a/c/d/b.py"]
    assert matching(paths, "a/[bx].py") == ["a/b.py"]
    assert matching(paths, "a?.py") == ["ab.py"]


def test_removing_a_directory_removes_what_is_below_and_nothing_beside() -> None:
    tree = sample()
    tree.file("usr/binary", b"")
    assert tree.remove("usr/bin") == 3
    assert [path for path, _ in tree.items() if path.startswith("usr")] == ["usr", "usr/binary"]


def test_the_same_tree_gives_the_same_tar_however_it_was_made(tmp_path: Path) -> None:
    write_tar(sample(), tmp_path / "one.tar", 1000)
    turned = Tree()
    for path, entry in reversed(list(sample().items())):
        turned.put(path, entry)
    write_tar(turned, tmp_path / "two.tar", 1000)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        members = tar.getmembers()
    assert [item.name for item in members] == [
        ".", "bin", "etc", "etc/a.conf", "tmp", "usr", "usr/bin", "usr/bin/alias", "usr/bin/tool",
    ]  # fmt: skip
    assert {item.mtime for item in members} == {1000}
    assert {(item.uid, item.gid) for item in members} == {(0, 0)}


def test_a_tar_of_host_files_and_of_slices_holds_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "host").write_bytes(b"host" * 5000)
    tree = Tree()
    tree.host_file("file", tmp_path / "host")
    write_tar(tree, tmp_path / "one.tar", 0)
    # Read back as slices of the first tar, and written again.
    write_tar(Tree.from_tar(tmp_path / "one.tar"), tmp_path / "two.tar", 0)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert Tree.from_tar(tmp_path / "two.tar").read("file") == b"host" * 5000


def test_a_cpio_has_the_members_of_the_tree_and_repeats(tmp_path: Path) -> None:
    write_cpio(sample(), tmp_path / "one.cpio", 1000)
    write_cpio(sample(), tmp_path / "two.cpio", 1000)
    assert (tmp_path / "one.cpio").read_bytes() == (tmp_path / "two.cpio").read_bytes()
    fields = parse_cpio((tmp_path / "one.cpio").read_bytes())
    assert fields["usr/bin/tool"] == (0o100755, b"\x7fELF")
    assert fields["usr/bin/alias"] == (0o120777, b"/usr/bin/tool")
    assert fields["tmp"] == (0o041777, b"")
    assert list(fields)[-1] == "TRAILER!!!"


def parse_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each member, by the kernel's description of the format."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + numbers[11] - 1].decode()
        start = at + -(-(110 + numbers[11]) // 4) * 4
        found[name] = (numbers[1], data[start : start + numbers[6]])
        at = start + -(-numbers[6] // 4) * 4
    return found


def test_a_folder_of_the_host_keeps_modes_and_links(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/run").write_text("x")
    (tmp_path / "usr/run").chmod(0o750)
    (tmp_path / "l").symlink_to("usr/run")
    tree = Tree.from_directory(tmp_path)
    entry = tree.get("usr/run")
    assert entry is not None
    assert (entry.mode, entry.uid) == (0o750, 0)
    assert tree.resolve("l") == "usr/run"
    write_tar(tree, tmp_path / "out.tar", 0)
    listing = subprocess.run(
        ["tar", "tvf", tmp_path / "out.tar"], capture_output=True, text=True, check=True
    ).stdout
    assert "-rwxr-x--- 0/0" in listing
