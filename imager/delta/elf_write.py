"""Writes a rewrite down, for one part of the old file; see docs/delta-executables.md."""

from __future__ import annotations

from array import array
from dataclasses import replace

import numpy as np

from delta.machines import btf
from delta.machines.btf import Numbers
from delta.machines.machine import Part
from delta.machines.moves import Moves
from delta.machines.tables import FRAME_HEADER, frame_starts, offsets
from delta.rewrite import FORMAT, Kind, Region, Rewrite, switches
from delta.varint import write, write_signed
from imager.delta.elf_references import References


def encoded(rewrite: Rewrite, old: bytes, found: References, start: int, size: int) -> bytes:
    """The rewrite of bytes [start, start + size) of old, without the pieces, regions and tables
    that these do not need."""
    end = min(start + size, len(old))
    moves = _needed(rewrite.moves, found, start, end)
    parts = (_part(region, old, rewrite.moves, start, end) for region in rewrite.regions)
    return written(Rewrite(moves, tuple(part for part in parts if part is not None)))


def written(rewrite: Rewrite) -> bytes:
    """The bytes that decode_rewrite reads."""
    moves, regions = rewrite.moves, rewrite.regions
    body = bytearray([FORMAT])
    body += write(moves.low) + write(moves.high - moves.low)
    body += write(len(regions))
    offset = bias = 0
    numbers: Numbers | None = None
    for region in regions:
        body += _region(region, offset, bias, numbers)
        numbers = region.numbers or numbers
        offset, bias = region.offset + region.size, region.bias
    return bytes(body) + _moves(moves)


def _moves(moves: Moves) -> bytes:
    body = bytearray(write(len(moves.starts)))
    at, shift = moves.low, 0
    for next_start in moves.starts:
        body += write(next_start - at)
        at = next_start
    for next_shift in moves.shifts:
        body += write_signed(next_shift - shift)
        shift = next_shift
    return bytes(body)


def _numbers(numbers: Numbers | None, before: Numbers | None) -> bytes:
    assert numbers is not None
    if numbers == before:
        return write(0)
    return _moves(numbers.types) + _moves(numbers.names)


def _region(region: Region, offset: int, bias: int, before: Numbers | None) -> bytes:
    body = bytearray([region.kind | (0 if region.moved is None else 0x80)])
    body += write(region.offset - offset) + write(region.size) + write_signed(region.bias - bias)
    if region.kind in (Kind.POINTERS, Kind.EVEN_POINTERS):
        body += write(region.width) + write(region.stride)
    elif region.kind in (Kind.OFFSETS, Kind.DOWNWARDS):
        body += write(region.stride) + write_signed(region.base - region.offset - region.bias)
    elif region.kind is Kind.HIGH_POINTERS:
        body += write(region.base) + write(region.stride)
    elif region.indexes is not None:
        body += _moves(region.indexes)
    elif region.kind is Kind.TYPES:
        body += _numbers(region.numbers, before)
    elif region.kind is Kind.PLACES:
        body += write(region.stride)
    elif region.moved is not None:
        body += write_signed(region.moved)
    elif region.kind is Kind.SWITCHES:
        assert region.tables is not None
        gaps, counts = region.tables
        body += write(len(gaps))
        for number in (*gaps, *counts):
            body += write(number)
    return bytes(body)


def _part(region: Region, old: bytes, moves: Moves, start: int, end: int) -> Region | None:
    """What is needed of the region in [start, end); the device leaves out what is outside."""
    if region.offset >= end or region.offset + region.size <= start:
        return None
    if region.kind is Kind.FRAMES and region.offset < start:
        return _frames_from(region, old, start)
    if region.kind is Kind.TYPES and region.offset < start:
        return _types_from(region, old, start)
    if region.kind is Kind.SWITCHES:
        return _changed_tables(region, old, moves, start, end)
    return region


def _frames_from(region: Region, old: bytes, start: int) -> Region | None:
    """The frame descriptions that begin at start or later."""
    last = region.offset + region.size
    for at in frame_starts(old, region.offset, last):
        begin = at - FRAME_HEADER
        if begin >= start:
            return replace(region, offset=begin, size=last - begin)
    return None


def _types_from(region: Region, old: bytes, start: int) -> Region | None:
    """The types that begin at start or later."""
    last = region.offset + region.size
    for at, _, _, _ in btf.starts(old, region.offset, last):
        if at >= start:
            return replace(region, offset=at, size=last - at)
    return None


def _changed_tables(
    region: Region, old: bytes, moves: Moves, start: int, end: int
) -> Region | None:
    gaps, counts = array("q"), array("q")
    last = region.offset
    for at, size in switches(region):
        inside = start <= at and at + size <= end
        if inside and _changes(old, at, size, at + region.bias, moves):
            gaps.append(at - last)
            counts.append(size // 4)
            last = at + size
    return replace(region, tables=(gaps, counts)) if gaps else None


def _changes(old: bytes, at: int, size: int, base: int, moves: Moves) -> bool:
    table = bytearray(old[at : at + size])
    offsets(table, Part(0, size, base), moves, stride=4, base=base)
    return table != old[at : at + size]


def _needed(moves: Moves, found: References, start: int, end: int) -> Moves:
    """The moves without pieces in which no reference of [start, end) or its target lies."""
    inside = (found.positions >= start) & (found.positions < end)
    addresses = np.concatenate([found.places[inside], found.targets[inside]])
    index = np.unique(np.searchsorted(np.asarray(moves.starts), addresses, side="right") - 1)
    starts, shifts = array("q"), array("q")
    for piece in index[index >= 0].tolist():
        if not starts or shifts[-1] != moves.shifts[piece]:
            starts.append(moves.starts[piece])
            shifts.append(moves.shifts[piece])
    if not starts:
        starts, shifts = array("q", [moves.low]), array("q", [0])
    starts[0] = moves.low
    return Moves(moves.low, moves.high, starts, shifts)
