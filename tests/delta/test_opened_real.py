"""Deltas between compressed images of the real mkfs.erofs."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from delta.clusters import LIBRARY, closer
from delta.frame import OPENED, apply
from imager.cache import Cache, default_directory
from imager.delta import opened_stream
from imager.delta.clusters import Cluster, read_clusters
from imager.delta.erofs import Node, read_layout
from imager.delta.opened import closes, find_settings, open_image
from imager.delta.stream import make
from imager.tools import Tools, prepare_tools
from recovery.errors import ToolError
from tests.delta.frames import MemoryBase, content

pytestmark = pytest.mark.build

PIECE = 64 << 10
REAL_DEVICE_LIBRARY = opened_stream.DEVICE_LIBRARY
FORMS = {
    "64 KiB": ("-zzstd,level=9", "-C65536"),
    "a block": ("-zzstd,level=9", "-C4096"),
    "16 KiB, full indexes": ("-zzstd,level=3", "-C16384", "-Elegacy-compress"),
}


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library that is here most clusters come back, with that of the tools all do."""
    monkeypatch.setattr(opened_stream, "DEVICE_LIBRARY", LIBRARY)


@pytest.fixture(scope="module")
def tools() -> Tools:
    """The pinned tools tree."""
    return prepare_tools(Cache(default_directory()))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of all kinds, and the same with small edits in some of them."""
    chance = random.Random(11)
    folders = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    for number, size in enumerate((100, 4096, 5000, 40_000, 130_000, 400_000)):
        for kind in ("text", "code", "zeros", "noise"):
            data = content(kind, size, chance)
            for folder in folders:
                (folder / f"{kind}-{size}").write_bytes(data)
            if number % 2 and kind != "zeros":
                third = size // 3
                (folders[1] / f"{kind}-{size}").write_bytes(
                    data[:third] + b"inserted" + data[third:]
                )
        # The noise makes blocks that are not compressed among the clusters.
        kinds = (("text", size), ("noise", 60_000), ("text", size))
        mixed = b"".join(content(kind, length, chance) for kind, length in kinds)
        for folder in folders:
            (folder / f"mixed-{size}").write_bytes(mixed)
    for folder in folders:
        # Longer than the window of mkfs.erofs.
        (folder / "zeros-700000").write_bytes(bytes(700_000))
    return folders


def _image(tools: Tools, tree: Path, path: Path, *options: str) -> Path:
    tools.run("mkfs.erofs", "--quiet", "-T1700000000", "-x-1", "--workers=1", *options, path, tree)
    return path


def _extents(tools: Tools, image: Path, node: Node) -> list[tuple[int, int, int]]:
    """Offset, closed and opened size of the clusters of a file, as dump.erofs finds them."""
    text = tools.run("dump.erofs", "-e", f"--path={node.path}", image).stdout
    row = re.compile(r"^\s*\d+:\s*\d+\.\.\s*\d+ \|\s*(\d+) :\s*(\d+)\.\.\s*\d+ \|\s*(\d+)$", re.M)
    return [(int(place), int(size), int(opened)) for opened, place, size in row.findall(text)]


@pytest.mark.parametrize("form", FORMS)
def test_clusters_are_where_erofs_utils_finds_them(
    tools: Tools, trees: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    path = _image(tools, trees[0], tmp_path / "image", *FORMS[form])
    image = path.read_bytes()
    layout = read_layout(image)
    packed = [node for node in layout.nodes if node.packed]
    assert len(packed) > 10
    for node in packed:
        found = read_clusters(image, node, layout.block, layout.size)
        assert _plain(found) == _extents(tools, path, node)
    with (tmp_path / "opened").open("wb") as into:
        opened = open_image(memoryview(image), into)
    stream = (tmp_path / "opened").read_bytes()
    for node in opened.layout.nodes:
        if node.kind == "file":
            assert node.content(stream) == (trees[0] / node.path[1:]).read_bytes()


def _plain(clusters: tuple[Cluster, ...]) -> list[tuple[int, int, int]]:
    return [(cluster.offset, cluster.closed, cluster.opened) for cluster in clusters]


@pytest.mark.parametrize("form", FORMS)
def test_every_cluster_is_closed_as_mkfs_did(
    tools: Tools, trees: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    image = memoryview(_image(tools, trees[0], tmp_path / "image", *FORMS[form]).read_bytes())
    with (tmp_path / "opened").open("wb") as into:
        opened = open_image(image, into)
    settings = find_settings(image, opened)
    assert settings is not None
    assert f",level={settings.level}" in FORMS[form][0]
    clusters = [piece for piece in opened.pieces if piece.cluster]
    same = sum(closes(image, piece, closer(settings)) for piece in clusters)
    assert len(clusters) > 20
    assert same == len(clusters) if LIBRARY == REAL_DEVICE_LIBRARY else same > len(clusters) / 2


@pytest.mark.parametrize("form", FORMS)
def test_a_delta_makes_the_compressed_image(
    tools: Tools,
    trees: tuple[Path, Path],
    tmp_path: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = (
        _image(tools, tree, tmp_path / name, *FORMS[form])
        for tree, name in zip(trees, ("old.img", "new.img"), strict=True)
    )
    sizes = old.stat().st_size, new.stat().st_size
    frames = make(old, sizes[0], new, sizes[1], piece=PIECE, workers=1, level=3)
    image, base = new.read_bytes(), MemoryBase(old.read_bytes())
    made = bytearray(sizes[1])
    at = 0
    for frame in frames:
        size = min(frame.pieces * PIECE, sizes[1] - at)
        apply(frame.payload, base, memoryview(made)[at : at + size])
        at += size
    assert made == image
    assert any(frame.payload[1] == OPENED for frame in frames)
    if opened_stream.DEVICE_LIBRARY != REAL_DEVICE_LIBRARY:
        return
    made_size = sum(len(frame.payload) for frame in frames)
    # Closed, all that comes after an insertion is new.
    monkeypatch.setattr(opened_stream, "make_opened", lambda *_, **__: None)
    closed = make(old, sizes[0], new, sizes[1], piece=PIECE, workers=1, level=3)
    assert made_size < 0.25 * sum(len(frame.payload) for frame in closed)


def test_another_algorithm_is_left_closed(
    tools: Tools, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = (
        _image(tools, tree, tmp_path / name, "-zlz4hc", "-C65536")
        for tree, name in zip(trees, ("old.img", "new.img"), strict=True)
    )
    sizes = old.stat().st_size, new.stat().st_size
    frames = make(old, sizes[0], new, sizes[1], piece=1 << 20, workers=1, level=3)
    assert all(frame.payload[1] != OPENED for frame in frames)


def test_damaged_indexes_are_an_error_or_other_clusters(
    tools: Tools, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    path = _image(tools, trees[0], tmp_path / "image", *FORMS["64 KiB"])
    image = bytearray(path.read_bytes())
    layout = read_layout(bytes(image))
    chance = random.Random(4)
    node = max((node for node in layout.nodes if node.packed), key=lambda node: node.size)
    refused = 0
    for _ in range(200):
        damaged = bytearray(image)
        place = node.inode_end + chance.randrange(200)
        damaged[place] ^= chance.randrange(1, 256)
        with (tmp_path / "opened").open("wb") as into:
            try:
                open_image(memoryview(bytes(damaged)), into)
            except ToolError:
                refused += 1
    assert refused


def test_without_the_library_of_devices_nothing_is_opened(
    tools: Tools,
    trees: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opened_stream, "DEVICE_LIBRARY", LIBRARY + 1)
    old, new = (
        _image(tools, tree, tmp_path / name, *FORMS["64 KiB"])
        for tree, name in zip(trees, ("old.img", "new.img"), strict=True)
    )
    sizes = old.stat().st_size, new.stat().st_size
    frames = make(old, sizes[0], new, sizes[1], piece=1 << 20, workers=1, level=3)
    assert all(frame.payload[1] != OPENED for frame in frames)
