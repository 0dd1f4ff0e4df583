"""Rewriting on the device: every kind of reference by hand, and bytes that are no rewrite."""

from __future__ import annotations

import struct
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.errors import DeltaError
from delta.machines.btf import LIMIT, Numbers
from delta.machines.moves import Moves
from delta.rewrite import (
    FORMAT,
    INDEX_LIMIT,
    MACHINES,
    Kind,
    Region,
    Rewrite,
    apply_rewrite,
    decode_rewrite,
)
from delta.varint import write, write_signed
from imager.delta.elf_write import written

# Addresses from 0x10000 on: code stays where it is up to 0x11000, what follows moved.
LOW, MOVED, HIGH = 0x10000, 0x11000, 0x40000
SHIFT = 0x2040


def moves(shift: int = SHIFT) -> Moves:
    return Moves(LOW, HIGH, array("q", [LOW, MOVED]), array("q", [0, shift]))


def rewritten(data: bytes, *regions: Region, shift: int = SHIFT, start: int = 0) -> bytes:
    """The data after a rewrite that was written and read again."""
    encoded = written(Rewrite(moves(shift), regions))
    changed = bytearray(data)
    apply_rewrite(decode_rewrite(encoded), start, changed)
    assert len(changed) == len(data)
    return bytes(changed)


def code(kind: Kind, data: bytes, shift: int = SHIFT) -> bytes:
    """The code, which is at LOW, rewritten."""
    return rewritten(data, Region(kind, 0, len(data), LOW), shift=shift)


def test_x86_calls_and_jumps_to_what_moved_follow_it() -> None:
    for opcode in (b"\xe8", b"\xe9", b"\x0f\x84"):
        distance = MOVED + 16 - LOW - len(opcode) - 4
        before = opcode + struct.pack("<i", distance)
        after = opcode + struct.pack("<i", distance + SHIFT)
        assert code(Kind.X86_64, before) == after


def test_x86_operands_know_the_immediate_that_follows_them() -> None:
    # cmp dword [rip + n], 5 at the very border: the immediate decides to which piece it refers.
    before = b"\x90" * 8 + b"\x83\x3d" + struct.pack("<i", MOVED - LOW - 15) + b"\x05"
    after = b"\x90" * 8 + b"\x83\x3d" + struct.pack("<i", MOVED - LOW - 15 + SHIFT) + b"\x05"
    assert code(Kind.X86_64, before) == after


def test_x86_numbers_that_are_no_addresses_stay() -> None:
    # and eax, 0x1fff: the opcode looks like a ModR/M byte, and nothing before it like an opcode.
    before = b"\x90" * 8 + b"\xc1\xe8\x02\x9b\x25" + struct.pack("<i", 0x1FFF) + b"\x90" * 8
    assert code(Kind.X86_64, before) == before


def test_a_reference_within_what_moved_together_stays() -> None:
    call = b"\xe8" + struct.pack("<i", 0x100)
    assert code(Kind.X86_64, call) == call


def _bl(place: int, target: int) -> bytes:
    return struct.pack("<I", 0x94000000 | (target - place >> 2) & 0x3FFFFFF)


def _adrp(place: int, target: int, register: int) -> int:
    pages = (target >> 12) - (place >> 12)
    return 0x90000000 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5 | register


def test_aarch64_branches_follow() -> None:
    assert code(Kind.AARCH64, _bl(LOW, MOVED)) == _bl(LOW, MOVED + SHIFT)


def test_aarch64_pairs_of_page_and_offset_follow() -> None:
    def pair(target: int) -> bytes:
        add = 0x91000063 | (target & 0xFFF) << 10  # add x3, x3, n
        return struct.pack("<II", _adrp(LOW, target, 3), add)

    def load(target: int) -> bytes:
        ldr = 0xF9400060 | (target & 0xFFF) >> 3 << 10  # ldr x0, [x3, n]
        return struct.pack("<III", _adrp(LOW, target, 3), 0xD503201F, ldr)

    for form in (pair, load):
        assert code(Kind.AARCH64, form(MOVED + 0xFE8)) == form(MOVED + 0xFE8 + SHIFT)


def test_aarch64_pages_change_when_code_and_target_moved_together_by_less_than_a_page() -> None:
    def pair(place: int, target: int) -> bytes:
        return struct.pack("<II", _adrp(place, target, 3), 0x91000063 | (target & 0xFFF) << 10)

    place, target = MOVED + 0xFF0, MOVED + 0x1008
    region = Region(Kind.AARCH64, 0, 8, place)
    assert rewritten(pair(place, target), region, shift=0x20) == pair(place + 0x20, target + 0x20)


