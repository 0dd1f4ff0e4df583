"""What a small supervised service needs: configuration, readiness, programs, metrics.

    def main() -> int:
        settings = servicekit.configuration("tunnel")
        with servicekit.Endpoint(9586, {"/metrics": metrics}):
            servicekit.ready("tunnel is up")
            servicekit.until_stopped(every=2.0, do=look_again)
        return 0

Standard library only, and little of it: imports are a service's start time.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_PROGRAM_SECONDS = 20
_stopping = threading.Event()


class ServiceError(Exception):
    """What went wrong, in words for the log."""


def configuration(name: str) -> dict[str, Any]:
    """The values of a configuration slice. Raises ServiceError."""
    path = Path(_directory("CONFIGURATION_DIRECTORY")) / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ServiceError(f"cannot read the configuration {name}: {error}") from error
    if not isinstance(values, dict):
        raise ServiceError(f"cannot use the configuration {name}: it is not an object")
    return values


def state_directory() -> Path:
    """Where the service keeps its data. Raises ServiceError when it declares no state."""
    return Path(_directory("STATE_DIRECTORY"))


def write_state(name: str, text: str) -> None:
    """Replaces a file of the state directory: a power cut leaves the old one or the new one."""
    path = state_directory() / name
    draft = path.with_name(f".{name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def run(*command: str, stdin: str = "", check: bool = True) -> str:
    """Runs a program and returns what it printed. With check, raises ServiceError when it fails."""
    try:
        done = subprocess.run(
            command,
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"cannot run {command[0]}: {error}") from error
    if check and done.returncode != 0:
        raise ServiceError(f"cannot complete {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ready(status: str) -> None:
    """Tells systemd that the service does its work (sd_notify(3)); no-op elsewhere."""
    _notify(f"READY=1\nSTATUS={status}")


def say(text: str) -> None:
    """One line for the log."""
    print(text, flush=True)  # noqa: T201 (standard output is the service's log)


def _notify(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(address)
        out.sendall(message.encode())


def until_stopped(every: float, do: Callable[[], None]) -> None:
    """Calls do every so many seconds until systemd asks the service to end (SIGTERM)."""
    while not _stopping.wait(every):
        do()


class Endpoint:
    """Answers GET on 127.0.0.1 while the block runs.

    port: TCP port. pages: of each path, a function that returns status and text.
    """

    def __init__(self, port: int, pages: Mapping[str, Callable[[], tuple[int, str]]]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                page = pages.get(self.path)
                try:
                    status, text = page() if page else (404, "no such page\n")
                except ServiceError as error:
                    status, text = 503, f"{error}\n"
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Not logged: it is asked every few seconds."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def prometheus(metrics: Sequence[tuple[str, str, str, Sequence[tuple[str, float]]]]) -> str:
    """Metrics in Prometheus text format: name, kind, help, and (labels, value) pairs.

    labels: as written between braces, "" for none.
    """
    lines: list[str] = []
    for name, kind, text, values in metrics:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [
            f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:g}"
            for labels, value in values
        ]
    return "\n".join(lines) + "\n"


def start(verbs: Mapping[str, Callable[[list[str]], None]]) -> int:
    """Runs the verb named by the first argument; the exit code is 1 when it fails."""
    name, *arguments = sys.argv[1:] or [""]
    verb = verbs.get(name)
    if verb is None:
        sys.stderr.write(f"usage: {sys.argv[0]} {'|'.join(sorted(verbs))}\n")
        return 2
    # From the first instant on, SIGTERM lets a step finish and then ends the service in order.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stopping.set())
    try:
        verb(arguments)
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _directory(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise ServiceError(f"cannot find {variable}: start this program as a service")
    return value
