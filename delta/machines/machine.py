"""What a machine's code is to the rewriting: references found in it, and changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Machine(Protocol):
    """One kind of code. Its methods never raise for garbage: any bytes are code.

    page: a reference between two places that moved together stays as it is if they moved by a
    multiple of this.
    """

    page: int

    def find(
        self, data: bytearray, start: int, end: int, bias: int, low: int, high: int
    ) -> Iterator[tuple[int, int, int]]:
        """(position, target, form) of the references in data[start:end] to low <= target < high.

        The address of data[n] is n + bias. The one who asks may change a reference before
        asking for the next: none is read after it was given out. The form is the machine's own.
        """
        ...

    def change(
        self, data: bytearray, position: int, form: int, here: int, target: int, old_here: int
    ) -> None:
        """Makes the reference at position, then at the address here, refer to target.

        old_here: its address before. What does not fit stays as it is.
        """
        ...
