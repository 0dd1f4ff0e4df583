"""The reader of images: what it reads is what erofs-utils wrote, and damage is an error of ours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from imager.package.erofs import read_tree
from imager.package.image import write_image
from imager.tools import Tools
from imager.tree import Tree
from recovery.errors import ManifestError


@pytest.fixture(scope="module")
def image(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with small, inline, large and empty files, links, and a directory of 400 names."""
    tree = Tree()
    tree.file("manifest.json", "{}")
    for size in (0, 1, 4000, 4095, 4096, 4097, 9000, 300_000):
        tree.file(f"usr/share/sizes/{size}", bytes(number % 251 for number in range(size)))
    for number in range(400):
        tree.file(f"usr/lib/many/a-rather-long-name-of-a-file-{number:03}", str(number))
    tree.symlink("usr/lib/link", "many/a-rather-long-name-of-a-file-007")
    tree.symlink("usr/lib/long", "x" * 1000)
    output = tmp_path_factory.mktemp("erofs") / "image"
    write_image(tree, output, tools, name="demo_1.0", built=1_700_000_000)
    return output


def test_every_shape_of_file_is_read(image: Path) -> None:
    tree = read_tree(image, image.stat().st_size)
    for size in (0, 1, 4000, 4095, 4096, 4097, 9000, 300_000):
        content = tree.read(f"usr/share/sizes/{size}")
        assert content == bytes(number % 251 for number in range(size))
    assert len(tree.glob("usr/lib/many/*")) == 400
    assert tree.read("usr/lib/link") == b"7"


def test_damage_is_found_or_harmless_never_a_crash(image: Path, tmp_path: Path) -> None:
    data = image.read_bytes()
    chance = random.Random(7)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            # Metadata is where a reader can be led astray.
            damaged[chance.randrange(1024, min(len(damaged), 60_000))] = chance.randrange(256)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        try:
            for _, entry in read_tree(path, len(damaged)).items():
                if entry.kind == "file":
                    assert len(entry.read()) == entry.size
        except ManifestError as error:
            assert error.brief.startswith("cannot ")
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("size", [0, 1000, 2000, 4096, 8192])
def test_a_cut_image_is_refused(image: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut"
    path.write_bytes(image.read_bytes()[:size])
    with pytest.raises(ManifestError, match="cannot read the image"):
        read_tree(path, size)


def test_a_compressed_image_is_refused(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(b"a" * 100_000)
    tools.run("mkfs.erofs", "--quiet", "-b4096", "-x-1", "-zlz4", tmp_path / "i", tmp_path / "tree")
    with pytest.raises(ManifestError, match="cannot read the image"):
        read_tree(tmp_path / "i", (tmp_path / "i").stat().st_size)
