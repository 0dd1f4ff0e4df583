"""One copy of the U-Boot environment that holds the record: bytes in, values out.

    crc32 of the data[4, little endian] flag[1] data[65531]
    data: NAME=VALUE\\0 NAME=VALUE\\0 ... \\0, then anything

The layout of a redundant environment (U-Boot, env/common.c; libubootenv). Of
two valid copies the one with the newer flag counts; it wraps from 255 to 0.

    BOOT_ORDER=B A       the slots that have an entry, first one first (RAUC's name)
    BOOT_A_LEFT=3        0 to 7 (RAUC's name)
    BOOT_A_GOOD=1        1: successful, not counted (ours)

An environment that RAUC or an older version wrote has no GOOD: 0. What is
absent besides is as in RAUC's script: the order A B, 3 tries. A value that is
not as written here has no meaning: the slot has no tries, the name no slot.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from recovery.bootcontrol.recorded import DEFAULT_TRIES, Count, Record
from recovery.slots import SLOTS, Slot

SIZE = 65536
_HEADER = 5
_DEFAULT_ORDER = b"A B"
_LEFT = {b"%d" % number: number for number in range(8)}


@dataclass(frozen=True)
class Environment:
    """flag: 0 to 255, one more for each write. variables: b"NAME=VALUE", in order."""

    flag: int
    variables: tuple[bytes, ...]


def decode(data: bytes) -> Environment:
    """The copy. Raises ValueError when it is not one."""
    if len(data) != SIZE or zlib.crc32(data[_HEADER:]) != int.from_bytes(data[:4], "little"):
        raise ValueError("the checksum does not match")
    body, end, _ = data[_HEADER:].partition(b"\0\0")
    if not end:
        raise ValueError("the variables do not end")
    return Environment(data[4], tuple(item for item in body.split(b"\0") if item))


def encode(environment: Environment) -> bytes:
    """The copy's bytes. Raises ValueError when the variables do not fit."""
    body = b"".join(item + b"\0" for item in environment.variables)
    # Two zero bytes end the variables, also when there is none.
    if _HEADER + len(body) + 2 > SIZE:
        raise ValueError(f"{len(body)} bytes do not fit into {SIZE - _HEADER - 2}")
    body = body.ljust(SIZE - _HEADER, b"\0")
    return zlib.crc32(body).to_bytes(4, "little") + bytes([environment.flag]) + body


def second_is_newer(first: int, second: int) -> bool:
    """Whether the flag of copy 1 is newer than that of copy 0; equal flags: copy 0 counts."""
    if {first, second} == {0, 255}:
        return second == 0
    return second > first


def record_of(environment: Environment) -> Record:
    """What the variables mean."""
    values = dict(_name_and_value(item) for item in environment.variables)
    names: dict[bytes, Slot] = {b"A": "a", b"B": "b"}
    words = values.get(b"BOOT_ORDER", _DEFAULT_ORDER).split()
    # A set of names in the order of their first mention.
    order = tuple(dict.fromkeys(names[word] for word in words if word in names))
    return Record(order, _count(values, b"A"), _count(values, b"B"))


def with_record(variables: tuple[bytes, ...], record: Record) -> tuple[bytes, ...]:
    """The variables with the record in place of the one before; all others stay."""
    order = " ".join(slot.upper() for slot in record.order).encode()
    wanted = {b"BOOT_ORDER": order}
    for slot in SLOTS:
        name, count = slot.upper().encode(), record.count(slot)
        wanted[b"BOOT_%s_LEFT" % name] = b"%d" % count.left
        wanted[b"BOOT_%s_GOOD" % name] = b"%d" % count.good
    kept = tuple(item for item in variables if _name_and_value(item)[0] not in wanted)
    return (*kept, *(b"%s=%s" % item for item in wanted.items()))


def _name_and_value(item: bytes) -> tuple[bytes, bytes]:
    name, _, value = item.partition(b"=")
    return name, value


def _count(values: dict[bytes, bytes], name: bytes) -> Count:
    left = values.get(b"BOOT_%s_LEFT" % name, b"%d" % DEFAULT_TRIES)
    good = values.get(b"BOOT_%s_GOOD" % name, b"0")
    return Count(left=_LEFT.get(left, 0), good=good == b"1")
