"""Power cuts: stops a program before its Nth durable operation, for every N.

A cut is an exception that nothing in the product catches. Operations are the
functions of `recovery.durable` that change what a restart would find; each
is atomic on the medium, so "before each" and "after the last" is every case,
except for a rename on FAT, which may also leave both names (`both_names`), and
for an overwrite, of which any part may have happened (`torn_bytes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recovery import durable


class PowerCut(BaseException):
    """The machine is off."""


class Operations:
    """Counts durable operations and cuts before operation `cut` (0 is the first)."""

    def __init__(self, cut: int | None, *, both_names: bool = False, torn_bytes: int = 0) -> None:
        self.cut = cut
        self.both_names = both_names
        self.torn_bytes = torn_bytes
        self.count = 0
        self.happened = False

    def overwrite(self, write: Callable[[int], None]) -> None:
        """A positioned write is about to happen; write(n) does its first n bytes."""
        if self.count == self.cut and self.torn_bytes:
            write(self.torn_bytes)
        self.step()

    def step(self, half_done: Callable[[], None] | None = None) -> None:
        """One durable operation is about to happen."""
        if self.count == self.cut:
            self.happened = True
            if self.both_names and half_done is not None:
                half_done()
            raise PowerCut
        self.count += 1


@contextmanager
def power_cut(
    monkeypatch: pytest.MonkeyPatch,
    cut: int | None,
    *,
    both_names: bool = False,
    torn_bytes: int = 0,
) -> Iterator[Operations]:
    """Runs the body on a machine that loses power before durable operation `cut`."""
    operations = Operations(cut, both_names=both_names, torn_bytes=torn_bytes)
    real_publish, real_rename = durable.publish_file, durable.rename
    real_remove, real_append = durable.remove_file, durable.append_line
    real_overwrite = durable.overwrite

    def publish(staged: Path, path: Path) -> None:
        operations.step(lambda: _copy(staged, path))
        real_publish(staged, path)

    def rename(source: Path, destination: Path) -> None:
        operations.step(lambda: _both(source, destination))
        real_rename(source, destination)

    def remove(path: Path) -> None:
        if path.exists():
            operations.step()
        real_remove(path)

    def append(path: Path, line: bytes) -> None:
        operations.step(lambda: _torn(path, line))
        real_append(path, line)

    def overwrite(path: Path, offset: int, data: bytes) -> None:
        operations.overwrite(lambda done: real_overwrite(path, offset, data[:done]))
        real_overwrite(path, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "overwrite", overwrite)
        patch.setattr(durable, "publish_file", publish)
        patch.setattr(durable, "rename", rename)
        patch.setattr(durable, "remove_file", remove)
        patch.setattr(durable, "append_line", append)
        try:
            yield operations
        except PowerCut:
            return


def _copy(staged: Path, path: Path) -> None:
    path.write_bytes(staged.read_bytes())


def _both(source: Path, destination: Path) -> None:
    if source.is_file():
        destination.write_bytes(source.read_bytes())


def _torn(path: Path, line: bytes) -> None:
    with path.open("ab") as out:
        out.write(line[: len(line) // 2])
