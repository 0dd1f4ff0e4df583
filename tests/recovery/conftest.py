"""Tests of recovery make thousands of small writes: no use waiting for a real disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recovery.loaders import MEMORY


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are made between operations (`powercut`), so syncing proves nothing here."""

    def sync_nothing(fd: int) -> None:
        os.fstat(fd)

    monkeypatch.setattr(os, "fsync", sync_nothing)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory for many small devices; writes with O_DSYNC wait for nothing there."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)
