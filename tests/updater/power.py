"""Power cuts for tests: the program stops before one durable step, unsynced data is lost.

Durable steps are the system calls that order what is on the medium: fsync,
rename, unlink. Everything the updater and recovery make durable passes
through them, so counting them here covers every wrapper above.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

_TEMPORARY = re.compile(r"\.([a-zA-Z0-9+._-]+?)\.[0-9a-z_]+\.tmp")


class PowerCut(BaseException):
    """Not an Exception: no handler for errors runs when the power goes."""


class Power:
    """Goes away before the durable step `cut_at`; None: never, steps are only noted.

    A step is named by what it does, with the number of its repetition:
    "rename state.json #1".

    lossy: files that were written to and not flushed go back to their content
    at their last flush.
    """

    def __init__(self, cut_at: str | None, lossy: tuple[Path, ...] = ()) -> None:
        """lossy: the files that lose what was not flushed."""
        self.cut_at = cut_at
        self.steps: list[str] = []
        self.gone = False
        self._lossy = lossy
        for path in lossy:
            self._keep(path)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Puts itself between the program and the system calls."""
        fsync, rename, unlink = os.fsync, Path.rename, Path.unlink

        def cut_fsync(fd: int) -> None:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            self._step(f"fsync {path.name}")
            fsync(fd)
            if path in self._lossy:
                self._keep(path)

        def cut_rename(path: Path, target: Path) -> Path:
            self._step(f"rename {target.name}")
            return rename(path, target)

        def cut_unlink(path: Path, missing_ok: bool = False) -> None:
            self._step(f"unlink {path.name}")
            unlink(path, missing_ok)

        patch.setattr(os, "fsync", cut_fsync)
        patch.setattr(Path, "rename", cut_rename)
        patch.setattr(Path, "unlink", cut_unlink)

    def lose_unsynced(self) -> None:
        """What the medium holds after the cut."""
        for path in self._lossy:
            kept = self._copy(path)
            if kept.exists() and path.exists():
                shutil.copyfile(kept, path)

    def _step(self, name: str) -> None:
        if self.gone:
            # Clean-up code that would not run without power either.
            raise PowerCut
        plain = _TEMPORARY.sub(r"\1.tmp", name)
        step = f"{plain} #{sum(known.startswith(f'{plain} #') for known in self.steps) + 1}"
        if step == self.cut_at:
            self.gone = True
            raise PowerCut
        self.steps.append(step)

    def _keep(self, path: Path) -> None:
        if path.exists():
            shutil.copyfile(path, self._copy(path))

    def _copy(self, path: Path) -> Path:
        # Outside the device's directory, whose files the tests compare.
        device = next(parent for parent in path.parents if parent.name.startswith("device"))
        return device.with_name(f"{device.name}-{path.name}-synced")
