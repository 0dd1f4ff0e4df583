"""Rewriting on the device: what only kernels have."""

from __future__ import annotations

import struct
from array import array
from dataclasses import replace

from delta.machines.btf import LIMIT, Numbers
from delta.machines.moves import Moves
from delta.rewrite import INDEX_LIMIT, Kind, Region, Rewrite, decode_rewrite
from imager.delta.elf_write import written
from tests.delta.test_rewrite import LOW, MOVED, NUMBERS, SHIFT, code, moves, rewritten


def test_x86_kernels_name_addresses_as_well_as_distances() -> None:
    def function(target: int) -> bytes:
        address = struct.pack("<I", target)
        return b"".join(
            (
                b"\xe8" + struct.pack("<i", target - LOW - 5),
                b"\x48\xc7\xc7" + address,  # mov rdi, n
                b"\x49\x81\xfc" + address,  # cmp r12, n
                b"\x48\x3d" + address,  # cmp rax, n
                b"\x8b\x04\xc5" + address,  # mov eax, [8 * rax + n]
            )
        )

    assert code(Kind.X86_64_KERNEL, function(MOVED)) == function(MOVED + SHIFT)
    # The same number where an instruction has none stays.
    other = b"\x90\x90\x90" + struct.pack("<I", MOVED)
    assert code(Kind.X86_64_KERNEL, other) == other


def test_x86_kernels_addresses_change_within_what_moved_together() -> None:
    def function(target: int, distance: int) -> bytes:
        call = b"\xe8" + struct.pack("<i", distance)
        return b"\x48\xc7\xc7" + struct.pack("<I", target) + call

    region = Region(Kind.X86_64_KERNEL, 0, 12, MOVED)
    before, after = function(MOVED + 64, 0x80), function(MOVED + 64 + SHIFT, 0x80)
    assert rewritten(before, region) == after


def test_pointers_with_another_upper_half_stay() -> None:
    region = Region(Kind.HIGH_POINTERS, 0, 32, 0, width=4, stride=8, base=0xFFFF8000)
    upper = 0xFFFF8000 << 32
    data = struct.pack("<4Q", upper + MOVED, MOVED, upper + LOW, (0xFFFFFFFF << 32) + MOVED)
    after = struct.pack("<Q", upper + MOVED + SHIFT) + data[8:]
    assert rewritten(data, region) == after
    # The upper half decides, so a pointer that a window divides stays.
    assert rewritten(data[:6], region) == data[:6]


def test_distances_downwards_follow_their_targets() -> None:
    region = Region(Kind.DOWNWARDS, 0, 12, LOW, stride=4, base=LOW - 1)
    data = struct.pack("<iii", LOW - 1 - MOVED, -1, 17)
    assert rewritten(data, region) == struct.pack("<iii", LOW - 1 - MOVED - SHIFT, -1, 17)


def test_distances_from_their_own_places_follow_both() -> None:
    region = Region(Kind.PLACES, 0, 24, MOVED, width=4, stride=12)
    data = struct.pack("<6i", LOW - MOVED, 1, 2, 16, 3, 4)
    after = struct.pack("<6i", LOW - MOVED - SHIFT, 1, 2, 16, 3, 4)
    assert rewritten(data, region) == after
    still = replace(region, bias=LOW)
    towards = struct.pack("<6i", MOVED - LOW, 1, 2, MOVED - LOW - 12, 3, 4)
    assert rewritten(towards, still) == struct.pack(
        "<6i", MOVED - LOW + SHIFT, 1, 2, MOVED - LOW - 12 + SHIFT, 3, 4
    )


def _type(name: int, kind: int, third: int, *rest: int, members: int = 0) -> bytes:
    return struct.pack(f"<{3 + len(rest)}I", name, kind << 24 | members, third, *rest)


def _types(of: Numbers) -> bytes:
    """One of each form, where all numbers of types are 7 and all names 9, moved."""
    number, name = 7 + of.types.shift(7), 9 + of.names.shift(9)
    return b"".join(
        (
            _type(name, 1, 4, 32),  # int
            _type(0, 2, number),  # pointer
            _type(0, 3, 0, number, number, 7),  # array
            _type(name, 4, 9, name, number, 7, name, number, 9, members=2),  # struct
            _type(name, 6, 7, name, 7, members=1),  # enum
            _type(0, 13, number, name, number, members=1),  # prototype of a function
            _type(name, 14, number, 7),  # variable
            _type(name, 15, 9, number, 9, 7, members=1),  # section
            _type(name, 19, 8, name, 7, 9, members=1),  # enum64
            _type(name, 8, number),  # typedef
        )
    )


def test_numbers_of_types_and_names_change_and_other_numbers_stay() -> None:
    still = Moves(0, LIMIT, array("q", [0]), array("q", [0]))
    data = _types(Numbers(still, still))
    region = Region(Kind.TYPES, 0, len(data), 0, numbers=NUMBERS)
    assert rewritten(data, region) == _types(NUMBERS)
    # In a window that begins later nothing tells where a type begins.
    assert rewritten(data[12:], region, start=12) == data[12:]
    # One that a window divides stays.
    assert rewritten(data[:-4], region)[-8:] == data[-12:-4]


def test_numbers_are_written_once_for_neighbouring_regions() -> None:
    one = Region(Kind.TYPES, 0, 64, LOW, numbers=NUMBERS)
    both = (one, replace(one, offset=64))
    single, double = (written(Rewrite(moves(), regions)) for regions in (both[:1], both))
    assert len(double) <= len(single) + 5
    assert decode_rewrite(double).regions == both


def test_numbers_of_names_have_three_bytes_with_the_highest_first() -> None:
    indexes = Moves(0, INDEX_LIMIT, array("q", [0, 0x10000]), array("q", [0, 0x203]))
    region = Region(Kind.INDEXES, 0, 9, 0, stride=3, indexes=indexes)
    data = bytes.fromhex("00ffff 010000 ffffff")
    # What no longer fits stays.
    assert rewritten(data, region) == bytes.fromhex("00ffff 010203 ffffff")
    assert rewritten(data[2:], region, start=2) == bytes.fromhex("ff 010203 ffffff")


def test_what_are_no_types_stays() -> None:
    data = struct.pack("<12I", *range(12)) + b"\xff" * 40
    region = Region(Kind.TYPES, 0, len(data), 0, numbers=NUMBERS)
    assert rewritten(data, region) == data
