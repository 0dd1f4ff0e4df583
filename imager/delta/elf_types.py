"""Learns how the numbers in type information (BTF) changed between two kernels."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator
from dataclasses import replace

from delta.machines.btf import LIMIT, Numbers, starts
from delta.machines.moves import Moves
from delta.rewrite import NUMBERS_LIMIT, Kind
from imager.delta.elf_align import align
from imager.delta.elf_file import Executable

# Types are the same if they and their neighbours look the same but for numbers.
_DIGEST, _NEIGHBOURS = 8, 3
_HEADER = struct.Struct("<HBBIIIII")
_MAGIC = 0xEB9F
# Members: bytes of each, and whether a name comes first and an offset last.
_MEMBERS = {4: 12, 5: 12, 13: 8}
_SIZED = frozenset((1, 4, 5, 6, 15, 16, 19))


def types_range(information: bytes) -> tuple[int, int]:
    """Where the types are. Raises ValueError for what is no type information."""
    if len(information) < _HEADER.size:
        raise ValueError("too short for type information")
    magic, version, _, head, at, size, _, _ = _HEADER.unpack_from(information)
    if (magic, version) != (_MAGIC, 1) or head + at + size > len(information):
        raise ValueError("no type information of version 1")
    return head + at, head + at + size


def information_in(data: bytes) -> tuple[int, int]:
    """Where type information is in data that does not say so; (0, 0) when nowhere."""
    beginning = _HEADER.pack(_MAGIC, 1, 0, _HEADER.size, 0, 0, 0, 0)[:12]
    at = -1
    while (at := data.find(beginning, at + 1)) >= 0:
        _, _, _, head, _, size, names, names_size = _HEADER.unpack_from(
            data[at : at + 24] + bytes(24)
        )
        end = at + head + names + names_size
        if 0 < size <= names and at + head + size < end <= len(data):
            return at, end
    return 0, 0


def with_types(before: Executable, after: Executable) -> Executable:
    """The old program, with how the numbers of its types changed; without them if unknown."""
    numbers = _numbers(before.types, after.types) if before.types and after.types else None
    regions = (
        replace(region, numbers=numbers) if region.kind is Kind.TYPES else region
        for region in before.regions
    )
    kept = (region for region in regions if region.kind is not Kind.TYPES or numbers)
    return replace(before, regions=tuple(kept))


def _numbers(old: bytes, new: bytes) -> Numbers | None:
    try:
        alignment = align(_digests(old), _digests(new), _NEIGHBOURS * _DIGEST)
        names = _moves(_names(old), _names(new))
    except (ValueError, struct.error):
        return None
    types = {}
    for start, end, away in zip(alignment.starts, alignment.ends, alignment.away, strict=True):
        if away % _DIGEST == 0:
            first, last = -(-int(start) // _DIGEST), int(end) // _DIGEST
            # Type 0 is none and is not listed.
            for number in range(first, last):
                types[number + 1 + int(away) // _DIGEST] = number + 1
    moved = _pieces(types)
    if max(len(moved.starts), len(names.starts)) > NUMBERS_LIMIT:
        return None
    return Numbers(moved, names)


def _moves(old: dict[bytes, int], new: dict[bytes, int]) -> Moves:
    return _pieces({at: new[name] for name, at in old.items() if name in new})


def _pieces(moved: dict[int, int]) -> Moves:
    """From old numbers to new ones: the fewest pieces that are right for all."""
    starts_, shifts = array("q", [0]), array("q", [0])
    for number in sorted(moved):
        shift = moved[number] - number
        if shift != shifts[-1]:
            starts_.append(number)
            shifts.append(shift)
    if len(starts_) > 1 and starts_[1] == 0:
        del starts_[0], shifts[0]
    return Moves(0, LIMIT, starts_, shifts)


def _digests(information: bytes) -> bytes:
    """One for each type, of what does not change with its number."""
    start, end = types_range(information)
    names = _HEADER.unpack_from(information)[3] + _HEADER.unpack_from(information)[6]
    found = bytearray()
    for at, kind, count, _ in starts(information, start, end):
        digest = hashlib.blake2b(digest_size=_DIGEST)
        for part in _description(information, names, at, kind, count):
            digest.update(part + b"\0")
        found += digest.digest()
    return bytes(found)


def _description(information: bytes, names: int, at: int, kind: int, count: int) -> Iterator[bytes]:
    yield information[at + 4 : at + 8]
    yield _name(information, names, at)
    if kind in _SIZED:
        yield information[at + 8 : at + 12]
    step = _MEMBERS.get(kind, 0)
    for member in range(at + 12, at + 12 + step * count, step or 1):
        yield _name(information, names, member)
        yield information[member + 8 : member + step]


def _name(information: bytes, names: int, at: int) -> bytes:
    start = names + int.from_bytes(information[at : at + 4], "little")
    return information[start : information.index(b"\0", start)]


def _names(information: bytes) -> dict[bytes, int]:
    """The offset of each name, the first if there are several."""
    _, _, _, head, _, _, at, size = _HEADER.unpack_from(information)
    found: dict[bytes, int] = {}
    place = 0
    for name in information[head + at : head + at + size].split(b"\0"):
        found.setdefault(name, place)
        place += len(name) + 1
    return found
