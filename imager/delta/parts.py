"""Payloads laid one after the other into parts: files of a size that no server minds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from imager.delta.stream import Frame
from manifests import delta

SMALLEST = 16 << 10
LARGEST = 1 << 20
# A device spends at most 2 % of a full download on parts that turn out to be of no use:
# two may be damaged before it stops trying.
SHARE = 100


@dataclass
class Packer:
    """Collects payloads. size: bytes that a part should not exceed."""

    size: int
    parts: list[bytes] = field(default_factory=list)

    def add(self, frames: Sequence[Frame]) -> tuple[delta.Frame, ...]:
        """Where the payloads of one stream are. A payload that alone is longer than any part
        may be is left out: its segments are fetched in full."""
        return tuple(self._place(frame) for frame in frames)

    def _place(self, frame: Frame) -> delta.Frame:
        size = len(frame.payload)
        if not 0 < size <= delta.LARGEST_PART:
            return delta.Frame(frame.pieces)
        if not self.parts or len(self.parts[-1]) + size > self.size:
            self.parts.append(b"")
        offset = len(self.parts[-1])
        self.parts[-1] += frame.payload
        return delta.Frame(frame.pieces, len(self.parts) - 1, offset, size)


def part_size(full_size: int, smallest: int = SMALLEST) -> int:
    """What a part should not exceed, for an image of full_size bytes to fetch in full.

    smallest: bytes below which more parts are not worth their requests.
    """
    return min(max(full_size // SHARE, smallest), LARGEST)
