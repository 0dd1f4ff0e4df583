"""What is measured of each method, and the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recovery import process
from recovery.errors import ToolError


@dataclass(frozen=True)
class Cost:
    """Of a program and all it started: processor seconds (user and system), wall seconds, and
    the resident set of the largest process in bytes, mapped files included."""

    cpu: float
    wall: float
    peak: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall, max(self.peak, other.peak))


@dataclass(frozen=True)
class Result:
    """One method on one pair. size: bytes to fetch, all that it takes. requests: files or ranges
    that are asked for. note: what a reader has to know."""

    method: str
    size: int
    requests: int
    make: Cost | None = None
    apply: Cost | None = None
    note: str = ""

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def row(self) -> str:
        """One line of the table."""
        return (
            f"{self.method:<29} {self.size / 1e6:9.3f} MB {self.requests:6} requests"
            f"  make {_cost(self.make)}  apply {_cost(self.apply)}  {self.note}"
        ).rstrip()


@dataclass(frozen=True)
class Skipped:
    """A method that could not be measured, and why."""

    method: str
    reason: str

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def row(self) -> str:
        """One line of the table."""
        return f"{self.method:<29} skipped: {self.reason}"


# A process starts with the peak of the one that started it, so that must be a small one.
_LAUNCHER = """
import os, signal, sys, time
start = time.monotonic()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
_, status, usage = os.wait4(child, 0)
wall = time.monotonic() - start
code = os.waitstatus_to_exitcode(status)
print()
print(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)
sys.exit(code if code >= 0 else 128 - code)
"""


def measured(command: Sequence[str | Path], *, patience: float | None = None) -> Cost:
    """Runs the command to its end.

    patience: seconds after which it is ended. Raises ToolError when it fails, is missing, or
    takes longer.
    """
    done = process.run(
        [sys.executable, "-SEc", _LAUNCHER, str(patience or 0), *command], check=False
    )
    # What the program itself printed comes before our line.
    text = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not text:
        raise ToolError(
            f"cannot complete {command[0]}: exit code {done.returncode}",
            details=f"{' '.join(map(str, command))}\n{done.stderr[-500:]}",
        )
    cpu, wall, peak = text.split()
    return Cost(float(cpu), float(wall), int(peak))


def timed(work: Callable[[], object]) -> Cost:
    """Cost of work in this process, of which the peak is not known."""
    cpu, wall = time.process_time(), time.monotonic()
    work()
    return Cost(time.process_time() - cpu, time.monotonic() - wall, 0)


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return f"{'':>8} {'':>8}"
    peak = f"{cost.peak >> 20} MiB" if cost.peak else ""
    return f"{cost.cpu:6.1f} s {peak:>8}"
