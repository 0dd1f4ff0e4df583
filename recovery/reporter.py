"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of long work. Implemented by the command line layer."""

    def stage(self, name: str) -> None:
        """A new stage of the work begins, e.g. "download"."""

    def progress(self, done: int, total: int) -> None:
        """Of the current stage, done of total (bytes or items) are finished."""

    def message(self, text: str) -> None:
        """One line that the user should see."""


class SilentReporter:
    """Reports to nobody."""

    def stage(self, name: str) -> None:
        """Ignores the stage."""

    def progress(self, done: int, total: int) -> None:
        """Ignores the progress."""

    def message(self, text: str) -> None:
        """Ignores the message."""
