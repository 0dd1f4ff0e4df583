"""Codec 2, difference: the references with bytes added to them, and bytes inserted between.

For new versions of a file: most bytes are the old ones, and where addresses in
code have moved, the added bytes repeat themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from delta.codecs.interface import References
from delta.codecs.steps import STEPS_LIMIT, follow
from delta.errors import DeltaError
from delta.sections import Data, read_section
from delta.varint import Reader


def decode(payload: Reader, references: References, size: int) -> Iterator[Data]:
    """See delta.codecs.interface."""
    steps = read_section(payload, STEPS_LIMIT, "steps")
    added = read_section(payload, size, "added bytes")
    inserted = read_section(payload, size, "inserted bytes")
    payload.end()
    if added.size + inserted.size != size:
        raise DeltaError(f"expected {size} bytes, found {added.size} + {inserted.size}")
    yield from follow(steps.whole(), memoryview(references()), added.open(), inserted.open())
