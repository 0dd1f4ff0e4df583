"""Reading erofs images: what lies where, and what is refused."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.delta.erofs import is_erofs, read_layout
from recovery.errors import ToolError
from tests.delta.erofs_image import BLOCK, erofs

FILES = {
    "/etc/hostname": b"gateway\n",
    "/usr/bin/env": bytes(range(256)) * 33,
    "/usr/bin/whole": b"w" * (2 * BLOCK),
    "/usr/empty": b"",
}


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_content_of_every_file_is_found(inline: bool, extended: bool) -> None:
    image = erofs(FILES, inline=inline, extended=extended)
    layout = read_layout(image)
    found = {node.path: node.content(image) for node in layout.nodes if node.kind == "file"}
    assert found == FILES
    assert layout.size == len(image)
    assert {node.path for node in layout.nodes if node.kind == "directory"} == {
        "/", "/etc", "/usr", "/usr/bin",
    }  # fmt: skip


def test_extents_are_whole_blocks_in_their_order_and_do_not_overlap() -> None:
    image = erofs({f"/files/{number:02}": bytes([number]) * 9000 for number in range(20)})
    extents = read_layout(image).extents()
    assert [node.data_size for node in extents] == [2 * BLOCK] * 20
    ends = [node.data + node.data_size for node in extents]
    assert all(end <= node.data for end, node in zip(ends, extents[1:], strict=False))
    assert all(node.tail_size == 9000 - 2 * BLOCK for node in extents)


def test_what_follows_the_file_system_is_not_part_of_it() -> None:
    image = erofs(FILES)
    assert read_layout(image + b"\xff" * 10000) == read_layout(image)


def test_a_hard_link_is_one_file() -> None:
    image = bytearray(erofs({"/first": b"1" * 5000, "/second": b"2" * 5000}))
    heads = image.find(b"first") - 4 * 12 - 3
    first, second = (heads + 12 * number for number in (2, 3))
    image[second : second + 8] = image[first : first + 8]
    files = [node for node in read_layout(image).nodes if node.kind == "file"]
    assert [node.path for node in files] == ["/first"]


@pytest.mark.parametrize(
    ("where", "form", "value", "message"),
    [
        (1024, "<I", 0, "superblock"),
        (1024 + 12, "B", 40, "blocks of"),
        (1024 + 36, "<I", 1 << 20, "bytes and has"),
        (1024 + 14, "<H", 0xFFFF, "damaged"),
    ],
)
def test_a_damaged_superblock_is_refused(where: int, form: str, value: int, message: str) -> None:
    image = bytearray(erofs(FILES))
    struct.pack_into(form, image, where, value)
    with pytest.raises(ToolError, match="cannot read the erofs image") as caught:
        read_layout(image)
    assert message in str(caught.value)


def test_a_file_whose_blocks_lie_outside_is_refused() -> None:
    image = bytearray(erofs(FILES))
    node = next(node for node in read_layout(image).nodes if node.path == "/usr/bin/whole")
    struct.pack_into("<I", image, node.inode + 16, 1 << 30)
    with pytest.raises(ToolError, match="the blocks of /usr/bin/whole lie outside"):
        read_layout(image)


def test_a_directory_that_contains_itself_ends() -> None:
    image = bytearray(erofs({"/folder/file": b"x"}))
    layout = read_layout(image)
    root = next(node for node in layout.nodes if node.path == "/")
    at = image.find(struct.pack("<QH", root.inode // 32, 12 * 3), root.inode_end - root.tail_size)
    folder = image.find(b"folder", root.inode)
    entry = root.tail + 12 * 2
    assert at >= 0
    assert folder > entry
    image[entry : entry + 8] = struct.pack("<Q", root.inode // 32)
    assert [node.path for node in read_layout(image).nodes] == ["/"]


def test_other_bytes_are_no_erofs() -> None:
    assert not is_erofs(b"")
    assert not is_erofs(bytes(5000))
    assert is_erofs(erofs({}))


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_garbage_is_read_or_refused_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    image = bytearray(erofs(FILES))
    for _ in range(draw.randint(1, 8)):
        image[draw.randrange(1024, 3 * BLOCK)] = draw.randrange(256)
    try:
        layout = read_layout(image)
    except ToolError:
        return
    assert layout.size <= len(image)
    assert all(node.data + node.data_size <= len(image) for node in layout.nodes)
