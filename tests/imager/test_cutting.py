"""Cutting images into slices: what did not change stays whole, wherever files move to."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest

from imager.cutting import STEP, cut, step_of
from imager.delta.erofs import read_layout
from manifests.slices import BLOCK, LARGEST_SLICE
from tests.delta.erofs_image import erofs

SEGMENT = 512 << 10


def noise(seed: str, size: int) -> bytes:
    """Bytes that occur nowhere else."""
    return hashlib.shake_128(seed.encode()).digest(size)


FILES = {
    **{
        f"usr/bin/small{number:02}": noise(f"small {number}", 9000 + number * 997)
        for number in range(40)
    },
    "usr/lib/large.so": noise("large", 400_000),
    "usr/lib/other.so": noise("other", 150_000),
}


def contents(image: bytes) -> set[bytes]:
    """What the slices of an image are."""
    return {image[start:end] for start, end in cut(image, len(image), SEGMENT)}


@pytest.mark.parametrize("image", [erofs(FILES), noise("plain", 700_001), b"x"])
def test_slices_cover_everything_in_whole_blocks_and_respect_segments(image: bytes) -> None:
    spans = cut(image, len(image), SEGMENT)
    assert spans[0][0] == 0 and spans[-1][1] == len(image)
    for (_, end), (start, _) in pairwise(spans):
        assert end == start
        assert start % BLOCK == 0
    for start, end in spans:
        assert 0 < end - start <= LARGEST_SLICE
        assert start // SEGMENT == (end - 1) // SEGMENT


def test_large_files_are_cut_from_their_beginning() -> None:
    image = erofs(FILES)
    (node,) = [node for node in read_layout(image).nodes if node.path == "/usr/lib/large.so"]
    starts = {start for start, _ in cut(image, len(image), SEGMENT)}
    assert set(range(node.data, node.data + node.data_size, STEP)) <= starts


def test_a_changed_file_costs_its_slices_and_no_others() -> None:
    old = erofs(FILES)
    new = erofs({**FILES, "usr/bin/small20": noise("longer than it was", 60_000)})
    missing = [content for content in contents(new) if content not in old]
    # The file and what its group was, and the inodes and names of all.
    assert sum(map(len, missing)) <= 60_000 + 2 * STEP + 4 * BLOCK
    assert sum(map(len, contents(new))) == len(new)


@pytest.mark.parametrize(
    ("size", "step"), [(1, 64), (512 << 20, 64), (513 << 20, 128), (1 << 30, 128), (2 << 30, 256)]
)
def test_large_images_are_cut_into_larger_slices(size: int, step: int) -> None:
    assert step_of(size) == step << 10


def test_an_image_that_only_looks_like_erofs_is_cut_in_steps() -> None:
    image = bytearray(erofs(FILES))
    image[1024 + 14 : 1024 + 16] = b"\xff\xff"
    spans = cut(bytes(image), len(image), SEGMENT)
    assert [start for start, _ in spans] == list(range(0, len(image), STEP))
