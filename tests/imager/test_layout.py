"""The disk layout as a value."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import pytest

from imager.layout import RESERVED, plan_layout, sfdisk_script
from manifests.board import ALIGNMENT, Board
from manifests.catalogue import find, load_board
from manifests.sizes import Size
from recovery.errors import ManifestError


@pytest.fixture
def board() -> Board:
    return load_board(find("board", "qemu-x86_64"))


def test_partitions_follow_one_another_aligned_and_inside_the_disk(board: Board) -> None:
    layout = plan_layout(board)
    assert layout.extents[0].start == RESERVED
    for before, after in itertools.pairwise(layout.extents):
        assert after.start == before.end
    assert all(extent.start % ALIGNMENT == 0 for extent in layout.extents)
    assert layout.extents[-1].end == layout.size - RESERVED


def test_a_larger_disk_extends_only_the_partition_that_grows(board: Board) -> None:
    smallest = plan_layout(board)
    larger = plan_layout(board, smallest.size + (100 << 20))
    assert larger.extents[:-1] == smallest.extents[:-1]
    assert larger.extents[-1] == dataclasses.replace(
        smallest.extents[-1], size=smallest.extents[-1].size + (100 << 20)
    )


def test_a_disk_that_is_too_small_is_refused_with_both_sizes(board: Board) -> None:
    needed = plan_layout(board).size >> 20
    with pytest.raises(ManifestError) as caught:
        plan_layout(board, (needed - 1) << 20)
    assert f"on a disk of {needed - 1} MiB: its partitions need {needed} MiB" in str(caught.value)


def test_the_same_board_gets_the_same_identifiers_and_another_gets_others(board: Board) -> None:
    other = msgspec.structs.replace(board, board="another")
    assert plan_layout(board) == plan_layout(board)
    mine = {extent.uuid for extent in plan_layout(board).extents}
    theirs = {extent.uuid for extent in plan_layout(other).extents}
    assert len(mine) == len(board.layout.partitions)
    assert not mine & theirs


def test_the_script_names_every_partition(board: Board) -> None:
    script = sfdisk_script(plan_layout(board))
    for part in board.layout.partitions:
        assert f'name="{part.label}"' in script


def test_a_partition_lies_where_the_board_wants_it_and_the_others_follow(board: Board) -> None:
    parts = list(board.layout.partitions)
    parts[1] = msgspec.structs.replace(parts[1], start=Size(1 << 30))
    moved = msgspec.structs.replace(
        board, layout=msgspec.structs.replace(board.layout, partitions=tuple(parts))
    )
    layout = plan_layout(moved)
    first, second, third, *_ = layout.extents
    assert (first.start, second.start, third.start) == (RESERVED, 1 << 30, second.end)
    assert layout.size == layout.extents[-1].end + RESERVED
