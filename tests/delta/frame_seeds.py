"""Small frames of every codec, with and without rewriting: seeds of the target delta-frame."""

from __future__ import annotations

import random
from collections.abc import Iterator

from delta.frame import apply
from delta.varint import write
from evidence.fuzz.documents import BASE, Base
from imager.delta.difference import differences
from imager.delta.frame import Copy, Reference, encode
from imager.delta.sections import Effort, section, zstd_section
from tests.delta.frames import edited


def frames() -> Iterator[bytes]:
    """Inputs of the target: the size of the frame (two bytes, little endian), its payload."""
    chance = random.Random(1)
    found = []
    for level in (1, 19):
        for edits in (1, 4, 9):
            new = edited(BASE[5000:9000], edits, chance)
            references = [Reference(4000, 6000), Reference(12000, 3000)]
            found.append((len(new), encode(new, Base(), [], references, level=level)))
            copied = BASE[:700] + new + BASE[900:2000]
            copies = [Copy(0, 0, 700), Copy(700 + len(new), 900, 1100)]
            payload = encode(copied, Base(), copies, references, level=level)
            found.append((len(copied), payload))
    new = edited(BASE[:3000], 3, chance)
    # A head without copies and with the first 4096 bytes as reference.
    head = bytes([6, 0, 0, 1, 128, 32, 0, 0, 0])
    parts = differences(new, BASE[:4096], Effort(19))
    parts[0] = section(new, Effort(19), code=True)
    parts[1] = zstd_section(new, BASE[:4096], Effort(19))
    found.extend((len(new), bytes([1, codec]) + head + data) for codec, data in parts.items())
    # Codec 4: one old and one new part, both open, around the last of these.
    numbers = (0, 0, 0, 0, 1, 4096, 4096 << 1, 1, len(new), len(new) << 1)
    tables = section(b"".join(map(write, numbers)), Effort(19))
    found.append((len(new), bytes([1, 4]) + head + tables + found[-1][1]))
    for size, payload in found:
        apply(payload, Base(), memoryview(bytearray(size)))
        yield size.to_bytes(2, "little") + payload
