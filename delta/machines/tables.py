"""Tables of addresses in the data of executables, the same for all machines.

Each function changes a part of the data in place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import count
from struct import Struct

from delta.machines.machine import Part
from delta.machines.moves import Moves

_INT = Struct("<i")
_FRAME = Struct("<Iii")
# Bytes of a frame description before its first address.
FRAME_HEADER = 8
_UNSIGNED = Struct("<I")
_POINTERS = {4: _UNSIGNED, 8: Struct("<Q")}


def pointers(
    data: bytearray, part: Part, moves: Moves, *, width: int, stride: int, even: bool
) -> None:
    """Absolute addresses of width bytes, one every stride bytes. even: odd ones are bit maps."""
    form, most = _POINTERS[width], 1 << 8 * width
    low, high = moves.low, moves.high
    # As Moves.shift does: a program has more of these than of all else in its data.
    starts, shifts = moves.starts, moves.shifts
    for at, value in _entries(data, part, form, stride):
        if low <= value < high and not (even and value & 1):
            shift = shifts[bisect_right(starts, value) - 1]
            if shift and 0 <= value + shift < most:
                form.pack_into(data, at, value + shift)


def _entries(data: bytearray, part: Part, form: Struct, stride: int) -> Iterator[tuple[int, int]]:
    """Place and value of each entry that is in the part as a whole, one every stride bytes.

    An entry may be changed before the next one is asked for.
    """
    start, size = part.start, part.end - part.start
    whole = size // stride
    with memoryview(data)[start : start + whole * stride] as view:
        values = Struct(f"{form.format}{stride - form.size}x").iter_unpack(view)
        for at, (value,) in zip(count(start, stride), values, strict=False):
            yield at, value
    last = start + whole * stride
    # The last one needs nothing behind it.
    if last + form.size <= part.end:
        yield last, form.unpack_from(data, last)[0]


def offsets(data: bytearray, part: Part, moves: Moves, *, stride: int, base: int) -> None:
    """Signed distances of 4 bytes from the address base, one every stride bytes."""
    low, high = moves.low, moves.high
    base_shift = moves.shift(base) if low <= base < high else 0
    for at, value in _entries(data, part, _INT, stride):
        if low <= base + value < high:
            _put(data, at, value + moves.shift(base + value) - base_shift)


def high_pointers(data: bytearray, part: Part, moves: Moves, *, stride: int, upper: int) -> None:
    """Absolute addresses of 8 bytes, one every stride bytes, whose upper halves are all the same.

    Addresses are their lower halves.
    """
    form, low, high = _UNSIGNED, moves.low, moves.high
    wanted = _UNSIGNED.pack(upper)
    for at in range(part.start, part.end - 7, stride):
        if data[at + 4 : at + 8] == wanted:
            value = form.unpack_from(data, at)[0]
            if low <= value < high:
                moved = value + moves.shift(value)
                if 0 <= moved < 1 << 32:
                    form.pack_into(data, at, moved)


def downwards(data: bytearray, part: Part, moves: Moves, *, stride: int, base: int) -> None:
    """Signed distances of 4 bytes back to the address base, one every stride bytes."""
    low, high = moves.low, moves.high
    base_shift = moves.shift(base) if low <= base < high else 0
    for at, value in _entries(data, part, _INT, stride):
        if low <= base - value < high:
            _put(data, at, value + base_shift - moves.shift(base - value))


def indexes(data: bytearray, part: Part, moves: Moves) -> None:
    """Numbers of 3 bytes, the highest first, which change by moves of their own."""
    for at in range(part.start, part.end - 2, 3):
        value = int.from_bytes(data[at : at + 3], "big")
        moved = value + moves.shift(value)
        if 0 <= moved < 1 << 24:
            data[at : at + 3] = moved.to_bytes(3, "big")


def places(data: bytearray, part: Part, moves: Moves, *, stride: int) -> None:
    """Signed distances of 4 bytes from where they are themselves, one every stride bytes."""
    low, high, bias = moves.low, moves.high, part.bias
    for at, value in _entries(data, part, _INT, stride):
        place = at + bias
        if low <= place + value < high and low <= place < high:
            _put(data, at, value + moves.shift(place + value) - moves.shift(place))


def frames(data: bytearray, part: Part, moves: Moves) -> None:
    """Frame descriptions of .eh_frame: the distance back to what is common to several of them,
    where their function begins, relative to the place, and its size.

    Source: Linux Standard Base Core 5.0, 10.6.1; the encoding is DW_EH_PE_pcrel | sdata4, which
    the maker has checked.
    """
    low, high = moves.low, moves.high
    for at in frame_starts(data, part.start, part.end):
        back, begin, size = _FRAME.unpack_from(data, at - 4)
        place = at + part.bias
        common, target = place - 4 - back, place + begin
        if not low <= place < high:
            continue
        own = moves.shift(place)
        if low <= common:
            _put(data, at - 4, back + own - moves.shift(common))
        if low <= target < high:
            shift = moves.shift(target)
            _put(data, at, begin + shift - own)
            if 0 < size <= high - target:
                _put(data, at + 4, size + moves.shift(target + size - 1) - shift)


def frame_starts(data: bytes | bytearray, start: int, end: int) -> Iterator[int]:
    """Positions of the first address of each frame description of an .eh_frame."""
    while start + 16 <= end:
        length, common = _UNSIGNED.unpack_from(data, start)[0], data[start + 4 : start + 8]
        if length < 12 or length >= 0xFFFFFFF0:
            # The end, or damaged, or the form for more than 4 GiB, which no linker writes.
            if length == 0:
                start += 4
                continue
            return
        if common != b"\0\0\0\0":
            yield start + FRAME_HEADER
        start += 4 + length


def _put(data: bytearray, at: int, value: int) -> None:
    if -(1 << 31) <= value < 1 << 31:
        _INT.pack_into(data, at, value)
