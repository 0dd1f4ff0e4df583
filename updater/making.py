"""Making runs from the running image: with a delta's payloads, and by slices what these leave.

Whichever way is planned, the other is the next choice before a full fetch. Slices that nobody
planned are looked for when a payload fails for the first time: that costs their map, and
reading the running image once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from delta.frame import Base
from recovery.errors import OrbitalError
from updater.gather import Gather
from updater.ledger import Ledger
from updater.patches import Patches
from updater.runs import Piece, Run, Way
from updater.source import Source

Look = Callable[[], tuple[Way, int]]
"""Fetches the slice map and looks into the running image; the way, and bytes fetched."""


class Making:
    """All of one update that comes from the running image (`updater.transfer.Maker`).

    fetched: bytes for it. wasted: those that were of no use. made: bytes that came from the
    running image. notes: what failed and why, for people.
    """

    def __init__(
        self,
        source: Source,
        way: Way,
        full_size: int,
        *,
        look: Look | None = None,
        map_size: int = 0,
    ) -> None:
        """full_size: bytes in full. look: what finds slices when a payload fails; may raise.

        map_size: bytes of the slices' map that were fetched before.
        """
        runs = (*way.root, *way.boot)
        self._ledger = Ledger(full_size)
        self._ledger.look_up(map_size)
        self._patches = Patches(source, runs, self._ledger)
        self._gather = Gather(source, self._ledger)
        self._look = look
        self._slices = _by_segment(way)
        self._lock = threading.Lock()
        self._notes: list[str] = []

    @property
    def fetched(self) -> int:
        """See the class."""
        return self._ledger.fetched

    @property
    def wasted(self) -> int:
        """See the class."""
        return self._ledger.wasted

    @property
    def made(self) -> int:
        """See the class."""
        return self._patches.made + self._gather.made

    @property
    def notes(self) -> tuple[str, ...]:
        """See the class."""
        return (*self._patches.notes, *self._notes, *self._gather.notes)

    def make(
        self, run: Run, missing: Sequence[Piece], base: Base, into: memoryview
    ) -> Sequence[Piece]:
        """Fills into with the missing pieces of the run; those that have to be fetched in full."""
        if run.payload is not None:
            instead = sum(piece.segment.stored_size for piece in missing)
            # What is left of the run may be cheaper to fetch.
            if run.cost >= instead:
                self._patches.skip(run)
                return missing
            if self._patches.make(run, base, into, instead):
                return ()
        if run.slices and not missing:
            self._ledger.add(kept=run.full_size - run.cost)
        slices = self._known_slices(needed=run.payload is not None)
        left = []
        for piece in missing:
            sliced = slices.get(piece.segment.stored_sha256)
            start = piece.offset - run.offset
            place = into[start : start + piece.segment.size]
            if sliced is None or not self._gather.make(sliced, base, place):
                left.append(piece)
        return left

    def _known_slices(self, *, needed: bool) -> Mapping[str, Run]:
        """Runs with slices, by the digest of their stored segment."""
        with self._lock:
            if needed and self._look is not None:
                look, self._look = self._look, None
                try:
                    way, size = look()
                except (OrbitalError, OSError) as error:
                    brief = error.brief if isinstance(error, OrbitalError) else str(error)
                    self._notes.append(f"{brief}: what the delta cannot make is fetched in full")
                else:
                    self._ledger.look_up(size)
                    self._slices = _by_segment(way)
            return self._slices


def _by_segment(way: Way) -> dict[str, Run]:
    return {
        run.pieces[0].segment.stored_sha256: run for run in (*way.root, *way.boot) if run.slices
    }