def _riscv_pair(distance: int, use: int) -> bytes:
    high = distance + 0x800 >> 12
    rest = distance - (high << 12)
    if use & 0x7F == 0x23:
        use |= (rest & 31) << 7 | (rest >> 5 & 0x7F) << 25
    else:
        use |= (rest & 0xFFF) << 20
    # c.nop between them: an instruction of two bytes.
    return struct.pack("<IHI", (high & 0xFFFFF) << 12 | 0x517, 1, use)


@pytest.mark.parametrize("use", [0x50513, 0x53503, 0x500E7, 0xA53023], ids=hex)
def test_riscv64_pairs_follow(use: int) -> None:
    """addi, ld, jalr and sd with the rest of the address."""
    distance = MOVED + 0x7FC - LOW
    assert code(Kind.RISCV64, _riscv_pair(distance, use)) == _riscv_pair(distance + SHIFT, use)


def _riscv_jal(distance: int) -> bytes:
    bits = (distance >> 20 & 1) << 31 | (distance >> 1 & 0x3FF) << 21
    return struct.pack("<I", bits | (distance >> 11 & 1) << 20 | distance & 0xFF000 | 0xEF)


def _riscv_branch(distance: int) -> bytes:
    bits = (distance >> 12 & 1) << 31 | (distance >> 5 & 0x3F) << 25
    return struct.pack(
        "<I", bits | (distance >> 1 & 15) << 8 | (distance >> 11 & 1) << 7 | 0x00B51063
    )


def test_riscv64_jumps_and_branches_follow_both_ways() -> None:
    forwards, backwards = MOVED - LOW, -0x804
    assert code(Kind.RISCV64, _riscv_jal(forwards)) == _riscv_jal(forwards + SHIFT)
    region = Region(Kind.RISCV64, 0, 4, MOVED)
    for form in (_riscv_jal, _riscv_branch):
        assert rewritten(form(backwards), region, shift=0x200) == form(backwards - 0x200)


def _thumb_bl(distance: int) -> bytes:
    sign = distance >> 24 & 1
    j1, j2 = (~(distance >> bit) & 1 ^ sign for bit in (23, 22))
    return struct.pack(
        "<HH",
        0xF000 | sign << 10 | distance >> 12 & 0x3FF,
        0xD000 | j1 << 13 | j2 << 11 | distance >> 1 & 0x7FF,
    )


def test_thumb_calls_follow_forwards_and_backwards() -> None:
    far = MOVED - LOW - 4
    assert code(Kind.THUMB, _thumb_bl(far)) == _thumb_bl(far + SHIFT)
    back = Region(Kind.THUMB, 0, 4, MOVED)
    assert rewritten(_thumb_bl(-0x104), back) == _thumb_bl(-0x104 - SHIFT)


def test_thumb_literals_follow_when_they_are_added_to_the_program_counter() -> None:
    def function(value: int) -> bytes:
        # ldr r3, [pc, #4]; add r3, pc; nop; nop; the literal
        return struct.pack("<HHHHi", 0x4B01, 0x447B, 0xBF00, 0xBF00, value)

    distance = MOVED - LOW - 2 - 4
    assert code(Kind.THUMB, function(distance)) == function(distance + SHIFT)
    loaded_only = function(distance)[:2] + b"\x00\xbf" + function(distance)[4:]
    assert code(Kind.THUMB, loaded_only) == loaded_only


def test_arm_entries_of_the_linkage_table_follow() -> None:
    def entry(distance: int) -> bytes:
        return struct.pack(
            "<III",
            0xE28FC600 | distance >> 20,
            0xE28CCA00 | distance >> 12 & 0xFF,
            0xE5BCF000 | distance & 0xFFF,
        )

    distance = MOVED + 0xFFC - LOW - 8
    assert code(Kind.ARM, entry(distance)) == entry(distance + SHIFT)


def test_code_that_moved_as_a_whole_ignores_the_moves_of_its_places() -> None:
    call = b"\xe8" + struct.pack("<i", MOVED - LOW - 5)
    region = Region(Kind.X86_64, 0, 5, LOW, moved=0x40)
    assert rewritten(call, region) == b"\xe8" + struct.pack("<i", MOVED - LOW - 5 + SHIFT - 0x40)


