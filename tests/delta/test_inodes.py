"""Predicted inodes: what moved costs next to nothing, and no table leads out of frame or base."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.decode import WITH_INODES
from delta.errors import DeltaError
from delta.head import Head
from delta.inode_tables import BLOCK, INODES, Run, Shifts, Tables, read_tables
from delta.inodes import parse, tail_of, without
from delta.varint import Reader, write
from imager.delta.erofs import read_layout
from imager.delta.head import written as written_head
from imager.delta.inode_tables import written
from imager.delta.sections import Effort, section
from imager.delta.stream import Frame, make
from tests.delta.erofs_image import erofs
from tests.delta.frames import decoded

EFFORT = Effort(3)
PIECE = 4 << 20


def files() -> dict[str, bytes]:
    """Many small files, whose content lies behind their inodes, and some with blocks."""
    draw = random.Random(3)
    found = {
        f"/folder{number % 9}/file{number:03}": draw.randbytes(draw.randrange(900))
        for number in range(400)
    }
    return found | {f"/large/{number}": draw.randbytes(9000) for number in range(20)}


def grown(found: dict[str, bytes]) -> dict[str, bytes]:
    """The same with one small and one large file longer: nearly all others move."""
    result = dict(found)
    result["/folder0/file000"] += b"and some more than that" * 5
    result["/large/3"] += bytes(BLOCK)
    return result


def frames_of(folder: Path, old: bytes, new: bytes) -> list[Frame]:
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    return make(folder / "old", len(old), folder / "new", len(new), piece=PIECE, workers=1)


def test_inodes_that_moved_cost_next_to_nothing(tmp_path: Path) -> None:
    old, new = erofs(files()), erofs(grown(files()))
    assert (
        sum(old[at : at + BLOCK] != new[at : at + BLOCK] for at in range(0, len(old), BLOCK)) > 12
    )
    (frame,) = frames_of(tmp_path, old, new)
    assert frame.payload[0] == WITH_INODES
    assert decoded(frame.payload, old, len(new)) == new
    assert len(frame.payload) < 400


def test_what_is_not_foreseen_is_corrected(tmp_path: Path) -> None:
    old, new = erofs(files()), bytearray(erofs(grown(files())))
    for node in read_layout(new).nodes[::50]:
        struct.pack_into("<H", new, node.inode + 26, 1000)
    (frame,) = frames_of(tmp_path, old, bytes(new))
    assert frame.payload[0] == WITH_INODES
    assert decoded(frame.payload, old, len(new)) == new


def test_added_and_removed_files_are_coded(tmp_path: Path) -> None:
    after = grown(files()) | {"/folder4/new": b"of text" * 30}
    del after["/folder2/file002"]
    old, new = erofs(files()), erofs(after)
    (frame,) = frames_of(tmp_path, old, new)
    assert decoded(frame.payload, old, len(new)) == new
    assert len(frame.payload) < 1000


def test_another_image_altogether_is_not_predicted(tmp_path: Path) -> None:
    draw = random.Random(8)
    other = {f"/other/{number:03}": draw.randbytes(300) for number in range(80)}
    old, new = erofs(files()), erofs(other)
    (frame,) = frames_of(tmp_path, old, new)
    assert decoded(frame.payload, old, len(new)) == new


def test_the_tail_of_a_file_is_never_a_whole_block_too_little() -> None:
    assert [tail_of(size) for size in (0, 1, 4096, 4097, 8192, 9000)] == [0, 1, 4096, 1, 4096, 808]
    with pytest.raises(DeltaError):
        tail_of(-1)


def test_what_is_no_inode_is_none() -> None:
    assert parse(b"") is None
    assert parse(bytes(64)) is None
    assert parse(struct.pack("<HHHHIIIIII", 2 << 1, 0, 0o100644, 1, 5, 0, 0, 0, 0, 0)) is not None
    compressed = struct.pack("<HHHHIIIIII", 1 << 1, 0, 0o100644, 1, 5, 0, 0, 0, 0, 0)
    assert parse(compressed) is None


def test_ranges_are_taken_only_from_where_they_are() -> None:
    assert without([(0, 10), (20, 30)], [(2, 4), (20, 30)]) == [(0, 2), (4, 10)]
    for taken in ([(5, 12)], [(12, 14)], [(2, 4), (3, 5)], [(31, 40)]):
        with pytest.raises(DeltaError):
            without([(0, 10), (20, 30)], taken)


CODED = ((4096, 12288), (20480, 24576))
numbers = st.integers(0, 1 << 20)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(
        st.builds(Run, st.integers(-999, 999), st.booleans(), st.integers(1, 99), numbers)
    ),
    moves=st.dictionaries(numbers, numbers),
    starts=st.sets(numbers),
    changed=st.dictionaries(st.integers(0, 1000), st.integers(-5000, 5000)),
)
def test_tables_are_read_as_they_were_written(
    runs: list[Run], moves: dict[int, int], starts: set[int], changed: dict[int, int]
) -> None:
    shifts = Shifts(sorted(starts), [7 * start - 99 for start in sorted(starts)])
    tables = Tables(
        5, [(4096, 12288), (20480, 24576)], shifts, shifts, moves, runs, changed,
        [(8192, 40960)], [(4196, 4296)],
    )  # fmt: skip
    assert read_tables(Reader(memoryview(written(tables, CODED))), CODED) == tables


@cache
def small() -> tuple[bytes, bytes, int]:
    """A payload with predicted inodes, its base, and the size of its frame."""
    found = {path: data for path, data in files().items() if path.startswith("/folder1")}
    old = erofs(found)
    new = erofs(found | {"/folder1/file001": b"longer" * 50})
    tables, base = _tables(old, new)
    return _payload(tables, section(new[:BLOCK], EFFORT)), base, len(new)


def _tables(old: bytes, new: bytes) -> tuple[Tables, bytes]:
    """Every inode where it is, one after the other."""
    before = {node.path: node for node in read_layout(old).nodes}
    runs = []
    at = 0
    for node in sorted(read_layout(new).nodes, key=lambda node: node.inode):
        was = before[node.path].inode
        runs.append(Run((was - at) // 32, False, 1, 0))
        at = -(-before[node.path].inode_end // 32) * 32
    return Tables(0, [(BLOCK, len(new))], runs=runs[:3]), old


def _payload(tables: Tables, data: bytes, coded: tuple[tuple[int, int], ...] = ()) -> bytes:
    coded = coded or ((0, tables.ranges[-1][1]),)
    head = written_head(Head((), (), {}), EFFORT, BLOCK)
    inodes = section(written(tables, coded), EFFORT)
    return bytes([WITH_INODES, 0]) + head + inodes + write(0) + write(0) + data


def outcome(payload: bytes) -> str:
    _, base, size = small()
    try:
        decoded(payload, base, size)
    except DeltaError:
        return "error"
    return "bytes"


def test_the_small_payload_is_good() -> None:
    assert outcome(small()[0]) == "bytes"


def test_a_payload_cut_anywhere_is_an_error() -> None:
    payload = small()[0]
    assert {outcome(payload[:length]) for length in range(len(payload))} == {"error"}


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=9), st.integers(0, 9))))
def test_any_damage_is_an_error_or_other_bytes(changes: list[tuple[int, bytes, int]]) -> None:
    damaged = bytearray(small()[0])
    for at, inserted, removed in changes:
        place = at % (len(damaged) + 1)
        damaged[place : place + removed] = inserted
    assert outcome(bytes(damaged)) in ("error", "bytes")


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_in_the_tables_is_an_error_or_other_bytes(garbage: bytes) -> None:
    payload = bytes([WITH_INODES, 0]) + written_head(Head((), (), {}), EFFORT, BLOCK)
    for tables in (garbage, bytes([0, 1, 1, 4]) + garbage):
        data = payload + section(tables, EFFORT) + write(0) + write(0) + write(0)
        assert outcome(data) in ("error", "bytes")


@pytest.mark.parametrize(
    "lie",
    [
        {"runs": [Run(1 << 30, False, 1, 0)]},
        {"runs": [Run(-(1 << 30), False, 1, 0)]},
        {"runs": [Run(0, False, 1, 1 << 30)]},
        {"runs": [Run(0, False, 1, -(1 << 30))]},
        {"runs": [Run(36, False, INODES, 0), Run(0, False, INODES, 0)]},
        {"changed": {0: -(1 << 40)}},
        {"changed": {0: 1 << 40}, "runs": [Run(128, False, 1, 127)]},
        {"directories": [(0, 0)]},
        {"directories": [(BLOCK, 1 << 40)]},
        {"holes": [(0, 32)]},
        {"moves": {1: -5}},
    ],
)
def test_a_table_that_lies_is_an_error(lie: dict[str, object]) -> None:
    payload, base, size = small()
    tables = replace(_tables(base, base)[0], ranges=[(BLOCK, size)], **lie)  # type: ignore[arg-type]
    assert payload != (changed := _payload(tables, section(bytes(BLOCK), EFFORT)))
    assert outcome(changed) == "error"
