"""Asks a service for a sign of life: `probe http URL STATUS SECONDS`, `probe tcp PORT SECONDS`.

Runs in the service's sandbox and network namespace (`recovery.packages.units`),
so it needs little memory and no library: one request, HTTP/1.0, only the
status line is read. Exit code 0 when the answer came in time.
"""

from __future__ import annotations

import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PAUSE_SECONDS = 0.2
_ANSWER_SECONDS = 5.0


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


def wait(attempt: Callable[[], str], seconds: float) -> str:
    """Tries until it works or the time is over; the last reason, or ""."""
    deadline = time.monotonic() + seconds
    while True:
        problem = attempt()
        if not problem or time.monotonic() >= deadline:
            return problem
        time.sleep(_PAUSE_SECONDS)


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
        else:
            raise ValueError(f"unknown kind {kind!r}")
    except ValueError as error:
        sys.stderr.write(f"cannot probe: {error}\n")
        return 2
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0
