"""Asks a service for a sign of life, again and again until the time is over.

    probe http URL STATUS SECONDS     GET answers with the status
    probe tcp PORT SECONDS            127.0.0.1:PORT accepts
    probe exec SECONDS COMMAND...     the command ends with exit code 0, within SECONDS

Runs in the service's sandbox and network namespace (`recovery.packages.units`),
so it needs little memory and no library: one request, HTTP/1.0, only the
status line is read. Exit code 0 when one try worked, 1 when none did.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PAUSE_SECONDS = 0.2
_COMMAND_PAUSE_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# A device that stood still, or whose first try hung, has not failed yet.
_TRIES = 3


def tcp(port: int) -> str:
    """Why nothing accepts on 127.0.0.1:port; "" when something does."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        return f"127.0.0.1:{port}: {error.strerror or error}"
    return ""


def http(url: str, status: int) -> str:
    """Why GET url does not answer with the status; "" when it does."""
    host, port, path = split_url(url)
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            line = connection.makefile("rb").readline(1024).decode(errors="replace")
    except OSError as error:
        return f"{url}: {error.strerror or error}"
    words = line.split()
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        return f"{url}: no answer of HTTP: {line[:60]!r}"
    return "" if words[1] == str(status) else f"{url}: status {words[1]}, expected {status}"


def split_url(url: str) -> tuple[str, int, str]:
    """Host, port and path of an http address. Raises ValueError."""
    scheme, _, rest = url.partition("://")
    if scheme != "http" or not rest:
        raise ValueError(f"{url!r} is not an http address")
    place, slash, path = rest.partition("/")
    host, _, port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "80")
    return host.strip("[]"), int(port), slash + path or "/"


def execute(command: Sequence[str], seconds: float) -> str:
    """Why the command does not end with exit code 0 within that time; "" when it does.

    It and what it has started in its process group are killed when the time is over.
    """
    try:
        # Its output is ours: a pipe would stay open in a child of it that lives on.
        process = os.posix_spawn(command[0], tuple(command), os.environ, setpgroup=0)
    except OSError as error:
        return f"{command[0]}: {error.strerror or error}"
    watched = os.pidfd_open(process)
    try:
        ended = bool(select.select([watched], [], [], seconds)[0])
    finally:
        os.close(watched)
    if not ended:
        os.killpg(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if not ended:
        return f"{command[0]}: not over within {seconds:g} s"
    return f"{command[0]}: exit code {code}" if code else ""


def wait(attempt: Callable[[], str], seconds: float, pause: float = _PAUSE_SECONDS) -> str:
    """Tries until it works, or the time is over and three tries failed; the last reason, or ""."""
    deadline = time.monotonic() + seconds
    tries = 0
    while True:
        problem = attempt()
        tries += 1
        if not problem or (tries >= _TRIES and time.monotonic() >= deadline):
            return problem
        time.sleep(pause)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: alive; 1: not, and why on standard error; 2: cannot tell what to do."""
    try:
        kind, *rest = arguments
        if kind == "tcp":
            port, seconds = rest
            problem = wait(lambda: tcp(int(port)), float(seconds))
        elif kind == "http":
            url, status, seconds = rest
            split_url(url)
            problem = wait(lambda: http(url, int(status)), float(seconds))
        elif kind == "exec":
            seconds, *command = rest
            limit = float(seconds)
            if not command:
                raise ValueError("no command")
            problem = wait(lambda: execute(command, limit), limit, _COMMAND_PAUSE_SECONDS)
        else:
            raise ValueError(f"unknown kind {kind!r}")
    except ValueError as error:
        sys.stderr.write(f"cannot probe: {error}\n")
        return 2
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0
