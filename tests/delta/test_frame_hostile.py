"""Payloads that are cut, damaged, garbage, or made to harm."""

from __future__ import annotations

import lzma
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.errors import DeltaError
from delta.frame import CODECS, DICTIONARY, DIFFERENCE, SPARSE, STORE, VERSION, apply
from delta.sections import LZMA, STORED, ZSTD, filters
from delta.varint import write, write_signed
from imager.delta.difference import differences
from imager.delta.frame import Reference, encode
from imager.delta.sections import Effort, section, zstd_section
from tests.delta.frames import KINDS, MemoryBase, case, decoded

EFFORT = Effort(3)
BASE = random.Random(0).randbytes(5000)


@cache
def small_payloads() -> tuple[tuple[bytes, bytes, int], ...]:
    """Payload, base and size of the frame: all codecs, and lzma, zstd and stored sections."""
    return tuple(_small_payloads())


def _small_payloads() -> Iterator[tuple[bytes, bytes, int]]:
    for seed in range(6):
        given_ = case(seed, KINDS, 300, 4)
        whole = [Reference(0, len(given_.base))]
        for level in (3, 19):
            payload = encode(given_.new, MemoryBase(given_.base), given_.copies, whole, level=level)
            yield payload, given_.base, len(given_.new)
    new = b"".join(BASE[at : at + 7] for at in range(0, 4900, 9))
    head = _head(references=((0, 5000),))
    yield head_and(DICTIONARY, head, zstd_section(new, BASE, EFFORT)), BASE, len(new)
    yield head_and(STORE, _head(), section(new, Effort(19))), BASE, len(new)
    changed = bytearray(BASE)
    changed[::170] = bytes(len(changed[::170]))
    for data in differences(bytes(changed), BASE, Effort(19)).items():
        yield head_and(data[0], head, data[1]), BASE, len(BASE)


def head_and(codec: int, head: bytes, data: bytes) -> bytes:
    """A payload of its parts."""
    return bytes([VERSION, codec]) + head + data


def plain(content: bytes) -> bytes:
    """A stored section."""
    return write(len(content)) + (bytes([STORED]) + content if content else b"")


def _head(
    copies: tuple[tuple[int, int, int], ...] = (), references: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """A head by its raw numbers: gap, size and distance; distance and size."""
    tables = write(len(copies))
    for column in (0, 1):
        tables += b"".join(write(copy[column]) for copy in copies)
    tables += b"".join(write_signed(copy[2]) for copy in copies)
    tables += write(len(references)) + b"".join(write(size) for _, size in references)
    tables += b"".join(write_signed(distance) for distance, _ in references) + write(0)
    return plain(tables) + plain(b"")


def steps(*columns: tuple[int, ...]) -> bytes:
    """The section of a difference's steps by their raw numbers."""
    takes, inserts, seeks = (
        b"".join(map(form, column))
        for form, column in zip((write, write, write_signed), columns, strict=True)
    )
    return plain(write(len(takes)) + write(len(inserts)) + takes + inserts + seeks)


def outcome(payload: bytes, base: bytes, size: int) -> str:
    """What became of a payload: "error" or "bytes"; anything else is raised."""
    try:
        decoded(payload, base, size)
    except DeltaError:
        return "error"
    return "bytes"


def test_a_payload_cut_anywhere_is_an_error() -> None:
    for payload, base, size in small_payloads():
        decoded(payload, base, size)
        for length in range(len(payload)):
            assert outcome(payload[:length], base, size) == "error", f"cut at {length}"


def test_a_payload_with_bytes_behind_it_is_an_error() -> None:
    for payload, base, size in small_payloads():
        assert outcome(payload + b"\0", base, size) == "error"


def test_a_frame_of_another_size_is_an_error() -> None:
    for payload, base, size in small_payloads():
        assert outcome(payload, base, size + 1) == "error"
        assert outcome(payload, base, size - 1) == "error"


def test_every_single_bit_flipped_is_an_error_or_other_bytes() -> None:
    seen = set()
    for payload, base, size in small_payloads():
        for bit in range(min(len(payload), 500) * 8):
            damaged = bytearray(payload)
            damaged[bit // 8] ^= 1 << bit % 8
            seen.add(outcome(bytes(damaged), base, size))
    assert seen == {"error", "bytes"}


@settings(max_examples=300, deadline=None)
@given(
    start=st.integers(0, 15),
    changes=st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(max_size=9), st.integers(0, 9)), max_size=6
    ),
)
def test_any_damage_is_an_error_or_other_bytes(
    start: int, changes: list[tuple[int, bytes, int]]
) -> None:
    payload, base, size = small_payloads()[start]
    damaged = bytearray(payload)
    for at, inserted, removed in changes:
        place = at % (len(damaged) + 1)
        damaged[place : place + removed] = inserted
    assert outcome(bytes(damaged), base, size) in ("error", "bytes")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(sorted(CODECS)), st.integers(0, 5000))
