"""The bytes of a boot artifact, read piece by piece, and the error for those that are wrong."""

from __future__ import annotations

import hashlib

from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 1 << 20


class DamageError(ValueError):
    """The artifact is not what was built. The text goes on after "its boot artifact"."""


class Checked(Value):
    """An artifact in which nothing is wrong.

    end: bytes of it; what lies behind in its partition is not of it. unchecked: why
    more than its form could not be checked; empty when its content was, too.
    """

    end: int
    unchecked: str = ""


class Artifact:
    """A partition's or file's content. read: size bytes at an offset, fewer at the end only."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Reads nothing yet. size: bytes."""
        self._read = read
        self.size = size

    @classmethod
    def of(cls, data: bytes) -> Artifact:
        """One in memory."""
        return cls(lambda offset, size: data[offset : offset + size], len(data))

    def take(self, offset: int, size: int) -> bytes:
        """Exactly these bytes. Raises DamageError where they are not all there, OSError."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise DamageError("is cut short")
        data = self._read(offset, size)
        if len(data) != size:
            raise DamageError("is cut short")
        return data

    def digest(self, *ranges: tuple[int, int], algorithm: str = "sha256") -> bytes:
        """Of the bytes from each offset to each end, one after the other. Raises as `take`."""
        found = hashlib.new(algorithm)
        for start, end in ranges:
            for at in range(start, end, _PIECE):
                found.update(self.take(at, min(_PIECE, end - at)))
        return found.digest()
