"""Reading what the real mkfs.erofs writes, in every layout that our images have."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from imager.cache import Cache, default_directory
from imager.delta.erofs import Node, read_layout
from imager.tools import Tools, prepare_tools

pytestmark = pytest.mark.build

BLOCK = 4096
SIZES = (0, 1, 31, 4095, 4096, 4097, 8192, 20_000, 300_000)
WORDS = [f"word{number}" for number in range(400)]


@pytest.fixture(scope="module")
def tools() -> Tools:
    """The pinned tools tree."""
    return prepare_tools(Cache(default_directory()))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all kinds, half of them compressible."""
    folder = tmp_path_factory.mktemp("tree")
    draw = random.Random(5)
    for size in SIZES:
        (folder / f"random-{size}").write_bytes(draw.randbytes(size))
        words = " ".join(draw.choices(WORDS, k=size // 4 + 1))
        (folder / f"text-{size}").write_bytes(words.encode()[:size])
    many = folder / "many"
    many.mkdir()
    for number in range(600):
        (many / f"a file with a long name to fill the blocks {number:04}").write_bytes(b"x")
    (folder / "link").symlink_to("text-4096")
    (folder / "same").hardlink_to(folder / "random-20000")
    return folder


def _image(tools: Tools, tree: Path, path: Path, *options: str) -> bytes:
    tools.run("mkfs.erofs", "--quiet", "-T1700000000", "-x-1", "--workers=1", *options, path, tree)
    return path.read_bytes()


def test_every_file_of_an_uncompressed_image_reads_back(
    tools: Tools, tree: Path, tmp_path: Path
) -> None:
    image = _image(tools, tree, tmp_path / "image")
    found = {node.path: node for node in read_layout(image).nodes}
    names = {f"/{path.relative_to(tree)}" for path in tree.rglob("*")}
    # Of the two names of one file, the first is kept.
    assert names - found.keys() == {"/same"}
    for path, node in found.items():
        source = tree / path.strip("/")
        if node.kind == "file":
            assert node.content(image) == source.read_bytes()
            assert not node.packed


@pytest.mark.parametrize(
    "options",
    [
        ("-zlz4hc,level=12", "-C65536"),
        ("-zzstd,level=3", "-C65536"),
        ("-zlz4hc",),
        ("-zlz4", "-Elegacy-compress"),
        ("-zlz4hc", "-Eztailpacking"),
    ],
)
def test_compressed_extents_are_those_that_dump_erofs_prints(
    tools: Tools, tree: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "image"
    layout = read_layout(_image(tools, tree, path, *options))
    packed = [node for node in layout.nodes if node.packed and node.data_size]
    assert len(packed) >= 2
    for node in packed:
        assert (node.data, node.data_size) == _dumped(tools, path, node)


def test_dumps_show_open_extents_too(tools: Tools, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    layout = read_layout(_image(tools, tree, path))
    files = [node for node in layout.extents() if node.kind == "file" and not node.packed]
    assert len(files) >= 8
    for node in files:
        assert (node.data, node.data_size) == _dumped(tools, path, node)


def _dumped(tools: Tools, image: Path, node: Node) -> tuple[int, int]:
    """Start and size of the file's blocks; what lies inside the inode is left out."""
    text = tools.run("dump.erofs", f"--path={node.path}", "-e", image).stdout
    rows = re.findall(r"\|\s*\d+ :\s*(\d+)\.\.\s*(\d+) \|\s*\d+", text)
    blocks = [(int(start), int(end)) for start, end in rows if int(start) % BLOCK == 0]
    assert blocks
    return blocks[0][0], blocks[-1][1] - blocks[0][0]
