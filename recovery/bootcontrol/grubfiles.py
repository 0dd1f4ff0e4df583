"""The file system around GRUB's record and the start record, so that GRUB can write them.

GRUB 2.12 reads any sector (`load_env --file (hd0,gpt2)0+1`), but writes only into files
of a file system: `save_env` learns from it which sectors a file has, and lists of
sectors do not tell. The smallest file system that leaves the record's sectors where
they belong is ISO 9660: it begins at byte 32768, and a file may lie anywhere::

    0       copy 0 of the record, the file COPY0
    32768   primary volume descriptor, terminator, root directory, two path tables
    65536   copy 1 of the record, the file COPY1
    524288  the start record (recovery/starts.py), the file COPY2

Written at the factory, and again only when it is damaged: until then GRUB still reads
the record but counts no tries, and its script starts a good slot.

Format: ECMA-119, sections 6.8, 6.9, 8.3, 8.4 and 9.1.
"""

from __future__ import annotations

import struct

from recovery import starts
from recovery.bootcontrol.copies import OFFSETS
from recovery.bootcontrol.grubenv import SIZE

BLOCK = 2048
# In blocks.
_DESCRIPTOR, _TERMINATOR, _ROOT, _TABLE_LITTLE, _TABLE_BIG = range(16, 21)
# In bytes: where it begins.
START = _DESCRIPTOR * BLOCK
_DIRECTORY = 2
# 1980-01-01: years since 1900, month, day, hour, minute, second, zone.
_RECORDED = bytes((80, 1, 1, 0, 0, 0, 0))
_NO_DATE = b"0" * 16 + b"\0"


def file_system() -> bytes:
    """The bytes at START: everything but the files' content. Always the same."""
    places = (*OFFSETS, starts.OFFSET)
    blocks = max(places) // BLOCK + 1
    little, big = (struct.pack(f"{order}BBIHBx", 1, 0, _ROOT, 1, 0) for order in "<>")
    files = b"".join(
        _entry(b"COPY%d.;1" % number, offset // BLOCK, SIZE) for number, offset in enumerate(places)
    )
    itself, parent = (_entry(name, _ROOT, BLOCK, _DIRECTORY) for name in (b"\0", b"\1"))
    contents = (
        _primary_descriptor(blocks, len(little)),
        b"\xffCD001\x01",
        itself + parent + files,
        little,
        big,
    )
    return b"".join(content.ljust(BLOCK, b"\0") for content in contents)


def _primary_descriptor(blocks: int, path_table: int) -> bytes:
    return b"".join(
        (
            b"\x01CD001\x01\0",
            b" " * 32 + b"ORBITAL".ljust(32) + bytes(8),
            _both32(blocks) + bytes(32),
            # Volumes of the set, number in it.
            _both16(1) + _both16(1) + _both16(BLOCK),
            _both32(path_table),
            struct.pack("<II", _TABLE_LITTLE, 0) + struct.pack(">II", _TABLE_BIG, 0),
            _entry(b"\0", _ROOT, BLOCK, _DIRECTORY),
            # Four names of 128 bytes, three of 37; four dates; version of the structure.
            b" " * (4 * 128 + 3 * 37) + _NO_DATE * 4 + b"\1",
        )
    )


def _entry(name: bytes, block: int, size: int, flags: int = 0) -> bytes:
    """A directory record; its length is even."""
    rest = _both32(block) + _both32(size) + _RECORDED + bytes((flags, 0, 0)) + _both16(1)
    record = b"\0" + rest + bytes((len(name),)) + name
    record += bytes((len(record) + 1) % 2)
    return bytes((len(record) + 1,)) + record


def _both16(number: int) -> bytes:
    return struct.pack("<H", number) + struct.pack(">H", number)


def _both32(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)
