"""The small parts of the frame format: numbers, sections, addition."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.addition import SLICE, add
from delta.errors import DeltaError
from delta.sections import LZMA, LZMA_THUMB, LZMA_X86, STORED, ZSTD, read_section
from delta.varint import Reader, numbers, signed, write, write_signed
from imager.delta.sections import PLAIN, Effort, section

NUMBER = st.integers(0, (1 << 63) - 1)


@settings(deadline=None)
@given(st.lists(NUMBER))
def test_numbers_come_back_from_a_column_and_from_a_reader(values: list[int]) -> None:
    column = b"".join(map(write, values))
    assert list(numbers(column)) == values
    reader = Reader(memoryview(column))
    assert [reader.number((1 << 63) - 1, "a value") for _ in values] == values
    reader.end()


@settings(deadline=None)
@given(st.integers(-(1 << 62), (1 << 62) - 1))
def test_signed_numbers_come_back(value: int) -> None:
    assert [signed(number) for number in numbers(write_signed(value))] == [value]


def test_small_numbers_of_either_sign_take_one_byte() -> None:
    forms = {0: b"\0", -1: b"\1", 1: b"\2", -64: b"\x7f", 63: b"\x7e"}
    assert {value: write_signed(value) for value in forms} == forms


@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_a_number_that_has_no_form_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="is not between"):
        write(value)


@pytest.mark.parametrize("data", [b"\x80", b"\x80" * 9 + b"\0", b"\xff" * 20])
def test_a_number_that_does_not_end_is_an_error(data: bytes) -> None:
    with pytest.raises(DeltaError, match="expected"):
        list(numbers(data))
    with pytest.raises(DeltaError, match="expected"):
        Reader(memoryview(data)).number((1 << 63) - 1, "a value")


def test_a_reader_stays_within_its_bytes() -> None:
    reader = Reader(memoryview(b"\x05abc"))
    with pytest.raises(DeltaError, match="at most 4, found 5"):
        reader.number(4, "a size")
    assert bytes(reader.take(2)) == b"ab"
    with pytest.raises(DeltaError, match="expected the end"):
        reader.end()
    with pytest.raises(DeltaError, match="expected 2 more bytes, found 1"):
        reader.take(2)


@settings(deadline=None)
@given(st.binary(max_size=300), st.randoms(use_true_random=False))
def test_addition_is_by_byte(left: bytes, chance: random.Random) -> None:
    right = chance.randbytes(len(left))
    assert add(left, right) == bytes((a + b) & 255 for a, b in zip(left, right, strict=True))


def test_addition_of_a_whole_slice_and_of_nothing() -> None:
    left, right = b"\xff" * SLICE, b"\x01" * (SLICE - 1) + b"\x81"
    assert add(left, right) == bytes(SLICE - 1) + b"\x80"
    assert add(left, bytes(SLICE)) == left
    assert add(b"", b"") == b""


def _calls(opcode: bytes, size: int) -> bytes:
    """Code that calls a few functions from everywhere, relative to the caller."""
    chance = random.Random(1)
    code = bytearray()
    while len(code) < size:
        code += chance.choice((b"\x48\x89\xc7", b"\x31\xc0", b"\x5d\xc3"))
        code += opcode + (chance.randrange(40) * 7919 - len(code)).to_bytes(
            4, "little", signed=True
        )
    return bytes(code)


def test_each_method_wins_where_it_should() -> None:
    chance = random.Random(2)
    # Halfwords of Thumb: BL is two of them, eleven bits of the distance in each.
    thumb = bytearray()
    while len(thumb) < 100_000:
        distance = (chance.randrange(40) * 7918 - len(thumb)) >> 1
        thumb += chance.choice((b"\x20\x46", b"\x70\x47", b"\x01\x30"))
        thumb += (0xF000 | distance >> 11 & 0x7FF).to_bytes(2, "little")
        thumb += (0xF800 | distance & 0x7FF).to_bytes(2, "little")
    cases = {
        STORED: chance.randbytes(100),
        ZSTD: bytes(chance.choices(b"etaoin shrdlu", k=20_000)),
        LZMA: b"".join((at * 4096).to_bytes(4, "little") for at in range(5000)),
        LZMA_X86: _calls(b"\xe8", 100_000),
        LZMA_THUMB: bytes(thumb),
    }
    for method, content in cases.items():
        data = section(content, Effort(19), PLAIN, code=True)
        found = read_section(Reader(memoryview(data)), len(content), "content")
        assert found.method == method
        assert found.whole() == content


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 1 << 18])
@pytest.mark.parametrize("level", [1, 19])
def test_a_section_comes_back_whatever_is_read_at_once(size: int, level: int) -> None:
    chance = random.Random(size)
    content = bytes(chance.choices(b"\0\0\0\0\x01\xff\x80", k=size))
    data = section(content, Effort(level))
    parsed = read_section(Reader(memoryview(data)), size, "content")
    opened, parts, left = parsed.open(), [], size
    while left:
        part = min(left, chance.choice((1, 7, 4096, 100_000)))
        parts.append(bytes(opened.read(part)))
        left -= part
    opened.end()
    assert b"".join(parts) == content


def test_a_section_above_its_limit_is_refused_before_it_is_opened() -> None:
    data = section(bytes(1000), Effort(19))
    with pytest.raises(DeltaError, match="a size of tables of at most 999"):
        read_section(Reader(memoryview(data)), 999, "tables")
