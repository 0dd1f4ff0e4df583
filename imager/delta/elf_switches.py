"""Tables of switch statements in read-only data: distances from the table itself to code.

Compilers for x86_64 and riscv64 write them as 4-byte numbers. Nothing says where they are but
the code that refers to each: what it refers to, followed by distances that all lead to code.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import replace

import numpy as np

from delta.rewrite import MACHINES, Kind, Region
from imager.delta.elf_file import Executable
from imager.delta.elf_references import References

_KINDS = (Kind.X86_64, Kind.RISCV64)
_SHORTEST = 3


def with_switches(program: Executable, found: References) -> Executable:
    """The program with a region for each part of its read-only data that holds tables."""
    code = [region for region in program.regions if region.kind in MACHINES]
    if code[0].kind not in _KINDS:
        return program
    bounds = [
        (region.offset + region.bias, region.offset + region.bias + region.size) for region in code
    ]
    targets = np.unique(found.targets[found.relative])
    added = []
    for offset, size, bias in program.read_only:
        inside = targets[(targets >= offset + bias) & (targets < offset + bias + size)] - bias
        tables = _tables(
            program.data, inside[inside % 4 == 0].tolist(), offset + size, bias, bounds
        )
        if tables:
            added.append(_region(offset, size, bias, tables))
    regions = sorted([*program.regions, *added], key=lambda region: region.offset)
    return replace(program, regions=tuple(regions))


def _tables(
    data: bytes, starts: list[int], end: int, bias: int, code: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Position and number of entries of each table."""
    lows = [low for low, _ in code]
    found = []
    for index, start in enumerate(starts):
        limit = starts[index + 1] if index + 1 < len(starts) else end
        count = 0
        for at in range(start, min(limit, end) - 3, 4):
            target = start + bias + int.from_bytes(data[at : at + 4], "little", signed=True)
            part = bisect_right(lows, target) - 1
            if part < 0 or target >= code[part][1]:
                break
            count += 1
        if count >= _SHORTEST:
            found.append((start, count))
    return found


def _region(offset: int, size: int, bias: int, tables: list[tuple[int, int]]) -> Region:
    gaps, counts = array("q"), array("q")
    at = offset
    for start, count in tables:
        gaps.append(start - at)
        counts.append(count)
        at = start + 4 * count
    return Region(Kind.SWITCHES, offset, size, bias, tables=(gaps, counts))
