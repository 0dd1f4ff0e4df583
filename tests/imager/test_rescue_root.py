"""What is in the rescue system, and that what was asked for is what was written."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from imager.archive import write_tar
from imager.cache import Cache, default_directory
from imager.command_line import rescue_command_line
from imager.debian import debian_base
from imager.elf import dependencies
from imager.rescue import root
from imager.rescue.build import check_written
from imager.tools import Tools
from imager.tree import Tree
from manifests.board import Board
from manifests.board_problems import board_problems
from manifests.catalogue import find, load_board
from recovery.errors import ManifestError, ToolError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB maker"


@pytest.fixture(scope="module")
def base() -> Tree:
    packages = tuple(sorted((*root.PACKAGES, *root.LOGIN_PACKAGES)))
    return debian_base(packages, "amd64", Cache(default_directory())).tree()


def rescue(base: Tree, **changes: object) -> Tree:
    settings: dict[str, object] = {
        "device": b"{}",
        "os_release": "ID=orbital-rescue\n",
        "trust": {},
        "modules": [],
        "loader": {"EFI/BOOT/BOOTX64.EFI": b"MZ"},
        **changes,
    }
    return root.rescue_tree(base, **settings)  # type: ignore[arg-type]


@pytest.mark.build
def test_every_program_and_library_has_what_it_needs(base: Tree) -> None:
    tree = rescue(base)
    checked = 0
    for path, entry in tree.items():
        if entry.kind == "symlink":
            assert tree.resolve(path) in tree or entry.target.startswith("../"), path
        if entry.kind != "file" or not entry.read().startswith(b"\x7fELF"):
            continue
        needs = dependencies(entry.read(), path)
        if needs.interpreter:
            assert tree.resolve(needs.interpreter) in tree
        for name in needs.needed:
            found = [item for item in tree.glob("usr/lib/*/*") if item.endswith(f"/{name}")]
            assert found, f"{path} needs {name}"
            assert tree.resolve(found[0]) in tree
        checked += 1
    assert checked > 50


@pytest.mark.build
def test_its_scripts_use_only_programs_that_it_has(base: Tree) -> None:
    tree = rescue(base, login=[KEY])
    present = {Path(path).name for path in tree.glob("usr/*bin/*")}
    for file in sorted(root.FILES.rglob("*")):
        if not file.is_file():
            continue
        lines = re.findall(r"^\s*(?:exec )?([a-z]+)\b(?!=|\(\)|\))", file.read_text(), re.MULTILINE)
        words = set(lines) - {"case", "esac", "continue", "break", "cd", "do", "done", "export",
                              "fi", "for", "forever", "if", "read", "step", "umask", "while",
                              "bound", "deconfig"}  # fmt: skip
        assert words <= present, file
        mode = tree.get(file.relative_to(root.FILES).as_posix())
        assert mode is not None
        assert mode.mode == 0o755


@pytest.mark.build
def test_a_login_is_there_for_keys_only(base: Tree) -> None:
    tree = rescue(base)
    assert "usr/sbin/dropbear" not in tree
    assert "root/.ssh/authorized_keys" not in tree
    assert tree.read("etc/passwd").startswith(b"root:*:")
    tree = rescue(base, login=[KEY])
    assert "usr/sbin/dropbear" in tree
    assert tree.read("root/.ssh/authorized_keys") == f"{KEY}\n".encode()


@pytest.mark.build
def test_loader_and_agent_are_there_and_no_units(base: Tree) -> None:
    tree = rescue(base)
    assert tree.read("usr/lib/orbital/loader/EFI/BOOT/BOOTX64.EFI") == b"MZ"
    assert "usr/lib/orbital/recovery/rescue/decide.py" in tree
    assert "usr/lib/orbital/orbital/rescue.py" in tree
    assert not tree.glob("usr/lib/systemd/**")


@pytest.mark.build
def test_its_bill_has_the_packages_of_which_it_has_a_file(base: Tree) -> None:
    found = root.packages_in(rescue(base), base)
    assert {
        "busybox-static",
        "ca-certificates",
        "libc6",
        "e2fsprogs",
        "python3-cryptography",
    } <= set(found)
    # In the base, since others depend on them; nothing of them is taken.
    assert not {"dropbear-bin", "dpkg", "perl-base", "bash"} & set(found)
    assert "dropbear-bin" in root.packages_in(rescue(base, login=[KEY]), base)


@pytest.mark.build
def test_a_base_without_a_program_is_an_error_that_names_it(base: Tree) -> None:
    poor = base.copy()
    poor.remove("usr/sbin/e2fsck")
    with pytest.raises(ManifestError, match="no e2fsck"):
        rescue(poor)


def test_compiled_python_takes_the_place_of_its_source() -> None:
    tree = Tree()
    tree.file("usr/lib/x/a.py", "text")
    tree.file("usr/lib/x/__pycache__/a.cpython-313.pyc", b"code")
    tree.file("usr/lib/x/template.py", "does not compile")
    root.without_sources(tree)
    assert tree.read("usr/lib/x/a.pyc") == b"code"
    assert sorted(tree.glob("usr/lib/x/**")) == ["usr/lib/x/a.pyc", "usr/lib/x/template.py"]


@pytest.mark.build
def test_an_image_that_is_not_the_tree_is_refused(tools: Tools, tmp_path: Path) -> None:
    """mkfs.erofs 1.8.6 with "fragments" wrote zeros for small files, such as the first program."""
    tree = Tree()
    tree.file("usr/sbin/init", "#!/bin/sh\n" * 50, 0o755)
    tree.file("usr/bin/large", bytes(range(256)) * 1000)
    write_tar(tree, tmp_path / "tar", 0)
    image = tmp_path / "image"
    tools.run("mkfs.erofs", "--quiet", "-x-1", "-zzstd,level=3", "--tar=f", image, tmp_path / "tar")
    check_written(tree, image, tools)
    tree.file("usr/sbin/init", bytes(500), 0o755)
    with pytest.raises(ToolError, match="wrote /usr/sbin/init wrongly"):
        check_written(tree, image, tools)


@pytest.fixture
def board() -> Board:
    return load_board(find("board", "qemu-x86_64"))


def test_rescue_needs_the_partition_with_the_start_record(board: Board) -> None:
    parts = tuple(part for part in board.layout.partitions if part.role != "environment")
    poor = msgspec.structs.replace(
        board, layout=msgspec.structs.replace(board.layout, partitions=parts)
    )
    problems = list(board_problems(poor))
    assert any("with role environment" in problem.expected for problem in problems)


def test_its_kernel_keeps_no_memory_for_huge_pages(board: Board) -> None:
    assert "transparent_hugepage=never" in rescue_command_line(board).split()


def test_a_button_is_u_boots(board: Board) -> None:
    wrong = msgspec.structs.replace(board, rescue_button="gpio input 5")
    assert [problem.path for problem in board_problems(wrong)] == [("rescue_button",)]