def test_pointers_follow_and_other_numbers_stay() -> None:
    values = [LOW, MOVED, HIGH, HIGH - 1, 7, (1 << 64) - 1]
    moved = [LOW, MOVED + SHIFT, HIGH, HIGH - 1 + SHIFT, 7, (1 << 64) - 1]
    region = Region(Kind.POINTERS, 0, 48, 0, width=8, stride=8)
    assert rewritten(struct.pack("<6Q", *values), region) == struct.pack("<6Q", *moved)


def test_bit_maps_among_pointers_stay() -> None:
    region = Region(Kind.EVEN_POINTERS, 0, 16, 0, width=8, stride=8)
    data = struct.pack("<QQ", MOVED, MOVED + 1)
    assert rewritten(data, region) == struct.pack("<QQ", MOVED + SHIFT, MOVED + 1)


def test_every_second_word_can_be_a_pointer() -> None:
    region = Region(Kind.POINTERS, 0, 16, 0, width=4, stride=8)
    data = struct.pack("<4I", MOVED, MOVED, MOVED, MOVED)
    after = struct.pack("<4I", MOVED + SHIFT, MOVED, MOVED + SHIFT, MOVED)
    assert rewritten(data, region) == after
    # A window that begins inside an entry goes on with the next one.
    assert rewritten(data[4:], region, start=4) == after[4:]


def test_offsets_follow_their_targets_and_their_base() -> None:
    region = Region(Kind.OFFSETS, 0, 8, MOVED, stride=4, base=MOVED)
    data = struct.pack("<ii", LOW - MOVED, 16)
    assert rewritten(data, region) == struct.pack("<ii", LOW - MOVED - SHIFT, 16)


def test_frames_follow_their_function_and_what_is_common() -> None:
    common = struct.pack("<II", 20, 0) + bytes(16)
    begin = len(common) + 8

    def frame(back: int, distance: int, size: int) -> bytes:
        return struct.pack("<IIii", 12, back, distance, size)

    # The frames are at the end of what did not move; the function grew, as its end moved.
    bias = MOVED - 40
    data = common + frame(len(common) + 4, LOW - bias - begin, MOVED - LOW + 8)
    changed = rewritten(data, Region(Kind.FRAMES, 0, len(data), bias))
    assert changed == common + frame(len(common) + 4, LOW - bias - begin, MOVED - LOW + 8 + SHIFT)


def test_tables_of_switches_are_relative_to_themselves() -> None:
    tables = array("q", [4, 8]), array("q", [2, 1])
    region = Region(Kind.SWITCHES, 0, 24, MOVED, tables=tables)
    data = struct.pack("<6i", 1, LOW - MOVED - 4, 0, 1, 1, LOW - MOVED - 20)
    after = struct.pack("<6i", 1, LOW - MOVED - 4 - SHIFT, 0, 1, 1, LOW - MOVED - 20 - SHIFT)
    assert rewritten(data, region) == after
    # One that a window divides stays.
    assert rewritten(data[8:], region, start=8) == data[8:20] + after[20:]


NUMBERS = Numbers(
    Moves(0, LIMIT, array("q", [0, 3]), array("q", [0, 2])),
    Moves(0, LIMIT, array("q", [0, 9, 20]), array("q", [0, -4, 5])),
)
INDEXES = Moves(0, INDEX_LIMIT, array("q", [0, 9]), array("q", [0, -4]))
GOOD = written(
    Rewrite(
        moves(),
        (
            Region(Kind.X86_64, 0, 64, LOW),
            Region(Kind.AARCH64, 64, 64, LOW, moved=-16),
            Region(Kind.RISCV64, 128, 64, LOW),
            Region(Kind.THUMB, 192, 64, LOW),
            Region(Kind.ARM, 256, 64, LOW),
            Region(Kind.X86_64_KERNEL, 320, 64, LOW),
            Region(Kind.POINTERS, 384, 64, LOW, width=4, stride=12),
            Region(Kind.EVEN_POINTERS, 448, 64, LOW, width=8, stride=8),
            Region(Kind.OFFSETS, 512, 64, LOW, stride=8, base=LOW),
            Region(Kind.FRAMES, 576, 64, LOW),
            Region(Kind.SWITCHES, 640, 64, LOW, tables=(array("q", [4, 8]), array("q", [3, 5]))),
            Region(Kind.HIGH_POINTERS, 704, 64, LOW, width=4, stride=16, base=0xFFFFFFFF),
            Region(Kind.PLACES, 768, 64, LOW, width=4, stride=12),
            Region(Kind.DOWNWARDS, 832, 64, LOW, stride=4, base=LOW - 1),
            Region(Kind.TYPES, 896, 64, LOW, numbers=NUMBERS),
            Region(Kind.INDEXES, 960, 66, LOW, stride=3, indexes=INDEXES),
        ),
    )
)


