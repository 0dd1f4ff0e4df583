"""Codec 0, store: the coded bytes are one section. For what resembles nothing in the base."""

from __future__ import annotations

from collections.abc import Iterator

from delta.codecs.interface import References
from delta.errors import DeltaError
from delta.sections import Data, pieces, read_section
from delta.varint import Reader


def decode(payload: Reader, references: References, size: int) -> Iterator[Data]:
    """See delta.codecs.interface."""
    del references
    section = read_section(payload, size, "coded bytes")
    payload.end()
    if section.size != size:
        raise DeltaError(f"expected {size} coded bytes, found {section.size}")
    content = section.open()
    yield from pieces(content, size)
    content.end()
