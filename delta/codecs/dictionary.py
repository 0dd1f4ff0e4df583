"""Codec 1, dictionary: one zstd frame that may repeat any part of the references.

For what was moved and mixed in small parts, which codec 2 cannot follow.
"""

from __future__ import annotations

from collections.abc import Iterator

from delta.codecs.interface import References
from delta.errors import DeltaError
from delta.sections import Data, pieces, read_section
from delta.varint import Reader


def decode(payload: Reader, references: References, size: int) -> Iterator[Data]:
    """See delta.codecs.interface."""
    section = read_section(payload, size, "coded bytes")
    payload.end()
    if section.size != size:
        raise DeltaError(f"expected {size} coded bytes, found {section.size}")
    content = section.open_with(references())
    yield from pieces(content, size)
    content.end()
