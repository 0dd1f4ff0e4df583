"""What Debian lacks for an architecture is built here, for that architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imager.cache import Cache, default_directory
from imager.crossbuild import build_missing, split_missing
from imager.mirror import find_mirror
from imager.package.elf import MACHINES, read_elf

WANTED = ("python3-msgspec", "systemd")


def test_only_what_an_architecture_lacks_is_built_and_its_needs_are_fetched() -> None:
    assert split_missing(WANTED, "arm64") == (WANTED, ())
    fetched, missing = split_missing(WANTED, "armhf")
    assert fetched == ("python3", "systemd")
    assert [item.name for item in missing] == ["python3-msgspec"]
    assert split_missing(("systemd",), "armhf") == (("systemd",), ())


@pytest.mark.build
def test_msgspec_for_armhf_is_an_extension_of_its_architecture() -> None:
    (missing,) = split_missing(WANTED, "armhf")[1]
    # Some mirrors have damaged indexes of the security archive for ports (`qemu.lab`).
    mirror = replace(find_mirror(), security="")
    tree, package = build_missing(missing, "armhf", Cache(default_directory()), mirror=mirror)
    folder = "usr/lib/python3/dist-packages/msgspec"
    path = f"{folder}/_core.cpython-313-arm-linux-gnueabihf.so"
    facts = read_elf(tree.read(path), path)
    assert (facts.machine, facts.bits) == MACHINES["armhf"]
    assert facts.needed == ("libc.so.6", "libm.so.6")
    assert f"{folder}/__init__.py" in tree
    # Where the source was unpacked is not in it.
    assert b"orbital-build" not in tree.read(path)
    assert (package.name, package.source) == ("python3-msgspec", "python-msgspec")
    assert Path(folder, "_version.py").as_posix() in tree
