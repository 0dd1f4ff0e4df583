"""Slots that are whole, and slots that are not: real hash trees, real bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.reporter import SilentReporter
from recovery.rescue.slot import inspect, named_image
from recovery.verity import BLOCK
from tests.recovery.rescue_devices import Image, make_image, write_slot

IMAGE = make_image("1.0", blocks=300)


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    """The partition of a slot, with room behind the image."""
    path = tmp_path / "root-a"
    write_slot(path, IMAGE, size=len(IMAGE.root) + 5 * BLOCK)
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """Its boot artifact: the command line across the border of two reads."""
    path = tmp_path / "a.efi"
    path.write_bytes(b"MZ".ljust((1 << 20) - 40, b"\x90") + IMAGE.boot)
    return path


def damage(slot: Path, artifact: Path) -> str:
    content = inspect("a", slot, artifact, SilentReporter())
    assert content.whole == (not content.damage)
    return content.damage


def change(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes((byte[0] ^ 1,)))


def test_a_whole_slot_is_whole(slot: Path, artifact: Path) -> None:
    found = inspect("a", slot, artifact, SilentReporter())
    assert (found.root_hash, found.damage) == (IMAGE.root_hash, "")


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (0, "data"),
        (IMAGE.hash_offset - 1, "data"),
        (IMAGE.hash_offset, "superblock"),
        (IMAGE.hash_offset + 16, "superblock"),
        (IMAGE.hash_offset + 90, "data"),  # the salt
        (IMAGE.hash_offset + BLOCK, "tree"),
        (len(IMAGE.root) - 1, "tree"),
    ],
)
def test_one_wrong_bit_anywhere_is_found(
    slot: Path, artifact: Path, offset: int, words: str
) -> None:
    change(slot, offset)
    assert words in damage(slot, artifact)


def test_a_slot_that_is_too_short_or_gone(slot: Path, artifact: Path, tmp_path: Path) -> None:
    slot.write_bytes(IMAGE.root[: IMAGE.hash_offset + BLOCK])
    assert "tree" in damage(slot, artifact)
    slot.write_bytes(IMAGE.root[:1000])
    assert damage(slot, artifact)
    assert "cannot be read" in damage(tmp_path / "none", artifact)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 5000,
        b"orbital.roothash=*) orbital.hashoffset=*)",
        b"orbital.roothash=" + b"a" * 63 + b" orbital.hashoffset=4096",
        b"orbital.roothash=" + b"a" * 65 + b" orbital.hashoffset=4096",
    ],
)
def test_an_artifact_that_names_no_image(slot: Path, artifact: Path, content: bytes) -> None:
    artifact.write_bytes(content)
    assert "names no image" in damage(slot, artifact)


def test_an_artifact_of_another_image(slot: Path, artifact: Path) -> None:
    artifact.write_bytes(make_image("2.0", blocks=300).boot)
    assert "superblock" in damage(slot, artifact)


def test_what_an_older_longer_artifact_left_behind_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "boot-a"
    older: Image = make_image("0.9", blocks=3)
    path.write_bytes(IMAGE.boot + older.boot)
    named = named_image(path)
    assert named is not None and named.root_hash == IMAGE.root_hash
