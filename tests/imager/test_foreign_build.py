"""Real Debian bases: compared with Debian's own installation, and of another architecture."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache
from imager.debian import EPOCH, BaseSystem, prepare_base
from imager.mirror import RELEASE, find_mirror
from imager.package.elf import MACHINES, MAGIC, read_elf
from imager.strip import strip_base
from imager.tree import Tree
from imager.var import move_var
from manifests.architectures import DEBIAN
from manifests.catalogue import Product, load_product
from recovery.process import run

pytestmark = pytest.mark.build

# What may differ from an installation in which every script ran, and why that is as good.
BENIGN = {
    # The generator is named, and strings are not shared; the same libraries are found.
    r"etc/ld\.so\.cache",
    # A space at the end of a line.
    r"etc/pam\.d/common-(account|session|session-noninteractive)",
    # /lib/systemd and /usr/lib/systemd are one folder.
    r"etc/systemd/system/timers\.target\.wants/(dpkg-db-backup|fstrim)\.timer",
    # Compiled by the build machine's clock; no program of a device imports it.
    r"usr/share/python3/(debpython/)?__pycache__(/.*)?",
}


def gateway(architecture: str) -> Product:
    product = load_product("gateway", "qemu-x86_64")
    board = msgspec.structs.replace(product.board, architecture=architecture)
    return dataclasses.replace(product, board=board)


def installed(product: Product, output: Path) -> Tree:
    """The same packages, with every script run, by mmdebstrap."""
    run(
        [
            "mmdebstrap", "--variant=essential", "--format=tar", "--architectures=amd64",
            '--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"',
            "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
            f"--include={','.join(product.debian_packages)}", RELEASE, output,
            *find_mirror().sources(RELEASE),
        ],
        env={"SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    return Tree.from_tar(output)


def digest(base: BaseSystem) -> str:
    return hashlib.sha256(base.archive.read_bytes()).hexdigest()


def test_a_base_is_what_debian_installs(tmp_path: Path) -> None:
    product = gateway("x86_64")
    ours = prepare_base(product, Cache(tmp_path / "cache")).tree()
    theirs = installed(product, tmp_path / "installed.tar")
    for tree in (ours, theirs):
        strip_base(tree, product)
        move_var(tree)
    one, other = dict(ours.items()), dict(theirs.items())
    differences = [
        path
        for path in sorted(one.keys() | other.keys())
        if path not in one
        or path not in other
        or (one[path].kind, one[path].mode, one[path].uid, one[path].gid, one[path].target)
        != (other[path].kind, other[path].mode, other[path].uid, other[path].gid,
            other[path].target)
        or one[path].read() != other[path].read()
    ]  # fmt: skip
    unexplained = [
        path for path in differences if not any(re.fullmatch(item, path) for item in BENIGN)
    ]
    assert unexplained == []
    # The comparison saw the trees, and is not fooled by two empty ones.
    assert len(one) > 3000
    assert "etc/ld.so.cache" in differences


def test_a_foreign_base_built_twice_is_byte_identical_and_only_of_its_architecture(
    tmp_path: Path,
) -> None:
    product = gateway("aarch64")
    first = prepare_base(product, Cache(tmp_path / "one"))
    second = prepare_base(product, Cache(tmp_path / "two"))
    if first.packages != second.packages:
        # The mirror moved between the two.
        first = prepare_base(product, Cache(tmp_path / "three"))
    assert first.packages == second.packages
    assert digest(first) == digest(second)
    machine = MACHINES[DEBIAN["aarch64"]]
    tree = first.tree()
    programs = 0
    for path, entry in tree.items():
        if entry.kind == "file" and entry.size > 64 and (data := entry.read())[:4] == MAGIC:
            facts = read_elf(data, path)
            assert (facts.machine, facts.bits) == machine, path
            programs += 1
    assert programs > 500
