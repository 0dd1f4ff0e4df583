"""What is measured of one installation, and what follows from many: medians, ratios, verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

OURS = "Orbital"
OURS_QUICK = "Orbital, prefer time"
OURS_FULL = "Orbital, no delta"
RAUC_FULL = "RAUC full"
RAUC_ADAPTIVE = "RAUC adaptive"
ORBITAL = (OURS, OURS_QUICK, OURS_FULL)
PEERS = (RAUC_FULL, RAUC_ADAPTIVE)
METHODS = (*ORBITAL, *PEERS)
# What is judged: what a device does by itself, and with the policy that spares time.
JUDGED = (OURS, OURS_QUICK)
# Issue 5: at 2 Mbit/s, pair a; at every other speed never slower.
SLOW, SLOW_AIM, AIM = 2.0, 1 / 5, 1.0
_MEASURED = ("seconds", "cpu", "emulator", "memory", "down", "up", "written", "requests")


@dataclass(frozen=True)
class Run:
    """One installation. speed: of the link in Mbit/s. round: runs of one round are neighbours.

    seconds: from the start of the command to data that is flushed. cpu: seconds for which the
    guest's processor was busy, by its own clock. emulator: seconds of the host's processors that
    the emulator used, which other work on the host does not lengthen. memory: the most that its
    processes had in memory together. down, up: bytes on the link. written: bytes to all disks.
    requests: that the web server answered.
    """

    method: str
    speed: float
    round: int
    seconds: float
    cpu: float
    emulator: float
    memory: int
    down: int
    up: int
    written: int
    requests: int

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """Medians of a method at a speed. ratio: of the first method's seconds to this one's, the
    median over the rounds; None for the first method itself."""

    method: str
    speed: float
    seconds: float
    cpu: float
    emulator: float
    memory: float
    down: float
    up: float
    written: float
    requests: float
    ratio: float | None

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def row(self) -> str:
        """One line of the table."""
        ratio = "" if self.ratio is None else f"{self.ratio:6.2f}"
        return (
            f"{self.speed:5g} Mbit/s  {self.method:<18} {self.seconds:8.1f} s  {ratio:>6}"
            f"  {self.down / 1e6:8.2f} MB down  {self.up / 1e6:6.2f} MB up  {self.requests:5g} req"
            f"  cpu {self.cpu:6.1f} s  emulator {self.emulator:6.1f} s"
            f"  {self.memory / 1e6:5.0f} MB memory"
            f"  {self.written / 1e6:7.1f} MB written"
        )


@dataclass(frozen=True)
class Verdict:
    """Whether an aim is met. ratio: our seconds to theirs."""

    method: str
    speed: float
    peer: str
    ratio: float
    aim: float

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.ratio <= self.aim

    def row(self) -> str:
        """One line."""
        return (
            f"{self.speed:g} Mbit/s: {self.method}: {self.ratio:.2f} of the time of {self.peer}, "
            f"aim ≤ {self.aim:.2f}: {'met' if self.met else 'MISSED'}"
        )


def summaries(runs: Sequence[Run]) -> Iterator[Summary]:
    """By speed, then by method, each in the order in which it first came."""
    for speed in dict.fromkeys(run.speed for run in runs):
        here = [run for run in runs if run.speed == speed]
        for method in dict.fromkeys(sorted((run.method for run in here), key=_order)):
            mine = [run for run in here if run.method == method]

            def median(name: str, mine: Sequence[Run] = mine) -> float:
                return float(statistics.median(getattr(run, name) for run in mine))

            yield Summary(
                method=method,
                speed=speed,
                **{name: median(name) for name in _MEASURED},
                ratio=None if method == OURS else ratio(here, method),
            )


def ratio(runs: Sequence[Run], peer: str, method: str = OURS) -> float | None:
    """Median over the rounds of our seconds divided by the peer's; None without such rounds.

    A noisy neighbour hits the runs of one round alike.
    """
    ours = {run.round: run.seconds for run in runs if run.method == method}
    theirs = {run.round: run.seconds for run in runs if run.method == peer}
    both = [ours[number] / theirs[number] for number in ours if number in theirs]
    return statistics.median(both) if both else None


def verdicts(runs: Sequence[Run], pair: str) -> Iterator[Verdict]:
    """An aim for each speed and peer. pair: of images; the aim at 2 Mbit/s is for pair a."""
    for speed in dict.fromkeys(run.speed for run in runs):
        here = [run for run in runs if run.speed == speed]
        for method, peer in product(JUDGED, PEERS):
            found = ratio(here, peer, method)
            if found is not None:
                aim = SLOW_AIM if pair == "a" and speed == SLOW else AIM
                yield Verdict(method, speed, peer, found, aim)


def _order(method: str) -> int:
    return METHODS.index(method)
