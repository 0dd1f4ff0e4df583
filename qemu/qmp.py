"""QEMU's control protocol (QMP, docs/interop/qmp-spec): commands, replies, events.

One JSON object a line in each direction. A reader thread sorts what arrives
into replies (matched by id) and events (kept in order), so that an event is
never lost however late somebody asks for it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, MachineError, MachineExited


@dataclass(frozen=True)
class Event:
    """Something QEMU reported by itself. time: seconds on the monotonic clock."""

    name: str
    data: dict[str, Any]
    time: float


class LineSplitter:
    """Turns pieces of a byte stream into whole lines (without their newline)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that this piece completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


class Qmp:
    """A connection to one QEMU, over a connected socket; greets and negotiates at once.

    on_event is called from the reader thread for each event.
    """

    def __init__(
        self,
        connection: socket.socket,
        log: Path,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.events: list[Event] = []
        self._socket = connection
        self._log = log.open("a", encoding="utf-8")
        self._on_event = on_event
        self._changed = threading.Condition()
        self._replies: dict[int, dict[str, Any]] = {}
        self._last_id = 0
        self._closed = False
        self._attached: int | None = None
        threading.Thread(target=self._read, name="qmp", daemon=True).start()
        self.execute("qmp_capabilities")

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 30
    ) -> Any:
        """Runs a command and returns its result.

        Raises MachineError when QEMU refuses it, MachineExited when QEMU is
        gone, DeadlineExpired when it does not answer.
        """
        words = dict(arguments or {})
        deadline = Deadline(timeout)
        with self._changed:
            self._last_id += 1
            number = self._last_id
            self._send({"execute": command, "arguments": words, "id": number})
            while number not in self._replies:
                if self._closed:
                    raise MachineExited(
                        f"cannot complete {command}: QEMU closed its control socket"
                    )
                if deadline.expired:
                    raise DeadlineExpired(f"cannot complete {command}: no answer in {timeout:g} s")
                self._changed.wait(deadline.remaining)
            reply = self._replies.pop(number)
        if "error" in reply:
            raise MachineError(
                f"cannot complete {command}: {reply['error'].get('desc', 'unknown error')}",
                details=f"arguments: {json.dumps(words)}",
            )
        return reply["return"]

    def pass_descriptor(self, name: str, descriptor: int) -> None:
        """Gives QEMU an open file, to be named in later commands as `fd:NAME`."""
        self._attached = descriptor
        self.execute("getfd", {"fdname": name})

    def monitor(self, command_line: str) -> str:
        """Runs a command of the human monitor; for what QMP lacks."""
        return str(
            self.execute("human-monitor-command", {"command-line": command_line}, timeout=300)
        )

    @property
    def mark(self) -> int:
        """A place in the list of events, to search from."""
        with self._changed:
            return len(self.events)

    def wait_event(
        self,
        name: str,
        deadline: Deadline | float,
        *,
        since: int = 0,
        accept: Callable[[dict[str, Any]], bool] = lambda _: True,
    ) -> Event:
        """The first event of that name after the mark `since` whose data is accepted.

        Raises DeadlineExpired or MachineExited.
        """
        limit = Deadline.of(deadline)
        with self._changed:
            position = since
            while True:
                for event in self.events[position:]:
                    if event.name == name and accept(event.data):
                        return event
                position = len(self.events)
                if self._closed:
                    raise MachineExited(f"cannot see event {name}: QEMU closed its control socket")
                if limit.expired:
                    raise DeadlineExpired(f"cannot see event {name} within {limit.seconds:g} s")
                self._changed.wait(limit.remaining)

    def close(self) -> None:
        """Ends the connection; QEMU goes on."""
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message)
        self._note(">", line)
        try:
            data = line.encode() + b"\n"
            if self._attached is None:
                self._socket.sendall(data)
            else:
                # The descriptor travels with the command that names it.
                socket.send_fds(self._socket, [data], [self._attached])
                self._attached = None
        except OSError:
            self._closed = True

    def _read(self) -> None:
        splitter = LineSplitter()
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            for line in splitter.feed(data):
                self._take(line)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._log.close()

    def _take(self, line: bytes) -> None:
        self._note("<", line.decode(errors="replace"))
        try:
            message = json.loads(line)
        except ValueError:
            return
        if "event" in message:
            event = Event(message["event"], message.get("data", {}), time.monotonic())
            # First, so that whoever waits for the event finds its effects.
            if self._on_event:
                self._on_event(event)
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()
        elif "id" in message:
            with self._changed:
                self._replies[message["id"]] = message
                self._changed.notify_all()

    def _note(self, direction: str, line: str) -> None:
        if not self._log.closed:
            self._log.write(f"{time.time():.3f} {direction} {line}\n")
            self._log.flush()
