"""Frames: what the maker encodes, the device decodes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.codecs.plain import PLAIN
from delta.errors import DeltaError
from delta.frame import DICTIONARY, DIFFERENCE, FRAME_LIMIT, SPARSE, STORE, apply
from delta.head import COPIES
from imager.delta.frame import Copy, Reference, encode
from tests.delta.frames import KINDS, BrokenBase, MemoryBase, case, content, decoded, edited


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4).map(tuple),
    size=st.sampled_from((1, 7, 300, 5000, 40000)),
    edits=st.integers(0, 12),
    level=st.sampled_from((1, 9, 19)),
)
def test_any_edited_frame_comes_back(
    seed: int, kinds: tuple[str, ...], size: int, edits: int, level: int
) -> None:
    given_ = case(seed, kinds, size, edits)
    payload = encode(
        given_.new, MemoryBase(given_.base), given_.copies, given_.references, level=level
    )
    assert decoded(payload, given_.base, len(given_.new)) == given_.new
    assert len(payload) < len(given_.new) + 64 + 16 * len(given_.copies)


def test_a_frame_that_is_copied_whole_takes_a_few_bytes() -> None:
    base = random.Random(1).randbytes(3 << 20)
    copies = [Copy(at, (1 << 20) + at, 1 << 16) for at in range(0, 1 << 20, 1 << 16)]
    payload = encode(base[1 << 20 : 2 << 20], MemoryBase(base), copies, [])
    assert len(payload) < 20
    assert decoded(payload, base, 1 << 20) == base[1 << 20 : 2 << 20]


def test_each_codec_wins_where_it_should() -> None:
    chance = random.Random(2)
    code = content("code", 192_000, chance)
    # The same few groups of changes over and over, as where addresses have moved.
    patterns = [bytes(chance.choices((0, 0, 0, 7, 16, 131), k=64)) for _ in range(5)]
    changes = b"".join(chance.choices(patterns, k=3000))
    moved = bytes((byte + change) & 255 for byte, change in zip(code, changes, strict=True))
    words = [chance.randbytes(7) for _ in range(4000)]
    mixed = chance.choices(words, k=len(words))
    few = bytearray(code)
    for at in range(0, len(few), 4001):
        few[at] ^= at % 255 + 1
    cases = {
        SPARSE: (bytes(few), code),
        STORE: (chance.randbytes(5000), code),
        DIFFERENCE: (moved, code),
        DICTIONARY: (b"".join(mixed), b"".join(words)),
    }
    for codec, (new, base) in cases.items():
        payload = encode(new, MemoryBase(base), [], [Reference(0, len(base))])
        assert payload[1] == codec
    assert set(cases) == set(PLAIN)


def test_moved_addresses_cost_little() -> None:
    chance = random.Random(3)
    base = content("code", 400_000, chance)
    new = bytearray(base)
    new[4::8] = bytes((byte + 3) & 255 for byte in new[4::8])
    payload = encode(bytes(new), MemoryBase(base), [], [Reference(0, len(base))])
    assert len(payload) < 400


def test_references_are_concatenated_in_the_order_given() -> None:
    chance = random.Random(4)
    base = chance.randbytes(30_000)
    new = base[20_000:] + base[:10_000]
    references = [Reference(20_000, 10_000), Reference(0, 10_000)]
    payload = encode(new, MemoryBase(base), [], references)
    assert len(payload) < 60
    assert decoded(payload, base, len(new)) == new


def test_the_same_input_gives_the_same_payload() -> None:
    given_ = case(5, KINDS, 20_000, 8)
    first, second = (
        encode(given_.new, MemoryBase(given_.base), copies, given_.references)
        for copies in (given_.copies, given_.copies[::-1])
    )
    assert first == second


def test_small_parts_of_a_step_cross_the_slices_of_an_addition() -> None:
    chance = random.Random(6)
    base = chance.randbytes(300_000)
    new = bytearray()
    for start in range(0, 300_000, 3000):
        new += base[start : start + 2900 + start % 97] + chance.randbytes(start % 5)
    payload = encode(bytes(new), MemoryBase(base), [], [Reference(0, len(base))])
    assert payload[1] in (DIFFERENCE, SPARSE)
    assert decoded(payload, base, len(new)) == new


def test_what_fails_in_the_base_is_the_bases_error() -> None:
    base = bytes(range(256)) * 64
    copied = encode(base, MemoryBase(base), [Copy(0, 0, len(base))], [])
    noise = random.Random(7).randbytes(9000)
    new = edited(noise, 3, random.Random(8))
    referred = encode(new, MemoryBase(noise), [], [Reference(0, len(noise))])
    for payload, size, data in ((copied, len(base), base), (referred, len(new), noise)):
        with pytest.raises(OSError, match="Input/output"):
            apply(payload, BrokenBase(data), memoryview(bytearray(size)))


def test_a_stored_frame_reads_nothing_of_the_base() -> None:
    base = MemoryBase(bytes(100_000))
    new = random.Random(9).randbytes(5000)
    payload = encode(new, base, [], [Reference(0, 100_000)])
    base.read_bytes = 0
    apply(payload, base, memoryview(bytearray(len(new))))
    assert payload[1] == STORE
    assert base.read_bytes == 0


def test_a_base_that_ends_early_is_an_error() -> None:
    class Short(MemoryBase):
        def read(self, offset: int, size: int) -> bytes:
            return super().read(offset, size)[:-1]

    base = bytes(range(250)) * 40
    payload = encode(base, MemoryBase(base), [Copy(0, 0, len(base))], [])
    with pytest.raises(DeltaError, match="bytes of the base"):
        apply(payload, Short(base), memoryview(bytearray(len(base))))


@pytest.mark.parametrize(
    ("copies", "reason"),
    [
        ([Copy(0, 0, 60), Copy(50, 50, 10)], "overlaps"),
        ([Copy(90, 90, 20)], "overlaps"),
        ([Copy(0, 950, 100)], "not in a base"),
        ([Copy(0, -1, 100)], "not in a base"),
        ([Copy(0, 500, 100)], "not the same"),
    ],
)
def test_the_maker_refuses_copies_that_are_not_true(copies: list[Copy], reason: str) -> None:
    base = random.Random(10).randbytes(1000)
    with pytest.raises(ValueError, match=reason):
        encode(base[:100], MemoryBase(base), copies, [])


def test_copies_for_which_there_is_no_room_are_coded() -> None:
    # Small blocks in reverse order, no two of them neighbours in both.
    size = 20
    base = random.Random(11).randbytes((COPIES + 500) * size)
    starts = range(len(base) - size, -1, -size)
    new = b"".join(base[start : start + size] for start in starts)
    copies = [Copy(number * size, start, size) for number, start in enumerate(starts)]
    payload = encode(new, MemoryBase(base), copies, [], level=1)
    assert decoded(payload, base, len(new)) == new


def test_the_maker_refuses_too_many_references() -> None:
    base = MemoryBase(bytes(9 << 20))
    with pytest.raises(ValueError, match="references"):
        encode(b"new", base, [], [Reference(0, 9 << 20), Reference(0, 8 << 20)])
    with pytest.raises(ValueError, match="not in a base"):
        encode(b"new", base, [], [Reference(1, 9 << 20)])


def test_a_frame_above_the_limit_is_refused_by_both() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode(bytes(FRAME_LIMIT + 1), MemoryBase(b""), [], [])
    with pytest.raises(DeltaError, match="at most"):
        apply(b"\x01\x00", MemoryBase(b""), memoryview(bytearray(FRAME_LIMIT + 1)))


def test_an_empty_frame_and_an_empty_base() -> None:
    assert decoded(encode(b"", MemoryBase(b""), [], []), b"", 0) == b""
    new = b"first of all"
    assert decoded(encode(new, MemoryBase(b""), [], [Reference(0, 0)]), b"", len(new)) == new
