"""Where addresses moved: a function that is constant over pieces of the old program's addresses."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Moves:
    """starts: first address of each piece, ascending, the first is low. shifts: new address less
    old address, in the piece. high: end of the last piece; other addresses are not the program's.
    """

    low: int
    high: int
    starts: array[int]
    shifts: array[int]

    def shift(self, address: int) -> int:
        """How far an address from low to below high moved."""
        return self.shifts[bisect_right(self.starts, address) - 1]

    def piece(self, address: int) -> tuple[int, int, int]:
        """First address, end and shift of the piece in which an address lies."""
        index = bisect_right(self.starts, address)
        end = self.starts[index] if index < len(self.starts) else self.high
        return self.starts[index - 1], end, self.shifts[index - 1]
