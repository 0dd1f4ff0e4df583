"""The references of an executable: from where, to where. Found by the code that the device runs."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delta.machines.machine import Part
from delta.machines.tables import frame_starts
from delta.rewrite import MACHINES, Kind, Region, switches
from imager.delta.elf_file import Executable

Ints = NDArray[np.int64]

# Forms of references in tables; those of code are the machine's, from 0 on.
PLACE, _FRAME, _COMMON, _LAST, _OFFSET, _POINTER = -1, -2, -3, -4, -5, -6


@dataclass(frozen=True)
class References:
    """positions: in the file, ascending. places: their addresses. targets: addresses.

    forms: what kind of reference it is. relative: whether it is a distance from its place.
    """

    positions: Ints
    places: Ints
    targets: Ints
    forms: Ints

    @property
    def relative(self) -> NDArray[np.bool_]:
        """Those that change when their place moves."""
        relative: NDArray[np.bool_] = self.forms >= _COMMON
        return relative


def references(program: Executable) -> References:
    """All references of the program to itself."""
    parts = [np.empty((0, 4), np.int64)]
    data = bytearray(program.data)
    for region in program.regions:
        if region.kind not in (Kind.TYPES, Kind.INDEXES):
            parts.append(_of_region(program, region, data))
    found = np.concatenate(parts)
    found = found[np.argsort(found[:, 0], kind="stable")]
    return References(*(np.ascontiguousarray(found[:, column]) for column in range(4)))


def without_addresses(program: Executable) -> bytes:
    """The program with the same bytes wherever it has a reference, so that moved code is equal."""
    data = bytearray(program.data)
    for region in program.regions:
        if region.kind in MACHINES:
            machine = MACHINES[region.kind]
            part = Part(region.offset, region.offset + region.size, region.bias)
            for at, _, form in machine.find(data, part, program.low, program.high):
                machine.change(data, at, form, 0, 0)
            continue
        if region.kind in (Kind.TYPES, Kind.INDEXES):
            continue
        width = region.width or 4
        for at in _of_region(program, region, data)[:, 0].tolist():
            data[at : at + width] = bytes(width)
    return bytes(data)


def _of_region(program: Executable, region: Region, data: bytearray) -> NDArray[np.int64]:
    """Rows of position, place, target, form."""
    offset, end = region.offset, region.offset + region.size
    low, high = program.low, program.high
    if region.kind in MACHINES:
        flat = array("q")
        part = Part(offset, end, region.bias)
        for found in MACHINES[region.kind].find(data, part, low, high):
            flat.extend(found)
        rows = np.frombuffer(flat, np.int64).reshape(-1, 3)
        positions, targets, forms = rows[:, 0], rows[:, 1], rows[:, 2]
    elif region.kind is Kind.FRAMES:
        begins = np.fromiter(frame_starts(data, offset, end), np.int64)
        places = begins + region.bias
        commons = places - 4 - _values(program, begins - 4, "<u4")
        functions = places + _values(program, begins, "<i4")
        lasts = functions + _values(program, begins + 4, "<i4") - 1
        positions = np.concatenate([begins - 4, begins, begins + 4])
        targets = np.concatenate([commons, functions, lasts])
        forms = np.repeat([_COMMON, _FRAME, _LAST], len(begins))
    elif region.kind is Kind.SWITCHES:
        tables = [np.arange(at, at + size, 4, dtype=np.int64) for at, size in switches(region)]
        bases = [np.full(size // 4, at + region.bias, np.int64) for at, size in switches(region)]
        positions = np.concatenate([np.empty(0, np.int64), *tables])
        targets = _values(program, positions, "<i4")
        targets += np.concatenate([np.empty(0, np.int64), *bases])
        forms = np.full(len(positions), _OFFSET)
    else:
        width = region.width or 4
        positions = np.arange(offset, end - width + 1, region.stride, dtype=np.int64)
        if region.kind is Kind.DOWNWARDS:
            targets = region.base - _values(program, positions, "<i4")
            forms = np.full(len(positions), _OFFSET)
        elif region.kind is Kind.OFFSETS:
            targets = region.base + _values(program, positions, "<i4")
            forms = np.full(len(positions), _OFFSET)
        elif region.kind is Kind.PLACES:
            targets = positions + region.bias + _values(program, positions, "<i4")
            forms = np.full(len(positions), PLACE)
        elif region.kind is Kind.HIGH_POINTERS:
            positions = positions[positions <= end - 8]
            targets = _values(program, positions, "<u4")
            targets[_values(program, positions + 4, "<u4") != region.base] = -1
            forms = np.full(len(positions), _POINTER)
        else:
            targets = _values(program, positions, f"<u{width}")
            forms = np.full(len(positions), _POINTER)
            if region.kind is Kind.EVEN_POINTERS:
                targets[targets & 1 == 1] = -1
    keep = (targets >= low) & (targets < high)
    table = np.stack([positions, positions + region.bias, targets, forms], axis=1)
    return table[keep].astype(np.int64)


def _values(program: Executable, positions: Ints, form: str) -> Ints:
    """The numbers at these positions. Those of 64 bits without sign become negative if large."""
    dtype = np.dtype(form)
    size = len(program.data) - dtype.itemsize + 1
    every = np.ndarray((max(size, 0),), dtype, program.data, strides=(1,))
    return every[positions].astype(np.int64)
