"""Rewrites an old executable so that its addresses are those of the new one.

Most of what differs between two builds of a program are addresses: code that did not change
calls and reads what moved. The maker says where things moved and where addresses are; the device
changes each of them before the old bytes are used as a reference. A wrong guess costs bytes in
the difference and nothing else. See docs/delta-executables.md for the format.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from delta.errors import DeltaError
from delta.machines import tables
from delta.machines.aarch64 import Aarch64
from delta.machines.arm import Arm, Thumb
from delta.machines.btf import LIMIT, Numbers, types
from delta.machines.machine import Machine, Part
from delta.machines.moves import Moves
from delta.machines.riscv64 import Riscv64
from delta.machines.x86_64 import X8664, X8664Kernel
from delta.varint import Reader, signed

FORMAT = 1
# Addresses of hostile programs stay below this, so that no sum leaves 64 bits.
ADDRESS_LIMIT = 1 << 60
PIECES_LIMIT = 1 << 18
REGIONS_LIMIT = 1 << 12
TABLES_LIMIT = 1 << 16
NUMBERS_LIMIT = 1 << 16
INDEX_LIMIT = 1 << 24


class Kind(IntEnum):
    """What a region of the file is. Numbers of the format: never changed, only added to."""

    X86_64 = 1
    AARCH64 = 2
    RISCV64 = 3
    THUMB = 4
    ARM = 5
    X86_64_KERNEL = 6
    POINTERS = 16
    EVEN_POINTERS = 17
    OFFSETS = 18
    FRAMES = 19
    SWITCHES = 20
    HIGH_POINTERS = 21
    PLACES = 22
    DOWNWARDS = 23
    TYPES = 24
    INDEXES = 25


MACHINES: dict[Kind, Machine] = {
    Kind.X86_64: X8664(),
    Kind.AARCH64: Aarch64(),
    Kind.RISCV64: Riscv64(),
    Kind.THUMB: Thumb(),
    Kind.ARM: Arm(),
    Kind.X86_64_KERNEL: X8664Kernel(),
}


@dataclass(frozen=True)
class Region:
    """Bytes [offset, offset + size) of the old file; its address is offset + bias.

    width, stride: of POINTERS and EVEN_POINTERS; stride of all tables but SWITCHES, too. base:
    the address that OFFSETS and DOWNWARDS are relative to; of HIGH_POINTERS, their upper halves.
    tables: of SWITCHES, gap before and count of each table's entries.
    moved: of code, how far all of it moved, where the moves of what it holds do not tell.
    numbers: of TYPES. indexes: of INDEXES.
    """

    kind: Kind
    offset: int
    size: int
    bias: int
    width: int = 0
    stride: int = 0
    base: int = 0
    tables: tuple[array[int], array[int]] | None = None
    moved: int | None = None
    numbers: Numbers | None = None
    indexes: Moves | None = None


@dataclass(frozen=True)
class Rewrite:
    """regions: ascending, none overlaps another."""

    moves: Moves
    regions: tuple[Region, ...]


def decode_rewrite(data: bytes) -> Rewrite:
    """Reads a rewrite. Raises DeltaError for anything that is none; memory is bounded."""
    reader = Reader(memoryview(data))
    if reader.byte() != FORMAT:
        raise DeltaError(f"expected a rewrite of format {FORMAT}")
    low = reader.number(ADDRESS_LIMIT, "the lowest address")
    high = low + reader.number(ADDRESS_LIMIT, "a size of the program")
    regions = []
    offset = bias = 0
    numbers: Numbers | None = None
    for _ in range(reader.number(REGIONS_LIMIT, "a number of regions")):
        region = _region(reader, offset, bias)
        if region.kind is Kind.TYPES:
            numbers = _numbers(reader, numbers)
            region = replace(region, numbers=numbers)
        offset, bias = region.offset + region.size, region.bias
        regions.append(region)
    moves = _moves(reader, low, high)
    reader.end()
    return Rewrite(moves, tuple(regions))


def apply_rewrite(rewrite: Rewrite, start: int, data: bytearray) -> None:
    """Rewrites in place; data is the old file's bytes from position start on.

    Only what lies in data as a whole is changed. The work is linear in its size.
    """
    for region in rewrite.regions:
        first = max(region.offset, start)
        end = min(region.offset + region.size, start + len(data))
        if region.stride:
            # Entries are counted from the beginning of their table.
            first += -(first - region.offset) % region.stride
        if first < end:
            part = Part(first - start, end - start, region.bias + start)
            _apply(rewrite.moves, region, start, part, data)


def _apply(moves: Moves, region: Region, start: int, part: Part, data: bytearray) -> None:
    stride = region.stride
    match region.kind:
        case Kind.POINTERS | Kind.EVEN_POINTERS:
            even = region.kind is Kind.EVEN_POINTERS
            tables.pointers(data, part, moves, width=region.width, stride=stride, even=even)
        case Kind.DOWNWARDS:
            tables.downwards(data, part, moves, stride=stride, base=region.base)
        case Kind.OFFSETS:
            tables.offsets(data, part, moves, stride=stride, base=region.base)
        case Kind.HIGH_POINTERS:
            tables.high_pointers(data, part, moves, stride=stride, upper=region.base)
        case Kind.PLACES:
            tables.places(data, part, moves, stride=stride)
        case Kind.INDEXES:
            if region.indexes is not None:
                tables.indexes(data, part, region.indexes)
        case Kind.TYPES:
            if region.offset >= start and region.numbers is not None:
                types(data, part, region.numbers)
        case Kind.FRAMES:
            # They can be followed from the first one only.
            if region.offset >= start:
                tables.frames(data, part, moves)
        case Kind.SWITCHES:
            for position, size in switches(region):
                at = position - start
                if part.start <= at and at + size <= part.end:
                    table = Part(at, at + size, part.bias)
                    tables.offsets(data, table, moves, stride=4, base=at + part.bias)
        case _:
            _code(region, part, moves, data)


def _code(region: Region, part: Part, moves: Moves, data: bytearray) -> None:
    """Changes the references of code."""
    machine, moved, bias = MACHINES[region.kind], region.moved, part.bias
    low, high, page = moves.low, moves.high, machine.page - 1
    # As Moves.shift does: half of a program's references come through here.
    starts, shifts = moves.starts, moves.shifts
    # Neighbours are in the same piece, and mostly refer to each other.
    first = last = own = 0
    for at, target, form in machine.find(data, part, low, high):
        here = at + bias
        if moved is not None:
            own = moved
        elif not first <= here < last:
            if not low <= here < high:
                continue
            first, last, own = moves.piece(here)
        shift = own if first <= target < last else shifts[bisect_right(starts, target) - 1]
        if shift != own or shift & page:
            machine.change(data, at, form, here + own, target + shift)


def switches(region: Region) -> Iterator[tuple[int, int]]:
    """Position in the file and size of each table of a region of SWITCHES."""
    assert region.tables is not None
    at = region.offset
    for gap, count in zip(*region.tables, strict=True):
        at += gap
        yield at, 4 * count
        at += 4 * count


def _region(reader: Reader, offset: int, bias: int) -> Region:
    number = reader.byte()
    kind, has_moved = number & 127, number > 127
    if kind not in Kind._value2member_map_ or (has_moved and kind not in MACHINES):
        raise DeltaError(f"expected a kind of region, found {number}")
    kind = Kind(kind)
    offset += reader.number(ADDRESS_LIMIT - offset, "a gap before a region")
    size = reader.number(ADDRESS_LIMIT - offset, "a size of a region")
    bias += _signed(reader, "an address of a region")
    if not 0 <= offset + bias <= ADDRESS_LIMIT:
        raise DeltaError("expected a region within the addresses")
    match kind:
        case Kind.POINTERS | Kind.EVEN_POINTERS:
            width, stride = reader.number(8, "a width"), reader.number(64, "a stride")
            if width not in (4, 8) or stride < width:
                raise DeltaError(f"expected pointers, found {width} bytes every {stride}")
            return Region(kind, offset, size, bias, width=width, stride=stride)
        case Kind.OFFSETS | Kind.DOWNWARDS:
            stride = reader.number(64, "a stride")
            base = offset + bias + _signed(reader, "a base")
            if stride < 4 or not 0 <= base <= ADDRESS_LIMIT:
                raise DeltaError("expected offsets of 4 bytes from a base")
            return Region(kind, offset, size, bias, stride=stride, base=base)
        case Kind.HIGH_POINTERS | Kind.PLACES:
            upper = (
                reader.number((1 << 32) - 1, "an upper half") if kind is Kind.HIGH_POINTERS else 0
            )
            stride = reader.number(64, "a stride")
            if stride < (8 if kind is Kind.HIGH_POINTERS else 4):
                raise DeltaError(f"expected a stride of {kind.name}, found {stride}")
            return Region(kind, offset, size, bias, width=4, stride=stride, base=upper)
        case Kind.INDEXES:
            count = reader.number(NUMBERS_LIMIT, "a number of pieces")
            indexes = _pieces(reader, count, 0, INDEX_LIMIT)
            return Region(kind, offset, size, bias, stride=3, indexes=indexes)
        case Kind.SWITCHES:
            return Region(kind, offset, size, bias, tables=_tables(reader, size))
        case _:
            if kind not in (Kind.FRAMES, Kind.TYPES) and kind not in MACHINES:
                raise DeltaError(f"expected code of a known machine, found {kind.name}")
            moved = _signed(reader, "a shift") if has_moved else None
            return Region(kind, offset, size, bias, moved=moved)


def _signed(reader: Reader, what: str) -> int:
    return signed(reader.number(2 * ADDRESS_LIMIT, what))


def _tables(reader: Reader, size: int) -> tuple[array[int], array[int]]:
    count = reader.number(TABLES_LIMIT, "a number of tables")
    gaps = array("q", (reader.number(size, "a gap") for _ in range(count)))
    counts = array("q", (reader.number(size, "a size of a table") for _ in range(count)))
    if sum(gaps) + 4 * sum(counts) > size:
        raise DeltaError("expected tables within their region")
    return gaps, counts


def _numbers(reader: Reader, before: Numbers | None) -> Numbers:
    """Of a region of TYPES; those of the one before it if it has none of its own."""
    count = reader.number(NUMBERS_LIMIT, "a number of pieces")
    if not count:
        if before is None:
            raise DeltaError("expected numbers of types")
        return before
    of_types = _pieces(reader, count, 0, LIMIT)
    count = reader.number(NUMBERS_LIMIT, "a number of pieces")
    return Numbers(of_types, _pieces(reader, count, 0, LIMIT))


def _moves(reader: Reader, low: int, high: int) -> Moves:
    return _pieces(reader, reader.number(PIECES_LIMIT, "a number of pieces"), low, high)


def _pieces(reader: Reader, count: int, low: int, high: int) -> Moves:
    starts, shifts = array("q"), array("q")
    start, shift = low, 0
    for index in range(count):
        step = reader.number(high - start, "a size of a piece")
        if index and not step:
            raise DeltaError("expected pieces that are not empty")
        start += step
        starts.append(start)
    for _ in range(count):
        shift += _signed(reader, "a shift")
        if not -ADDRESS_LIMIT <= shift <= ADDRESS_LIMIT:
            raise DeltaError("expected a shift within the addresses")
        shifts.append(shift)
    if not count or starts[0] != low:
        raise DeltaError("expected pieces from the lowest address on")
    return Moves(low, high, starts, shifts)
