"""A moment by which something must have happened, passed along instead of a number of seconds.

Several steps that share one deadline cannot add up to more than it.
"""

from __future__ import annotations

import time


class Deadline:
    """A moment on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @classmethod
    def of(cls, value: Deadline | float) -> Deadline:
        """The deadline itself, or a new one so many seconds from now."""
        return value if isinstance(value, Deadline) else cls(value)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return self.remaining == 0.0

    def pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the moment."""
        time.sleep(min(seconds, self.remaining))

    def __repr__(self) -> str:
        return f"Deadline({self.seconds:g} s, {self.remaining:.1f} s left)"
