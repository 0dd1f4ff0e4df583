"""What every codec is: a function from the rest of a payload to the coded bytes of a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from delta.sections import Data
from delta.varint import Reader

# Reads the references from the base, rewritten, one after the other. Costs up to 16 MiB of
# memory and as much input, so a codec calls it once, if at all, and lets go of the result early.
References = Callable[[], bytearray]


class Decode(Protocol):
    """A codec. Yields exactly size bytes in pieces, each valid until the next; checks every number
    before it takes memory for it. Raises DeltaError, and OSError from the base."""

    def __call__(self, payload: Reader, references: References, size: int) -> Iterator[Data]: ...
