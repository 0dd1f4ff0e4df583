"""The maintenance window: when unattended updates may be installed. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time

from recovery.errors import ManifestError

_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


@dataclass(frozen=True)
class Window:
    """A daily span of local time, start included and end not; may pass midnight.

    start equal to end means the whole day. The wall clock decides, so in the
    night of a clock change the span can be an hour shorter or longer.
    """

    start: time
    end: time

    def contains(self, moment: datetime) -> bool:
        """Whether the local moment lies inside."""
        now = moment.time()
        if self.start == self.end:
            return True
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def __str__(self) -> str:
        """As people write it: "22:00-04:00"."""
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


def parse(start: str, end: str) -> Window | None:
    """The window from "HH:MM" texts; None when both are empty: any time.

    Raises ManifestError when one is missing or not a time of day.
    """
    if not start and not end:
        return None
    for text in (start, end):
        if not _TIME.fullmatch(text):
            raise ManifestError(
                f"cannot use the maintenance window {start!r} to {end!r}",
                details=f"{text!r} is not a time of day",
                resolution='write both as "HH:MM" in local time, or leave both out',
            )
    return Window(time.fromisoformat(start), time.fromisoformat(end))
