"""Which libraries an ELF program needs: a reader of the few fields that say so.

Little-endian ELF, 32 and 64 bits (all architectures that boards may have).
Source: System V ABI, "Object Files" and "Dynamic Linking".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from recovery.errors import ToolError

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


@dataclass(frozen=True)
class Dependencies:
    """interpreter: path of the dynamic loader, "" if static. needed: library names (sonames)."""

    interpreter: str
    needed: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def dependencies(data: bytes, name: str) -> Dependencies:
    """What the program or library in data needs. Raises ToolError when it is not ELF."""
    try:
        return _read(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ToolError(
            f"cannot read which libraries {name} needs: {error}",
            resolution="the file must be a little-endian ELF program or library",
        ) from error


def _read(data: bytes) -> Dependencies:
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ValueError("not a little-endian ELF file")
    wide = data[4] == 2
    segments = list(_segments(data, wide))
    interpreter = ""
    entries: list[tuple[int, int]] = []
    for segment in segments:
        content = data[segment.offset : segment.offset + segment.size]
        if segment.kind == _PT_INTERP:
            interpreter = content.rstrip(b"\0").decode()
        elif segment.kind == _PT_DYNAMIC:
            for tag, value in struct.iter_unpack("<qQ" if wide else "<iI", content):
                if tag == _DT_NULL:
                    break
                entries.append((tag, value))
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return Dependencies(interpreter, ())
    table = _file_offset(segments, strings)
    needed = tuple(_string(data, table + value) for tag, value in entries if tag == _DT_NEEDED)
    return Dependencies(interpreter, needed)


def _segments(data: bytes, wide: bool) -> list[_Segment]:
    if wide:
        (start,) = struct.unpack_from("<Q", data, 0x20)
        size, count = struct.unpack_from("<HH", data, 0x36)
    else:
        (start,) = struct.unpack_from("<I", data, 0x1C)
        size, count = struct.unpack_from("<HH", data, 0x2A)
    found = []
    for number in range(count):
        at = start + number * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        else:
            kind, offset, address, _, length = struct.unpack_from("<IIIII", data, at)
        found.append(_Segment(kind, offset, address, length))
    return found


def _file_offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == _PT_LOAD and 0 <= address - segment.address < segment.size:
            return segment.offset + address - segment.address
    raise ValueError("its string table is in no segment")


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
