"""What a machine's code is to the rewriting: references found in it, and changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Part:
    """data[start:end] of some data; the address of data[n] is n + bias."""

    start: int
    end: int
    bias: int


class Machine(Protocol):
    """One kind of code. Its methods never raise for garbage: any bytes are code.

    page: a reference between two places that moved together stays as it is if they moved by a
    multiple of this.
    """

    page: int

    def find(
        self, data: bytearray, part: Part, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """(position, target, form) of the references in a part of data to low <= target < high.

        The one who asks may change a reference before
        asking for the next: none is read after it was given out. The form is the machine's own.
        """
        ...

    def change(self, data: bytearray, position: int, form: int, here: int, target: int) -> None:
        """Makes the reference at position, then at the address here, refer to target.

        What does not fit stays as it is.
        """
        ...