def _survives(encoded: bytes, data: bytes, start: int) -> None:
    """Either no rewrite, or one that leaves as many bytes as there were."""
    try:
        rewrite = decode_rewrite(encoded)
    except DeltaError:
        return
    changed = bytearray(data)
    apply_rewrite(rewrite, start, changed)
    assert len(changed) == len(data)


def test_what_is_written_is_read_back() -> None:
    rewrite = decode_rewrite(GOOD)
    assert rewrite.moves == moves()
    assert [region.kind for region in rewrite.regions] == list(Kind)
    assert written(rewrite) == GOOD


def test_truncated_at_every_byte_is_refused() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(DeltaError):
            decode_rewrite(GOOD[:size])
    with pytest.raises(DeltaError):
        decode_rewrite(GOOD + b"\0")


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=700), st.integers(0, 700))
def test_garbage_is_refused_or_harmless(garbage: bytes, data: bytes, start: int) -> None:
    _survives(garbage, data, start)
    _survives(bytes([FORMAT]) + garbage, data, start)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4),
    st.binary(min_size=1, max_size=700),
    st.integers(0, 700),
)
def test_damaged_rewrites_are_refused_or_harmless(
    edits: list[tuple[int, int]], data: bytes, start: int
) -> None:
    damaged = bytearray(GOOD)
    for at, value in edits:
        damaged[at] = value
    _survives(bytes(damaged), data, start)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(MACHINES)),
    st.binary(max_size=300),
    st.integers(-(1 << 60), 1 << 60),
    st.integers(0, 40),
)
def test_any_bytes_are_code(kind: Kind, data: bytes, shift: int, offset: int) -> None:
    region = Region(kind, offset, max(len(data) - offset, 0), MOVED - 64)
    assert len(rewritten(data, region, shift=shift)) == len(data)


def _hostile(count: Callable[[int], bytes]) -> list[bytes]:
    head = bytes([FORMAT]) + write(LOW) + write(HIGH - LOW)
    region = bytes([Kind.POINTERS]) + write(0) + write(8) + write(0)
    switches = bytes([Kind.SWITCHES]) + write(0) + write(1 << 50) + write(0)
    return [
        head + count(1 << 40),
        head + count(0) + count(1 << 40),
        head + count(1) + switches + count(1 << 40),
        head + count(1) + region + write(8) + write(0) + count(1) + write(0) + write(0),
        head + count(1) + region + write(3) + write(8) + count(1) + write(0) + write(0),
        head + count(0) + count(2) + write(0) + write(HIGH) + write(0) + write(0),
        head + count(0) + count(2) + write(0) + write(0) + write(0) + write(0),
        head + count(0) + count(1) + write(1) + write_signed(1),
        head + count(0) + count(0),
        head + count(1) + bytes([Kind.POINTERS | 0x80]) + write(0) + write(8) + write(0),
        head + count(1) + bytes([Kind.HIGH_POINTERS, 0, 64, 0]) + write(1 << 32) + write(8),
        head + count(1) + bytes([Kind.HIGH_POINTERS, 0, 64, 0]) + write(7) + write(7),
        head + count(1) + bytes([Kind.PLACES, 0, 64, 0]) + write(3),
        head + count(1) + bytes([Kind.DOWNWARDS, 0, 64, 0]) + write(3) + write(0),
        head + count(1) + bytes([Kind.TYPES, 0, 64, 0]) + write(0),
        head + count(1) + bytes([Kind.INDEXES, 0, 64, 0]) + write(0),
        head + count(1) + bytes([Kind.INDEXES, 0, 64, 0]) + count(1 << 17),
        head + count(1) + bytes([Kind.TYPES, 0, 64, 0]) + count(1 << 17),
        head + count(1) + bytes([Kind.TYPES, 0, 64, 0, 1, 1, 0]),
        head + count(1) + b"\x0a" + write(0) + write(8) + write(0),
        head + count(1) + switches + count(1) + write(1 << 49) + write(1 << 49),
    ]


def test_counts_and_sizes_that_lie_are_refused_without_memory() -> None:
    tracemalloc.start()
    try:
        for encoded in _hostile(write):
            with pytest.raises(DeltaError):
                decode_rewrite(encoded)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_regions_beyond_the_data_do_nothing() -> None:
    data = bytes(range(256))
    region = Region(Kind.POINTERS, 1 << 40, 1 << 40, 0, width=8, stride=8)
    assert rewritten(data, region) == data
    assert rewritten(data, replace(region, offset=0, size=4), start=100) == data
