"""Timing of pairs and the table every benchmark prints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Ours beside a floor or a peer, measured alternately in one run.

    ours, floor: seconds of each pair. The ratio is the median of the pairs'
    ratios: a noisy neighbour hits both halves of a pair.
    aim: the largest ratio that meets the aim, None when there is none.
    """

    name: str
    ours: tuple[float, ...]
    floor: tuple[float, ...]
    aim: float | None = None

    @property
    def ratio(self) -> float:
        """Median of ours / floor over the pairs."""
        pairs = zip(self.ours, self.floor, strict=True)
        return statistics.median(ours / floor for ours, floor in pairs)

    def row(self) -> str:
        """One line of the table."""
        aim = "" if self.aim is None else f"aim ≤ {self.aim:.2f}"
        met = "" if self.aim is None else ("met" if self.ratio <= self.aim else "MISSED")
        return (
            f"{self.name:<44} {statistics.median(self.ours):8.2f} s "
            f"{statistics.median(self.floor):8.2f} s  ratio {self.ratio:5.2f}  {aim} {met}"
        ).rstrip()

    def document(self) -> dict[str, object]:
        """The same for --json."""
        return {
            "name": self.name,
            "ours_seconds": list(self.ours),
            "floor_seconds": list(self.floor),
            "ratio": round(self.ratio, 3),
            "aim": self.aim,
        }


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str,
    ours: Callable[[], object],
    floor: Callable[[], object],
    *,
    pairs: int,
    aim: float | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> Comparison:
    """Runs ours and floor alternately, prepare (untimed) before each."""
    ours_seconds: list[float] = []
    floor_seconds: list[float] = []
    for index in range(pairs):
        # Alternate who goes first, so that a warming cache favours neither.
        order: Sequence[tuple[Callable[[], object], list[float]]] = [
            (floor, floor_seconds),
            (ours, ours_seconds),
        ]
        for work, into in order if index % 2 == 0 else reversed(order):
            prepare()
            into.append(seconds(work))
    return Comparison(name, tuple(ours_seconds), tuple(floor_seconds), aim)