def test_garbage_is_an_error_or_bytes(garbage: bytes, codec: int, size: int) -> None:
    assert outcome(garbage, BASE, size) in ("error", "bytes")
    assert outcome(bytes([VERSION, codec]) + garbage, BASE, size) in ("error", "bytes")
    head = _head(references=((0, 5000),))
    assert outcome(head_and(codec, head, garbage), BASE, size) in ("error", "bytes")


LIES = {
    "another version": b"\x02\x00\x00\x00\x00",
    "no such codec": head_and(9, _head(), plain(b"x" * 100)),
    "tables of a terabyte": bytes([1, 0]) + write(1 << 40),
    "a number without an end": bytes([1, 0]) + b"\xff" * 30,
    "more copies than there may be": bytes([1, 0]) + plain(write(1 << 20)) + plain(b""),
    "a copy past the frame": head_and(STORE, _head(copies=((50, 51, -50),)), plain(b"")),
    "copies past the frame": head_and(STORE, _head(copies=((0, 60, 0), (0, 60, 0))), plain(b"")),
    "a copy past the base": head_and(STORE, _head(copies=((0, 100, 4901),)), plain(b"")),
    "a copy before the base": head_and(STORE, _head(copies=((0, 100, -1),)), plain(b"")),
    "a reference past the base": head_and(
        DIFFERENCE, _head(references=((1, 5000),)), steps((100,), (0,), (0,))
    ),
    "references of more than 16 MiB": head_and(
        DIFFERENCE,
        _head(references=((0, 5000),) + ((-5000, 5000),) * 4000),
        steps((100,), (0,), (0,)) + plain(bytes(100)) + plain(b""),
    ),
    "too few coded bytes": head_and(STORE, _head(), plain(bytes(99))),
    "too many coded bytes": head_and(STORE, _head(), plain(bytes(101))),
    "a section of an unknown method": head_and(
        STORE, _head(), write(100) + b"\x07" + write(3) + b"abc"
    ),
    "a dictionary that is lzma": head_and(
        DICTIONARY, _head(), write(100) + bytes([LZMA]) + write(3) + b"abc"
    ),
    "a take past the references": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((100,), (0,), (0,)) + plain(bytes(100)) + plain(b""),
    ),
    "a seek past the references": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((50, 50), (0, 0), (1 << 40, 0)) + plain(bytes(100)) + plain(b""),
    ),
    "a seek before the references": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((50, 50), (0, 0), (-51, 0)) + plain(bytes(100)) + plain(b""),
    ),
    "more taken than added": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((60,), (40,), (0,)) + plain(bytes(50)) + plain(bytes(50)),
    ),
    "more inserted than there is": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((50,), (1 << 60,), (0,)) + plain(bytes(50)) + plain(bytes(50)),
    ),
    "less inserted than there is": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((50,), (40,), (0,)) + plain(bytes(50)) + plain(bytes(50)),
    ),
    "more gaps than changes": head_and(
        SPARSE,
        _head(references=((0, 99),)),
        steps((60,), (40,), (0,)) + plain(b"\1\1") + plain(b"\1") + plain(bytes(40)),
    ),
    "a change behind what is added": head_and(
        SPARSE,
        _head(references=((0, 99),)),
        steps((60,), (40,), (0,)) + plain(b"\x3c") + plain(b"\1") + plain(bytes(40)),
    ),
    "more taken than a sparse frame adds": head_and(
        SPARSE,
        _head(references=((0, 99),)),
        steps((61,), (39,), (0,)) + plain(b"\0") + plain(b"\1") + plain(bytes(40)),
    ),
    "columns of different length": head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((50, 0), (50,), (0,)) + plain(bytes(50)) + plain(bytes(50)),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_an_error(lie: str) -> None:
    with pytest.raises(DeltaError, match="expected"):
        decoded(LIES[lie], BASE, 100)


