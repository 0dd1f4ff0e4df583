"""A systemd for tests: its private socket, with units in a table.

Its encoder is its own, so that it and `recovery.packages.dbus` check each other.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from recovery.packages import dbus

_OBJECT = "/org/freedesktop/systemd1"


@dataclass
class Unit:
    """active: as it is now. outcomes: results of its next jobs, then "done". properties: of it."""

    active: str = "inactive"
    outcomes: list[str] = field(default_factory=list)
    properties: dict[str, object] = field(default_factory=dict)


class FakeSystemd:
    """Listens below root as long as the `with` block lasts.

    calls: what was asked, as "Method argument". silent: methods that are never
    answered. after: run after a job of that unit.
    """

    def __init__(self, root: Path, units: dict[str, Unit] | None = None) -> None:
        self.units = units or {}
        self.calls: list[str] = []
        self.silent: set[str] = set()
        self.after: dict[str, Callable[[], None]] = {}
        self.greeting = b"OK 0123456789abcdef0123456789abcdef\r\n"
        self._jobs = 0
        directory = root / "run/systemd"
        directory.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self._listener.bind(f"/proc/self/fd/{fd}/private")
        finally:
            os.close(fd)
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeSystemd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self._speak(peer)

    def _speak(self, peer: socket.socket) -> None:
        user = str(os.geteuid()).encode().hex().encode()
        hello = b"\0AUTH EXTERNAL " + user + b"\r\nBEGIN\r\n"
        # As the real one: what comes along with BEGIN is not looked at.
        if peer.recv(4096) != hello:
            return
        peer.sendall(self.greeting)
        buffer = b""
        while data := peer.recv(4096):
            buffer += data
            while len(buffer) >= dbus.HEAD_SIZE and len(buffer) >= (size := dbus.size(buffer[:16])):
                self._answer(peer, buffer[:size])
                buffer = buffer[size:]

    def _answer(self, peer: socket.socket, data: bytes) -> None:
        asked = dbus.parse(data, ())
        serial = int.from_bytes(data[8:12], "little")
        words = [str(item) for item in asked.body]
        self.calls.append(" ".join([asked.member, *words[:1]]))
        # Noise, as there is always some.
        peer.sendall(signal("PropertiesChanged", "s", text("noise")))
        if asked.member in self.silent:
            return
        if asked.member == "Reload":
            peer.sendall(reply(serial, "", b""))
        elif asked.member.startswith("ListUnits"):
            names = asked.body[-1]
            assert isinstance(names, tuple)
            found = [
                name
                for name in ([*self.units, *names] if "Names" in asked.member else self.units)
                if any(Path(name).match(pattern) for pattern in names)
            ]
            rows = b""
            for name in dict.fromkeys(found):
                rows += bytes(-len(rows) % 8)
                rows += self._row(name)
            body = len(rows).to_bytes(4, "little") + bytes(4) + rows
            peer.sendall(reply(serial, "a(ssssssouso)", body))
        elif asked.member == "Get":
            path = data[24:].split(b"\0")[0].decode(errors="replace")
            unit = next(self.units[name] for name in self.units if path.endswith(escaped(name)))
            value = unit.properties[words[1]]
            packed = (
                b"\1u\0\0" + value.to_bytes(4, "little")
                if isinstance(value, int)
                else b"\1s\0\0" + text(str(value))
            )
            peer.sendall(reply(serial, "v", packed))
        elif words[0] not in self.units:
            peer.sendall(refusal(serial, f"Unit {words[0]} not found."))
        elif asked.member == "ResetFailedUnit":
            peer.sendall(reply(serial, "", b""))
        else:
            self._job(peer, serial, words[0])

    def _job(self, peer: socket.socket, serial: int, name: str) -> None:
        self._jobs += 1
        job = f"{_OBJECT}/job/{self._jobs}"
        unit = self.units[name]
        result = unit.outcomes.pop(0) if unit.outcomes else "done"
        body = self._jobs.to_bytes(4, "little") + text(job)
        for part in (name, result):
            body += bytes(-len(body) % 4) + text(part)
        ended = signal("JobRemoved", "uoss", body)
        answer = reply(serial, "o", text(job))
        # A job may be over before its number is known.
        peer.sendall(ended + answer if self._jobs % 2 else answer + ended)
        self.after.get(name, lambda: None)()

    def _row(self, name: str) -> bytes:
        unit = self.units.get(name, Unit())
        row = b""
        for part in (name, "", "loaded", unit.active, "", "", f"{_OBJECT}/unit/{escaped(name)}"):
            row += bytes(-len(row) % 4) + text(part)
        row += bytes(-len(row) % 4) + bytes(4)
        for part in ("", "/"):
            row += bytes(-len(row) % 4) + text(part)
        return row


def escaped(name: str) -> str:
    """As in the path of a unit's object."""
    return "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)


def text(value: str) -> bytes:
    """A string."""
    raw = value.encode()
    return len(raw).to_bytes(4, "little") + raw + b"\0"


def reply(serial: int, signature: str, body: bytes) -> bytes:
    """An answer."""
    return _message(2, b"\5\1u\0" + serial.to_bytes(4, "little"), signature, body)


def refusal(serial: int, why: str) -> bytes:
    """An error."""
    fields = b"\5\1u\0" + serial.to_bytes(4, "little")
    fields += b"\4\1s\0" + text("org.freedesktop.systemd1.NoSuchUnit")
    return _message(3, fields, "s", text(why))


def signal(member: str, signature: str, body: bytes) -> bytes:
    """A signal."""
    return _message(4, b"\3\1s\0" + text(member), signature, body)


def _message(kind: int, fields: bytes, signature: str, body: bytes) -> bytes:
    if signature:
        fields += bytes(-len(fields) % 8) + b"\x08\1g\0" + bytes([len(signature)])
        fields += signature.encode() + b"\0"
    head = b"l" + bytes([kind, 1, 1]) + len(body).to_bytes(4, "little") + (7).to_bytes(4, "little")
    head += len(fields).to_bytes(4, "little")
    return head + fields + bytes(-len(fields) % 8) + body
