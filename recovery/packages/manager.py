"""systemd's manager, asked over its own socket.

One connection serves all calls of a step. `systemctl` would be a process for
each, and starting one takes longer than most of what it asks for (150 ms on an
emulated machine; a call here takes a few). The socket is systemctl's own as
well (sd-bus, "bus_connect_system_systemd"): only root may use it, it needs no
bus, and all signals arrive unasked.
"""

from __future__ import annotations

import os
import select
import socket
import time

from recovery.errors import ToolError
from recovery.packages import dbus
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Literal

    Verb = Literal["StartUnit", "StopUnit", "RestartUnit", "TryRestartUnit"]
else:
    Verb = str

SOCKET = "run/systemd/private"
_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_ENDED = "JobRemoved"
_ANSWER_SECONDS = 60.0
_RELOAD_SECONDS = 90.0
_READ = 1 << 16


class UnitRefusedError(ToolError):
    """systemd does not do that with that unit; others are not concerned."""


class UnitState(Value):
    """A unit as it is now. active: ActiveState. path: of its object. job: it has one."""

    name: str
    active: str
    path: str
    job: bool


class Manager:
    """A connection; use as a context manager.

    Every method raises ToolError when systemd does not answer, UnitRefusedError
    when it answers with an error.
    """

    def __init__(self, root: Path) -> None:
        """root: where /run is found."""
        self._serial = 0
        self._buffer = b""
        self._results: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._connect(root)
        except OSError as error:
            self._socket.close()
            raise _lost("cannot reach systemd", error) from error

    def __enter__(self) -> Manager:
        """Itself."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Ends the connection."""
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def reload(self) -> None:
        """Makes systemd read all units again; returns when it has."""
        self._call("Reload", seconds=_RELOAD_SECONDS)

    def loaded(self, patterns: Sequence[str]) -> tuple[UnitState, ...]:
        """The units in memory whose names match one of the patterns."""
        return _units(self._call("ListUnitsByPatterns", (), patterns))

    def states(self, names: Sequence[str]) -> dict[str, UnitState]:
        """Units by name; one that nobody knows is inactive."""
        found = _units(self._call("ListUnitsByNames", names))
        return {unit.name: unit for unit in found}

    def property(self, unit: UnitState, name: str) -> str:
        """A property of a service, as text."""
        (value,) = self._call(
            "Get",
            f"{_NAME}.Service",
            name,
            path=unit.path,
            interface="org.freedesktop.DBus.Properties",
        )
        return str(value)

    def reset_failed(self, name: str) -> None:
        """Forgets failures of a unit and how often it was started."""
        self._call("ResetFailedUnit", name)

    def enqueue(self, verb: Verb, name: str) -> str:
        """Has systemd do something with a unit; returns the job, for `result` and `finish`."""
        (job,) = self._call(verb, name, "replace")
        return str(job)

    def result(self, job: str) -> str:
        """What became of a job: "done", "failed", "canceled"...; "" while it is under way."""
        return self._results.get(job, "")

    def finish(self, jobs: Iterable[str], seconds: float) -> dict[str, str]:
        """Waits until all jobs are over; their results. Raises ToolError when the time is over."""
        wanted = set(jobs)
        deadline = time.monotonic() + seconds
        while not wanted <= self._results.keys():
            if not self._receive(deadline):
                raise ToolError(f"cannot finish jobs of systemd within {seconds:g} s")
        return {job: self._results[job] for job in wanted}

    def pause(self, jobs: Collection[str], seconds: float) -> None:
        """Waits so long, or until one of the jobs is done."""
        deadline = time.monotonic() + seconds
        while not any(self._results.get(job) == "done" for job in jobs):
            if not self._receive(deadline):
                return

    def _connect(self, root: Path) -> None:
        # By the open directory: a socket's address holds 107 bytes only.
        directory, _, name = SOCKET.rpartition("/")
        fd = os.open(root / directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.settimeout(_ANSWER_SECONDS)
            self._socket.connect(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
        # D-Bus Specification, "Authentication Protocol": who we are, by the socket's credentials.
        # BEGIN goes along and no call does: systemd would leave one that it reads together with
        # BEGIN in its buffer until something else arrives.
        user = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + user + b"\r\nBEGIN\r\n")
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise ConnectionRefusedError(line.decode(errors="replace"))

    def _call(
        self,
        member: str,
        *arguments: str | Sequence[str],
        path: str = _PATH,
        interface: str = _MANAGER,
        seconds: float = _ANSWER_SECONDS,
    ) -> tuple[object, ...]:
        self._serial += 1
        data = dbus.call(self._serial, _NAME, path, interface, member, *arguments)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _lost(f"cannot ask systemd for {member}", error) from error
        deadline = time.monotonic() + seconds
        while (message := self._receive(deadline)) is not None:
            if message.reply_to != self._serial:
                continue
            if message.kind == dbus.ERROR:
                words = [str(item) for item in (member, *arguments) if isinstance(item, str)]
                raise UnitRefusedError(
                    f"cannot complete {' '.join(words)}: systemd refuses",
                    details=" ".join(str(part) for part in (message.error, *message.body)),
                )
            return message.body
        raise ToolError(f"cannot complete {member}: no answer of systemd within {seconds:g} s")

    def _receive(self, deadline: float) -> dbus.Message | None:
        """The next message, of which the ends of jobs are noted; None when the time is over."""
        try:
            while len(self._buffer) < dbus.HEAD_SIZE or len(self._buffer) < (
                size := dbus.size(self._buffer[: dbus.HEAD_SIZE])
            ):
                left = max(0.0, deadline - time.monotonic())
                if not select.select([self._socket], [], [], left)[0]:
                    return None
                self._fill()
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            message = dbus.parse(data, (_ENDED,))
        except (OSError, ValueError) as error:
            raise _lost("cannot read the answer of systemd", error) from error
        if message.kind == dbus.SIGNAL and message.member == _ENDED:
            _, job, _, result = message.body
            self._results[str(job)] = str(result)
        return message

    def _fill(self) -> None:
        data = self._socket.recv(_READ)
        if not data:
            raise ConnectionResetError("the connection was closed")
        self._buffer += data


def _units(body: tuple[object, ...]) -> tuple[UnitState, ...]:
    """The answer of ListUnits…, a(ssssssouso): name, description, load, active, sub, following,
    object, number of the job, its type, its object."""
    (rows,) = body
    assert isinstance(rows, tuple)
    return tuple(UnitState(str(row[0]), str(row[3]), str(row[6]), job=bool(row[7])) for row in rows)


def _lost(what: str, error: Exception) -> ToolError:
    return ToolError(what, details=str(error), resolution="see 'journalctl -b _PID=1'")