def test_these_payloads_would_be_good_without_the_lie() -> None:
    copied = head_and(STORE, _head(copies=((50, 50, -40),)), plain(b"x" * 50))
    assert decoded(copied, BASE, 100) == b"x" * 50 + BASE[10:60]
    different = head_and(
        DIFFERENCE,
        _head(references=((0, 99),)),
        steps((50, 10), (40, 0), (-50, 0)) + plain(bytes(60)) + plain(b"y" * 40),
    )
    assert decoded(different, BASE, 100) == BASE[:50] + b"y" * 40 + BASE[:10]
    sparse = head_and(
        SPARSE,
        _head(references=((0, 99),)),
        steps((60,), (40,), (0,)) + plain(b"\x3b") + plain(b"\1") + plain(b"z" * 40),
    )
    changed = bytes([(BASE[59] + 1) & 255])
    assert decoded(sparse, BASE, 100) == BASE[:59] + changed + b"z" * 40


@cache
def bombs() -> dict[str, bytes]:
    """Sections that are small, say they hold 100 bytes, and would give out a gigabyte."""
    huge = bytes(64 << 20)
    zstd = zstandard.ZstdCompressor(write_content_size=False).compress(huge) * 16
    sized = zstandard.ZstdCompressor().compress(huge)
    raw = lzma.compress(huge, format=lzma.FORMAT_RAW, filters=filters(LZMA, 100))
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=30, write_content_size=0)
    ).compressobj()
    return {
        "zstd without a size": write(100) + bytes([ZSTD]) + write(len(zstd)) + zstd,
        "zstd of another size": write(100) + bytes([ZSTD]) + write(len(sized)) + sized,
        "zstd with a window of a gigabyte": _framed(wide.compress(bytes(100)) + wide.flush()),
        "lzma": write(100) + bytes([LZMA]) + write(len(raw)) + raw,
    }


def _framed(stored: bytes) -> bytes:
    return write(100) + bytes([ZSTD]) + write(len(stored)) + stored


@pytest.mark.parametrize("bomb", bombs())
def test_a_bomb_is_an_error_before_it_costs_memory(bomb: str) -> None:
    data = bombs()[bomb]
    for payload in (
        head_and(STORE, _head(), data),
        head_and(DICTIONARY, _head(), data),
        head_and(DIFFERENCE, _head(), steps((0,), (100,), (0,)) + plain(b"") + data),
        bytes([VERSION, STORE]) + data + plain(b"") + plain(bytes(100)),
    ):
        into = memoryview(bytearray(100))
        tracemalloc.start()
        try:
            with pytest.raises(DeltaError, match="expected"):
                apply(payload, MemoryBase(BASE), into)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("codec", [STORE, DICTIONARY, DIFFERENCE])
def test_memory_stays_bounded_with_the_largest_frames(codec: int, tmp_path: Path) -> None:
    """By how much the process grows beside payload and frame: 16 MiB of references and 16 MiB of
    windows, and little else."""
    size = 16 << 20
    noise = random.Random(codec).randbytes(1 << 20)
    head = _head(references=tuple((0, 4096) for _ in range(size // 4096)))
    half = noise * 8
    payload = {
        STORE: head_and(STORE, _head(), zstd_section(noise * 16, b"", Effort(1))),
        DICTIONARY: head_and(DICTIONARY, head, zstd_section(noise * 16, noise, Effort(1))),
        DIFFERENCE: head_and(
            DIFFERENCE,
            head,
            steps((len(half),), (len(half),), (0,))
            + zstd_section(half, b"", Effort(1))
            + lzma_section(half),
        ),
    }[codec]
    (tmp_path / "base").write_bytes(noise * 16)
    (tmp_path / "payload").write_bytes(payload)
    program = Path(__file__).parent / "largest.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path / "base", tmp_path / "payload", str(size)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    # Much less would mean that nothing was measured.
    assert 12 << 10 < int(done.stdout) < 36 << 10, "KiB"


def lzma_section(content: bytes) -> bytes:
    """A section that is lzma, with the largest window that its size allows."""
    chain = filters(LZMA, len(content), preset=1)
    stored = lzma.compress(content, format=lzma.FORMAT_RAW, filters=chain)
    return write(len(content)) + bytes([LZMA]) + write(len(stored)) + stored
