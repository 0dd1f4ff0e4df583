"""Power that goes away at a random durable operation, and counts what was written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock


class PowerCut(BaseException):
    """Not an Exception: no handler of errors runs without power."""


class Meter:
    """operations: flushes, renames, removals so far. written: bytes of writes and staged files.

    left: operations until the power goes; None while it stays.
    """

    def __init__(self) -> None:
        """Power is on."""
        self.operations = self.written = self.cuts = 0
        self.left: int | None = None
        self.gone = False

    def step(self) -> None:
        """One durable operation is about to happen."""
        if self.gone:
            raise PowerCut
        self.operations += 1
        if self.left is not None:
            if self.left == 0:
                self.gone = True
                self.cuts += 1
                raise PowerCut
            self.left -= 1

    @contextmanager
    def off_after(self, operations: int | None) -> Iterator[None]:
        """Runs the body with power for that many operations; a cut ends it quietly."""
        self.left, self.gone = operations, False
        try:
            yield
        except PowerCut:
            return
        finally:
            self.left, self.gone = None, False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stands between programs and the system calls that order what is on the medium."""
        fsync, rename, unlink = os.fsync, Path.rename, Path.unlink
        pwrite = os.pwrite

        def cut_fsync(fd: int) -> None:
            self.step()
            fsync(fd)

        def cut_rename(path: Path, target: Path) -> Path:
            self.step()
            if path.is_file():
                self.written += path.stat().st_size
            return rename(path, target)

        def cut_unlink(path: Path, missing_ok: bool = False) -> None:
            self.step()
            unlink(path, missing_ok)

        def counted_pwrite(fd: int, data: bytes, offset: int) -> int:
            if self.gone:
                raise PowerCut
            done = pwrite(fd, data, offset)
            self.written += done
            return done

        with (
            mock.patch.object(os, "fsync", cut_fsync),
            mock.patch.object(Path, "rename", cut_rename),
            mock.patch.object(Path, "unlink", cut_unlink),
            mock.patch.object(os, "pwrite", counted_pwrite),
        ):
            yield
