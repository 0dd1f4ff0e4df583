"""References that are rewritten before they are used."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delta import head
from delta.errors import DeltaError
from delta.head import Head, Range, Rewriting
from delta.rewrite import Kind
from delta.varint import write, write_signed
from imager.delta.frame import Reference, encode
from imager.delta.head import written
from imager.delta.sections import Effort, section
from tests.delta.frames import MemoryBase, decoded

COUNT = 1000


def pointers_rewrite(size: int) -> bytes:
    """Pointers of 8 bytes up to size of their file; from address 2048 on all has moved by 64.

    docs/delta-executables.md has the format.
    """
    program = b"\x01" + write(0) + write(1 << 20)
    region = bytes([Kind.POINTERS]) + write(0) + write(size) + write_signed(0) + write(8) + write(8)
    moves = write(2) + write(0) + write(2048) + write_signed(0) + write_signed(64)
    return program + write(1) + region + moves


def table(seed: int, moved: int) -> bytes:
    """A table of pointers of which those from 2048 on are that much further."""
    chance = random.Random(seed)
    targets = [chance.randrange(1 << 16) for _ in range(COUNT)]
    return struct.pack(f"<{COUNT}Q", *(at + moved if at >= 2048 else at for at in targets))


def test_moved_pointers_cost_nothing_with_a_rewrite() -> None:
    base = b"something else" * 10 + table(1, 0)
    new = table(1, 64)
    plain = Reference(140, 8 * COUNT)
    rewritten = Reference(140, 8 * COUNT, pointers_rewrite(8 * COUNT))
    without = encode(new, MemoryBase(base), [], [plain])
    payload = encode(new, MemoryBase(base), [], [rewritten])
    assert len(payload) < 80 < len(without) / 4
    assert decoded(payload, base, len(new)) == new


def test_windows_of_a_file_know_their_place_in_it() -> None:
    old, new = table(2, 0), table(2, 64)
    rewrite = pointers_rewrite(8 * COUNT)
    # In another order than in the file, with what is not rewritten between them.
    references = [
        Reference(4000, 4000, rewrite, 4000),
        Reference(0, 100),
        Reference(0, 4000, rewrite, 0),
    ]
    payload = encode(new, MemoryBase(old), [], references)
    assert len(payload) < 100
    assert decoded(payload, old, len(new)) == new


def test_several_rewrites_keep_to_their_references() -> None:
    olds, news = zip(*((table(seed, 0), table(seed, 64)) for seed in range(6)), strict=True)
    references = [
        Reference(
            number * 8 * COUNT,
            8 * COUNT,
            pointers_rewrite(8 * COUNT + number) if number % 2 else None,
        )
        for number in range(6)
    ]
    base, new = b"".join(olds), b"".join(news[n] if n % 2 else olds[n] for n in range(6))
    payload = encode(new, MemoryBase(base), [], references)
    assert len(payload) < 150
    assert decoded(payload, base, len(new)) == new


def _payload(rewritings: dict[int, Rewriting], references: int) -> bytes:
    contents = Head((), [Range(0, 8)] * references, rewritings)
    data = section(bytes(8), Effort(1)) + write(0)
    steps = write(1) + write(1) + write(8) + write(0) + write(0)
    return b"\x01\x02" + written(contents, Effort(1)) + section(steps, Effort(1)) + data


def test_more_rewriting_than_there_is_time_for_is_an_error() -> None:
    rewrite = memoryview(pointers_rewrite(8).ljust(1 << 20, b"\0"))
    used = head.REWRITING_LIMIT // len(rewrite) + 1
    payload = _payload({number: Rewriting(rewrite, 0) for number in range(used)}, used)
    with pytest.raises(DeltaError, match="rewrites to follow"):
        decoded(payload, bytes(100), 8)


def test_the_maker_leaves_out_rewrites_for_which_there_is_no_room() -> None:
    base = table(3, 0)
    new = table(3, 64)
    # No rewrite at all: had the maker used it, decoding would fail.
    large = Reference(0, 8, b"\xff" * (head.REWRITES_LIMIT + 1))
    small = Reference(0, len(base), pointers_rewrite(8 * COUNT))
    payload = encode(new, MemoryBase(base), [], [large, small])
    assert len(payload) < 100
    assert decoded(payload, base, len(new)) == new


@settings(max_examples=200, deadline=None)
@given(
    garbage=st.binary(max_size=60),
    keep=st.integers(0, 40),
    start=st.integers(0, 1 << 62),
)
def test_a_damaged_rewrite_is_an_error_or_other_bytes(
    garbage: bytes, keep: int, start: int
) -> None:
    rewrite = pointers_rewrite(8)[:keep] + garbage
    payload = _payload({0: Rewriting(memoryview(rewrite), start)}, 1)
    try:
        assert len(decoded(payload, bytes(range(200)), 8)) == 8
    except DeltaError as error:
        assert "expected" in str(error)
