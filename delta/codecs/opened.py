"""Codec 4, opened: what is compressed in the image is made in its opened form, then closed.

The references are the old clusters as they lie. Opened, they are the base of a payload
inside this one, which makes the opened new clusters; these are compressed again. So a change
of a few bytes in a file costs a few bytes, not all of the file that comes after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from delta.clusters import (
    CLOSED_LIMIT,
    HIGHEST_LEVEL,
    LARGEST_WINDOW_LOG,
    LIBRARY,
    OPENED_LIMIT,
    SMALLEST_WINDOW_LOG,
    Opened,
    Part,
    Settings,
    closer,
)
from delta.codecs.interface import References
from delta.codecs.plain import PLAIN
from delta.decode import FRAME_LIMIT
from delta.decode import decode as decode_inside
from delta.errors import DeltaError
from delta.head import REFERENCES_LIMIT
from delta.sections import PIECE, Data, read_section
from delta.varint import Reader

TABLES_LIMIT = 1 << 20
PARTS = 1 << 14


def decode(payload: Reader, references: References, size: int) -> Iterator[Data]:
    """See delta.codecs.interface."""
    tables = Reader(memoryview(read_section(payload, TABLES_LIMIT, "clusters").whole()))
    library = tables.number(1 << 32, "a release of libzstd")
    if library not in (0, LIBRARY):
        raise DeltaError(f"expected libzstd {LIBRARY}, which is here, found {library}")
    settings = Settings(
        tables.number(HIGHEST_LEVEL, "a level"), tables.number(LARGEST_WINDOW_LOG, "a window")
    )
    if 0 < settings.window_log < SMALLEST_WINDOW_LOG:
        raise DeltaError(f"expected a window of 2^{SMALLEST_WINDOW_LOG} bytes or more")
    skip = tables.number(CLOSED_LIMIT, "bytes to skip")
    old = _parts(tables, REFERENCES_LIMIT, 4 * REFERENCES_LIMIT)
    new = _parts(tables, FRAME_LIMIT + 2 * CLOSED_LIMIT, FRAME_LIMIT)
    tables.end()
    if any(part.compressed for part in new) and not library:
        raise DeltaError("expected a release of libzstd, found none")
    inside = bytearray(sum(part.opened for part in new))
    decode_inside(payload, Opened(old, references), memoryview(inside), PLAIN)
    # What was opened is not needed any more, and closing takes memory of its own.
    yield from _closed(new, inside, settings, skip, size)


def _parts(tables: Reader, limit: int, limit_opened: int) -> list[Part]:
    """Parts with at most so many bytes as they lie, and opened."""
    count = tables.number(PARTS, "a number of parts")
    closed = [tables.number(limit, "a size of a part") for _ in range(count)]
    if sum(closed) > limit:
        raise DeltaError(f"expected parts of at most {limit} bytes together")
    parts = []
    opened = 0
    for size in closed:
        number = tables.number(2 * FRAME_LIMIT, "a size of what is in a part")
        part = Part(size, number >> 1, bool(number & 1))
        most = OPENED_LIMIT if part.compressed else size
        if part.opened > most or (part.compressed and size > CLOSED_LIMIT):
            raise DeltaError(f"expected at most {most} bytes in a part, found {part.opened}")
        opened += part.opened
        parts.append(part)
    if opened > limit_opened:
        raise DeltaError(f"expected at most {limit_opened} bytes in all parts, found {opened}")
    return parts


def _closed(
    parts: Sequence[Part], inside: bytearray, settings: Settings, skip: int, size: int
) -> Iterator[Data]:
    """The size bytes after the first skip bytes of the closed parts."""
    close = closer(settings)
    view = memoryview(inside)
    at = 0
    for part in parts:
        opened = view[at : at + part.opened]
        at += part.opened
        pieces = (
            iter([close(bytes(opened), part.closed)])
            if part.compressed
            else _as_it_is(opened, part)
        )
        for piece in pieces:
            data = memoryview(piece)[skip:]
            skip -= min(skip, len(piece))
            data = data[:size]
            size -= len(data)
            if data:
                yield data


def _as_it_is(opened: memoryview, part: Part) -> Iterator[Data]:
    yield opened
    left = part.closed - part.opened
    while left:
        zeros = bytes(min(left, PIECE))
        yield zeros
        left -= len(zeros)
