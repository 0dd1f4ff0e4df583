"""The serial console: everything the guest prints, with the time, searchable, in a log file."""

from __future__ import annotations

import codecs
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, MachineExited

# Terminal control: CSI sequences, other two-character escapes, and carriage
# returns. Firmware and systemd colour their text; a search should not see it.
_CONTROL = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[^\[]|[\r\x00\x07]")
# A sequence that has not arrived whole yet.
_UNFINISHED = re.compile(r"\x1b(\[[0-9;?=]*)?$")


class Transcript:
    """What was printed, cleaned of terminal control, with the second each line began."""

    def __init__(self, log: TextIO | None = None) -> None:
        self.text = ""
        self._pending = ""
        self._log = log
        self._line = ""
        self._line_time = 0.0

    def feed(self, data: str, now: float) -> None:
        """Adds a piece as it arrived; now: seconds since the machine started."""
        whole = self._pending + data
        unfinished = _UNFINISHED.search(whole)
        self._pending = whole[unfinished.start() :] if unfinished else ""
        clean = _CONTROL.sub("", whole[: unfinished.start()] if unfinished else whole)
        self.text += clean
        for part in clean.splitlines(keepends=True):
            if not self._line:
                self._line_time = now
            self._line += part
            if part.endswith("\n"):
                self.flush()

    def flush(self) -> None:
        """Writes the line begun so far to the log."""
        if self._log and self._line.strip():
            self._log.write(f"[{self._line_time:9.3f}] {self._line.rstrip()}\n")
            self._log.flush()
        self._line = ""

    def search(self, pattern: str | re.Pattern[str], since: int = 0) -> re.Match[str] | None:
        """The first match after the mark `since`. Line starts and ends match ^ and $."""
        return re.compile(pattern, re.MULTILINE).search(self.text, since)


class Console:
    """Reads a connected socket in a thread.

    The log has one line per printed line: seconds since `started` (monotonic
    clock), then the text. listener, when given, gets the raw bytes as they
    arrive, from the reader thread.
    """

    def __init__(
        self,
        connection: socket.socket,
        log: Path,
        started: float,
        listener: Callable[[bytes], None] | None = None,
    ) -> None:
        self._socket = connection
        self._log = log.open("a", encoding="utf-8")
        self._transcript = Transcript(self._log)
        self._started = started
        self._listener = listener
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """All that was printed so far."""
        with self._changed:
            return self._transcript.text

    @property
    def mark(self) -> int:
        """A place in the text: what is printed from now on lies behind it."""
        with self._changed:
            return len(self._transcript.text)

    def wait(
        self, pattern: str | re.Pattern[str], deadline: Deadline | float, since: int = 0
    ) -> re.Match[str]:
        """The first match after the mark `since`, waiting for it to be printed.

        Raises DeadlineExpired, or MachineExited when the console ended
        without it; both show the last lines.
        """
        limit = Deadline.of(deadline)
        with self._changed:
            while True:
                found = self._transcript.search(pattern, since)
                if found:
                    return found
                shown = pattern if isinstance(pattern, str) else pattern.pattern
                if self._closed:
                    raise MachineExited(
                        f"cannot find {shown!r} on the console: the machine ended",
                        details=self.tail(),
                    )
                if limit.expired:
                    raise DeadlineExpired(
                        f"cannot find {shown!r} on the console within {limit.seconds:g} s",
                        details=self.tail(),
                    )
                self._changed.wait(limit.remaining)

    def search(self, pattern: str | re.Pattern[str], since: int = 0) -> re.Match[str] | None:
        """The first match printed so far after the mark `since`."""
        with self._changed:
            return self._transcript.search(pattern, since)

    def write(self, data: bytes) -> None:
        """Types on the console."""
        self._socket.sendall(data)

    def tail(self, lines: int = 25) -> str:
        """The last lines printed, for an error."""
        with self._changed:
            text = self._transcript.text
        kept = [line for line in text.splitlines() if line.strip()][-lines:]
        return "last lines of the console:\n" + "\n".join(f"  {line}" for line in kept)

    def close(self) -> None:
        """Waits for the last bytes after QEMU ended, and closes the log."""
        self._thread.join(timeout=2)
        self._socket.close()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            with self._changed:
                now = time.monotonic() - self._started
                self._transcript.feed(decoder.decode(data), now)
                self._changed.notify_all()
            if self._listener:
                self._listener(data)
        with self._changed:
            self._closed = True
            self._transcript.flush()
            self._log.close()
            self._changed.notify_all()
