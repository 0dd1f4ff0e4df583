"""Writes a rewrite down, for one part of the old file; see docs/delta-executables.md."""

from __future__ import annotations

from array import array

import numpy as np

from delta.machines.moves import Moves
from delta.rewrite import FORMAT, Kind, Region, Rewrite
from delta.varint import write, write_signed
from imager.delta.elf_references import References


def encoded(rewrite: Rewrite, found: References, start: int, size: int, _whole: int) -> bytes:
    """The rewrite of bytes [start, start + size), with the pieces that these refer to."""
    moves = _needed(rewrite.moves, found, start, start + size)
    regions = [
        part
        for region in rewrite.regions
        if (part := _part(region, start, start + size)) is not None
    ]
    body = bytearray([FORMAT])
    body += write(moves.low) + write(moves.high - moves.low)
    body += write(len(regions))
    offset = bias = 0
    for region in regions:
        body += _region(region, offset, bias)
        offset, bias = region.offset + region.size, region.bias
    body += write(len(moves.starts))
    at, shift = moves.low, 0
    for next_start in moves.starts:
        body += write(next_start - at)
        at = next_start
    for next_shift in moves.shifts:
        body += write_signed(next_shift - shift)
        shift = next_shift
    return bytes(body)


def _region(region: Region, offset: int, bias: int) -> bytes:
    body = bytearray([region.kind | (0 if region.moved is None else 0x80)])
    body += write(region.offset - offset) + write(region.size) + write_signed(region.bias - bias)
    if region.kind in (Kind.POINTERS, Kind.EVEN_POINTERS):
        body += write(region.width) + write(region.stride)
    elif region.kind is Kind.OFFSETS:
        body += write(region.stride) + write_signed(region.base - region.offset - region.bias)
    elif region.moved is not None:
        body += write_signed(region.moved)
    elif region.kind is Kind.SWITCHES:
        assert region.tables is not None
        gaps, counts = region.tables
        body += write(len(gaps))
        for number in (*gaps, *counts):
            body += write(number)
    return bytes(body)


def _part(region: Region, _start: int, _end: int) -> Region | None:
    return region


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
