"""Files cut into clusters, and the payload of codec 4 that makes one out of another."""

from __future__ import annotations

import random
from dataclasses import dataclass

from delta.clusters import LIBRARY, OPENED_LIMIT, Part, Settings, closer
from delta.frame import OPENED, VERSION
from delta.head import Head, Range
from delta.varint import write
from imager.delta.frame import Reference, encode
from imager.delta.head import written
from imager.delta.sections import Effort, section
from tests.delta.frames import MemoryBase, content, edited

EFFORT = Effort(3)
LEVEL = Settings(9)
BLOCK = 4096


def closed(opened: bytes) -> bytes:
    """A cluster as large as it has to be."""
    size = len(closer(LEVEL)(opened, OPENED_LIMIT).lstrip(b"\0"))
    return closer(LEVEL)(opened, -(-size // BLOCK) * BLOCK)


@dataclass(frozen=True)
class File:
    """A file cut into clusters of the same opened size, some of which are not compressed."""

    content: bytes
    parts: tuple[Part, ...]
    image: bytes


def file(data: bytes, size: int) -> File:
    """The file in an image of its own."""
    parts, image = [], b""
    for number, at in enumerate(range(0, len(data), size)):
        opened = data[at : at + size]
        compressed = number % 3 != 2
        stored = closed(opened) if compressed else opened + bytes(-len(opened) % BLOCK)
        parts.append(Part(len(stored), len(opened), compressed))
        image += stored
    return File(data, tuple(parts), image)


def numbers(parts: tuple[Part, ...]) -> list[int]:
    """Parts as they stand in the tables."""
    opened = [part.opened << 1 | part.compressed for part in parts]
    return [len(parts), *(part.closed for part in parts), *opened]


def payload(
    old: File, new: File, *, skip: int = 0, library: int = LIBRARY, level: int = LEVEL.level
) -> bytes:
    """What makes the new image, without its first skip bytes, out of the old one."""
    tables = [library, level, 0, skip, *numbers(old.parts), *numbers(new.parts)]
    head = written(Head((), (Range(0, len(old.image)),), {}), EFFORT)
    references = [Reference(0, len(old.content))]
    inside = encode(new.content, MemoryBase(old.content), [], references, level=3)
    return bytes([VERSION, OPENED]) + head + section(b"".join(map(write, tables)), EFFORT) + inside


def pair(seed: int = 1, size: int = 60_000, cut: int = 7000) -> tuple[File, File]:
    """A file and the same with a few edits."""
    chance = random.Random(seed)
    old = b"".join(content(kind, size // 4, chance) for kind in ("text", "code", "zeros", "text"))
    return file(old, cut), file(edited(old, 5, chance), cut + 100)
