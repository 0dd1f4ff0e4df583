"""What making an update out of the running image costs and saves, and what it may still risk."""

from __future__ import annotations

import threading

LIMIT = 0.02
"""What failed attempts may cost beyond a full download, as a share of it."""


class Ledger:
    """Bytes of one update. Usable from several threads.

    fetched: by all attempts, with what they look things up in. spared: that need not be fetched
    in full any more. wasted: fetched by attempts that failed. limit: see LIMIT.
    """

    def __init__(self, full_size: int) -> None:
        """full_size: bytes of the update in full."""
        self.limit = int(full_size * LIMIT)
        self.fetched = 0
        self.spared = 0
        self.wasted = 0
        self._looked_up = 0
        self._kept = 0
        self._lock = threading.Lock()

    def add(self, *, fetched: int = 0, spared: int = 0, wasted: int = 0, kept: int = 0) -> None:
        """Counts. kept: what an interrupted install has saved before."""
        with self._lock:
            self.fetched += fetched
            self.spared += spared
            self.wasted += wasted
            self._kept += kept

    def look_up(self, size: int) -> None:
        """Counts bytes that say where something is: of use only if an attempt succeeds."""
        with self._lock:
            self.fetched += size
            self._looked_up += size

    def allows(self, cost: int) -> bool:
        """Whether an attempt of that cost may be begun: if it fails, the whole must not be over
        a full download by more than the limit. What has been saved may be risked."""
        with self._lock:
            lost = min(self.wasted + self._looked_up, self.fetched - self.spared)
            # While nothing went wrong, what an interrupted install has saved as well.
            if not self.wasted:
                lost -= self._kept
            return lost + cost <= self.limit
