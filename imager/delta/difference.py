"""Making payloads of codecs 2 and 3, difference and sparse: see delta.codecs.

The matches are those of bsdiff4 (suffix sorting, then matches extended over
bytes that differ), in C. Its file format is not used.
"""

from __future__ import annotations

import re
import struct

from bsdiff4 import core  # type: ignore[import-untyped]

from delta.codecs.sparse import CHANGES_LIMIT, GAPS_LIMIT
from delta.codecs.steps import STEPS_LIMIT
from delta.frame import DIFFERENCE, SPARSE
from delta.varint import write, write_signed
from imager.delta.sections import BYTES, Effort, section

# bsdiff's integers: 63 bits and a sign.
_SIGN = 1 << 63


def differences(coded: bytes, references: bytes, effort: Effort) -> dict[int, bytes]:
    """By codec, the part of a payload after its head. None of them if that takes too many steps."""
    control, added, inserted = core.diff(references, coded)
    steps = _steps(control, len(references))
    if len(steps) > STEPS_LIMIT:
        return {}
    first = section(steps, effort, BYTES)
    last = section(inserted, effort, code=True)
    found = {DIFFERENCE: first + section(added, effort, BYTES) + last}
    gaps, changes = sparse(added)
    if len(gaps) <= GAPS_LIMIT and len(changes) <= CHANGES_LIMIT:
        middle = section(gaps, effort, BYTES) + section(changes, effort, BYTES)
        found[SPARSE] = first + middle + last
    return found


def sparse(added: bytes) -> tuple[bytes, bytes]:
    """The bytes that are not zero: for each how many zeros are before it, and the byte."""
    gaps = bytearray()
    end = 0
    for run in re.finditer(rb"[^\0]+", added):
        gaps += write(run.start() - end)
        gaps += bytes(run.end() - run.start() - 1)
        end = run.end()
    return bytes(gaps), added.replace(b"\0", b"")


def _steps(control: bytes, size: int) -> bytes:
    """bsdiff's control triples as columns of numbers."""
    takes, inserts, seeks = [], [], []
    at = 0
    for take, insert, seek in _triples(control):
        takes.append(write(take))
        inserts.append(write(insert))
        at += take + seek
        # The last one leads nowhere, maybe out of the references.
        inside = min(max(at, 0), size)
        seeks.append(write_signed(seek + inside - at))
        at = inside
    columns = [b"".join(column) for column in (takes, inserts, seeks)]
    return write(len(columns[0])) + write(len(columns[1])) + b"".join(columns)


def _triples(control: bytes) -> list[tuple[int, int, int]]:
    return [
        (_signed(take), _signed(insert), _signed(seek))
        for take, insert, seek in struct.iter_unpack("<3Q", control)
    ]


def _signed(number: int) -> int:
    return number if number < _SIGN else _SIGN - number
