"""Tests of recovery make thousands of small writes: no use waiting for a real disk."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are made between operations (`powercut`), so syncing proves nothing here."""

    def sync_nothing(fd: int) -> None:
        os.fstat(fd)

    monkeypatch.setattr(os, "fsync", sync_nothing)
    monkeypatch.setattr(os, "sync", lambda: None)
