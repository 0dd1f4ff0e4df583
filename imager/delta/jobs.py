"""What a worker of a delta does: learns how an executable changed, or encodes a frame.

A worker maps both streams once (`open_streams`) and gets small tasks that name ranges of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imager.delta import executables, frame
from imager.delta.frame import Reference
from imager.delta.plan import FramePlan
from imager.delta.streams import CodePair, Streams

# What a byte that is only copied costs beside one that is encoded.
_COPYING = 1000


class Job(Protocol):
    """A task. cost: how long it takes, in units that are the same for all of one kind."""

    @property
    def cost(self) -> int:
        """Relative cost."""


@dataclass(frozen=True)
class LearnJob:
    """windows: (position in the old file, size) of the references to rewrite."""

    pair: CodePair
    windows: tuple[tuple[int, int], ...]

    @property
    def cost(self) -> int:
        """Grows with both files."""
        return self.pair.old.size + self.pair.new.size


@dataclass(frozen=True)
class EncodeJob:
    """rewrites: of each reference of the frame, None where it is used as it is."""

    plan: FramePlan
    rewrites: tuple[bytes | None, ...]
    level: int

    @property
    def cost(self) -> int:
        """Grows with what is not copied."""
        return self.plan.coded + self.plan.size // _COPYING + 1


class Mapped:
    """A stream as the codec reads its base."""

    def __init__(self, stream: memoryview) -> None:
        self._stream = stream
        self.size = len(stream)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there."""
        return bytes(self._stream[offset : offset + size])


_streams: list[Streams] = []
_until_exit = ExitStack()


def open_streams(old: Path, old_size: int, new: Path, new_size: int) -> None:
    """Maps the streams for all tasks of this process, until it ends."""
    _streams.append(_until_exit.enter_context(Streams.open(old, old_size, new, new_size)))


@contextmanager
def opened(old: Path, old_size: int, new: Path, new_size: int) -> Iterator[None]:
    """Maps the streams for tasks of this process."""
    with Streams.open(old, old_size, new, new_size) as streams:
        _streams.append(streams)
        try:
            yield
        finally:
            _streams.remove(streams)


def learn(task: LearnJob) -> list[bytes | None]:
    """For each window, how its code is rewritten; None where that does not help."""
    streams = _streams[-1]
    streams.forget()
    learned = executables.learn(
        task.pair.old.content(streams.old),
        task.pair.new.content(streams.new),
        windows=task.windows,
    )
    if learned is None:
        return [None] * len(task.windows)
    return [learned.encoded(start, size) for start, size in task.windows]


def encode(task: EncodeJob) -> bytes:
    """The payload of a frame."""
    streams = _streams[-1]
    streams.forget()
    planned = task.plan
    references = [
        Reference(wanted.span.offset, wanted.span.size, rewrite, wanted.start)
        for wanted, rewrite in zip(planned.references, task.rewrites, strict=True)
    ]
    return frame.encode(
        bytes(streams.new[planned.offset : planned.offset + planned.size]),
        Mapped(streams.old),
        planned.copies,
        references,
        level=task.level,
        inodes=planned.inodes,
    )
