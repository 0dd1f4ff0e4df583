"""What a command prints: its result on stdout, its progress on stderr.

Imported by every command, on small devices too: nothing here may be slow to
import.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from recovery.errors import OrbitalError
from recovery.reporter import Reporter

_REDRAW_SECONDS = 0.1
_BYTES_FROM = 64 * 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def amount(count: float) -> str:
    """A number of bytes for people: 1536 is "1.5 KiB"."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def error_document(error: OrbitalError) -> dict[str, object]:
    """An error as --json shows it."""
    return {
        "kind": error.kind,
        "brief": error.brief,
        "details": error.details,
        "resolution": error.resolution,
        "exit_code": error.exit_code,
    }


class ReaderGone(Exception):
    """Nobody reads our stdout any more (orbital ... | head): time to stop, not an error."""


class PlainReporter:
    """Whole lines for logs and pipes: every stage, then every tenth of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._tenth = 0

    def stage(self, name: str) -> None:
        """Prints the name of the stage."""
        self._stage, self._tenth = name, 0
        self._print(name)

    def progress(self, done: int, total: int) -> None:
        """Prints a line when another tenth is finished."""
        tenth = done * 10 // total if total > 0 else 10
        if tenth > self._tenth:
            self._tenth = tenth
            self._print(f"{self._stage}: {tenth * 10}%")

    def message(self, text: str) -> None:
        """Prints the line."""
        self._print(text)

    def close(self) -> None:
        """Nothing is pending."""

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class BarReporter:
    """One line that redraws itself, for terminals.

    Totals of 64 KiB and more are taken for bytes and shown with a rate;
    smaller ones count items.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._started = 0.0
        self._drawn_at = 0.0
        self._line = ""

    def stage(self, name: str) -> None:
        """Leaves the finished stage on its line and begins the next."""
        self.close()
        self._stage, self._started, self._drawn_at = name, time.monotonic(), 0.0
        self._draw(name)

    def progress(self, done: int, total: int) -> None:
        """Redraws the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self._drawn_at < _REDRAW_SECONDS and done < total:
            return
        self._drawn_at = now
        self._draw(_bar(self._stage, done, total, now - self._started, self._columns()))

    def message(self, text: str) -> None:
        """Prints the line above the bar."""
        line = self._line
        self._draw("")
        print(text, file=self._stream, flush=True)
        self._draw(line)

    def close(self) -> None:
        """Ends the line that is being redrawn, if there is one."""
        if self._line:
            self._stream.write("\n")
            self._stream.flush()
        self._line = ""

    def _draw(self, text: str) -> None:
        self._line = text
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return 80


def _bar(stage: str, done: int, total: int, seconds: float, columns: int) -> str:
    """The text of a progress bar that fits in columns."""
    fraction = min(1.0, done / total) if total > 0 else 1.0
    if total >= _BYTES_FROM:
        rate = f"  {amount(done / seconds)}/s" if seconds > 0 else ""
        figures = f"{fraction:4.0%}  {amount(done)} of {amount(total)}{rate}"
    else:
        figures = f"{fraction:4.0%}  {done} of {total}"
    room = columns - len(stage) - len(figures) - 5
    if room < 5:
        return f"{stage} {figures}"[: columns - 1]
    filled = int(fraction * min(room, 30))
    return f"{stage} [{'#' * filled}{' ' * (min(room, 30) - filled)}] {figures}"


class Output:
    """Where a command handler reports.

    json: the result is one JSON document on stdout, and nothing else goes
        there. reporter: progress, on stderr.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        verbose: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json = json
        self.verbose = verbose
        self._stdout = stdout if stdout is not None else sys.stdout
        self._stderr = stderr if stderr is not None else sys.stderr
        self._progress: PlainReporter | BarReporter = (
            BarReporter(self._stderr) if self._stderr.isatty() else PlainReporter(self._stderr)
        )

    @property
    def reporter(self) -> Reporter:
        """The listener to hand to long work."""
        return self._progress

    def result(self, data: Mapping[str, object], text: str) -> None:
        """The outcome of the command: data with --json, otherwise text."""
        self._progress.close()
        if self.json:
            self._print_json(data)
        elif text:
            self._print(text)

    def line(self, text: str) -> None:
        """One line for people; silent with --json."""
        if not self.json:
            self._progress.close()
            self._print(text)

    def error(self, error: OrbitalError) -> None:
        """An error: text on stderr; with --json an object {"error": ...} on stdout."""
        self._progress.close()
        if self.json:
            self._print_json({"error": error_document(error)})
            return
        print(f"orbital: {error.brief}", file=self._stderr)
        for part in (error.details, error.resolution):
            for line in part.splitlines():
                print(f"  {line}", file=self._stderr)

    def close(self) -> None:
        """Ends a pending progress line."""
        self._progress.close()

    def _print_json(self, data: Mapping[str, object]) -> None:
        import json

        self._print(json.dumps(data, indent=2))

    def _print(self, text: str) -> None:
        """Writes out at once, so that a reader who has gone is noticed here, where a
        broken pipe can only be stdout's and not that of a network connection."""
        try:
            print(text, file=self._stdout, flush=True)
        except BrokenPipeError as error:
            raise ReaderGone from error
