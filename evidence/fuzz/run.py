"""Runs a target on inputs: each within its time and memory, raising only what it may."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from evidence.fuzz.mutate import mutate
from evidence.fuzz.target import Target

_MIB = 1 << 20
_TIMERS = (signal.SIGPROF, signal.SIGALRM)


class TooSlowError(BaseException):
    """An input took longer than it may; no reader catches it."""


@dataclass
class Found:
    """What a run came to. failures: input and what it raised."""

    executions: int = 0
    refused: int = 0
    failures: list[tuple[bytes, str]] = field(default_factory=list)


def judge(target: Target, data: bytes) -> str:
    """Reads one input: "" when it was read, "refused", or what it raised that it must not."""
    _bound(target.seconds)
    try:
        target.run(data)
    except target.allowed:
        return "refused"
    except TooSlowError:
        return f"took longer than {target.seconds} s"
    except Exception as error:
        return f"{type(error).__module__}.{type(error).__qualname__}: {str(error)[:200]!r}"
    finally:
        _bound(0)
    return ""


@contextlib.contextmanager
def limits(target: Target, *, memory: bool = True) -> Iterator[None]:
    """Makes an input that takes too long an error; with memory, bounds what this process has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (now + target.memory * _MIB, hard))
    before = [signal.signal(number, _too_slow) for number in _TIMERS]
    try:
        yield
    finally:
        for number, handler in zip(_TIMERS, before, strict=True):
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_inputs(target: Target, inputs: Iterable[bytes]) -> Found:
    """Reads every input."""
    found = Found()
    # What is imported and made once does not count against the first input.
    judge_quietly(target)
    with limits(target):
        for data in inputs:
            outcome = judge(target, data)
            found.executions += 1
            found.refused += outcome == "refused"
            if outcome not in ("", "refused"):
                found.failures.append((data, outcome))
                if len(found.failures) >= 20:
                    break
    return found


def judge_quietly(target: Target) -> None:
    """Reads the kept inputs once without limits."""
    for data in target.seeds():
        with contextlib.suppress(Exception):
            target.run(data)


def mutations(target: Target, seed: int, *, seconds: float, most: int) -> Iterator[bytes]:
    """Changed inputs until the time is over, or so many were made; the same for the same seed."""
    chance = random.Random(f"{target.name} {seed}")
    inputs = target.seeds()
    end = time.monotonic() + seconds
    for _ in range(most):
        if time.monotonic() > end:
            return
        data = mutate(target.form, chance.choice(inputs), inputs, chance)
        if chance.random() < 0.3:
            data = mutate(target.form, data, inputs, chance)
        yield data[: target.longest]


def _bound(seconds: float) -> None:
    """From now on, so many seconds of work, and ten times as many of waiting; 0: without end."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * 10)


def _too_slow(_number: int, _frame: object) -> None:
    raise TooSlowError
