"""What an image promises to packages: read from real libraries, and refused when it is not so."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from imager.interface import encode_interface, os_interface
from imager.tree import Tree
from manifests.catalogue import REPOSITORY, Product, load_product
from manifests.interface import OsInterface
from recovery.errors import ManifestError

FOLDER = "usr/lib/x86_64-linux-gnu"
HOST = Path("/", FOLDER)
SYSTEM = """\
system: thing
version: "3.1"
summary: A thing
hostname: thing
base: {debian: {suite: trixie}}
interface:
  libraries: [LIBRARY, libc.so.6]
  programs: [/usr/bin/sh]
"""


@pytest.fixture
def tree() -> Tree:
    """An image with the C library of the machine that runs the tests."""
    tree = Tree()
    tree.host_file(f"{FOLDER}/libc.so.6", HOST / "libc.so.6")
    tree.host_file(f"{FOLDER}/libm.so.6", HOST / "libm.so.6")
    tree.symlink("usr/lib64/ld-linux-x86-64.so.2", f"/{FOLDER}/ld-linux-x86-64.so.2")
    tree.host_file(f"{FOLDER}/ld-linux-x86-64.so.2", HOST / "ld-linux-x86-64.so.2", 0o755)
    tree.file("usr/bin/dash", "program", 0o755)
    tree.symlink("usr/bin/sh", "dash")
    tree.file("etc/file", "")
    return tree


def product(tmp_path: Path, library: str = "libm.so.6", program: str = "/usr/bin/sh") -> Product:
    text = SYSTEM.replace("LIBRARY", library).replace("/usr/bin/sh", program)
    path = tmp_path / "manifests/systems/thing.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return load_product("thing", "qemu-x86_64", (tmp_path, REPOSITORY))


def test_the_promise_has_the_symbol_versions_of_each_library(tmp_path: Path, tree: Tree) -> None:
    interface = os_interface(product(tmp_path), tree)
    libc = interface.libraries["libc.so.6"]
    # The release itself defines a version only when it has new symbols (2.36 has).
    own = str(os.confstr("CS_GNU_LIBC_VERSION")).replace("glibc ", "")
    versions = [name.removeprefix("GLIBC_") for name in libc if name.startswith("GLIBC_2.")]
    numbers = [tuple(map(int, text.split("."))) for text in versions]
    assert "GLIBC_2.2.5" in libc
    assert (2, 34) in numbers
    assert max(numbers) <= tuple(map(int, own.split(".")))
    assert list(libc) == sorted(libc)
    assert "GLIBC_2.2.5" in interface.libraries["libm.so.6"]
    # Neither the library's own name nor what its authors may change at any time.
    assert not [name for name in libc if "PRIVATE" in name or ".so" in name]


def test_the_promise_says_of_which_image_it_is_and_what_lies_below_usr(
    tmp_path: Path, tree: Tree
) -> None:
    interface = os_interface(product(tmp_path), tree)
    assert (interface.system, interface.version, interface.board) == (
        "thing", "3.1", "qemu-x86_64",
    )  # fmt: skip
    assert interface.programs == ("/usr/bin/sh",)
    assert {"usr/bin/dash", "usr/bin/sh", f"{FOLDER}/libc.so.6"} <= set(interface.files)
    assert not [path for path in interface.files if not path.startswith("usr/")]
    assert "usr/bin" not in interface.files


def test_the_document_is_read_back_as_it_was(tmp_path: Path, tree: Tree) -> None:
    interface = os_interface(product(tmp_path), tree)
    data = encode_interface(interface)
    assert msgspec.json.decode(data, type=OsInterface) == interface
    assert encode_interface(interface) == data


def test_the_loader_is_found_through_its_link(tmp_path: Path, tree: Tree) -> None:
    interface = os_interface(product(tmp_path, library="ld-linux-x86-64.so.2"), tree)
    assert "GLIBC_2.3" in interface.libraries["ld-linux-x86-64.so.2"]


def test_who_promises_glibc_promises_its_loader(tmp_path: Path, tree: Tree) -> None:
    # A system is for boards of several architectures, and cannot name it.
    interface = os_interface(product(tmp_path), tree)
    assert "GLIBC_2.3" in interface.libraries["ld-linux-x86-64.so.2"]


@pytest.mark.parametrize(
    ("library", "content", "details"),
    [
        ("libquite-another.so.1", None, ""),
        ("libm.so.5", None, 'did you mean "libm.so.6"?'),
        ("libtext.so.1", b"INPUT(-lc)", f"/{FOLDER}/libtext.so.1 is not an ELF file"),
        ("libother.so.1", (HOST / "libm.so.6").read_bytes(),
         f"/{FOLDER}/libother.so.1 is libm.so.6 for EM_X86_64"),
    ],
)  # fmt: skip
def test_a_library_that_is_not_what_is_promised_is_refused(
    tmp_path: Path, tree: Tree, library: str, content: bytes | None, details: str
) -> None:
    if content is not None:
        tree.file(f"{FOLDER}/{library}", content)
    with pytest.raises(ManifestError) as caught:
        os_interface(product(tmp_path, library=library), tree)
    assert caught.value.brief == (
        "cannot build thing_3.1_qemu-x86_64: its interface promises the library "
        f"{library}, which the image has not"
    )
    assert caught.value.details == details


def test_a_library_of_another_architecture_is_refused(tmp_path: Path, tree: Tree) -> None:
    content = bytearray((HOST / "libm.so.6").read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # e_machine: EM_AARCH64
    tree.file(f"{FOLDER}/libm.so.6", bytes(content))
    with pytest.raises(ManifestError) as caught:
        os_interface(product(tmp_path), tree)
    assert caught.value.details == f"/{FOLDER}/libm.so.6 is libm.so.6 for EM_AARCH64"


@pytest.mark.parametrize(
    ("program", "mode", "details"),
    [
        ("/usr/bin/nft", None, "it is at /usr/sbin/nft"),
        ("/usr/bin/none", None, ""),
        ("/usr/bin/text", 0o644, "the file there cannot be executed"),
    ],
)
def test_a_program_that_cannot_be_started_is_refused(
    tmp_path: Path, tree: Tree, program: str, mode: int | None, details: str
) -> None:
    tree.file("usr/sbin/nft", "program", 0o755)
    if mode is not None:
        tree.file(program.removeprefix("/"), "text", mode)
    with pytest.raises(ManifestError, match="its interface promises the program") as caught:
        os_interface(product(tmp_path, program=program), tree)
    assert caught.value.details == details
