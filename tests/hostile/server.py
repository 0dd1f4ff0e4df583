"""A web server on the loopback interface that serves a directory and does not always behave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Takes over the answer for a path, or returns False.
Trick = Callable[["Handler"], bool]


class Handler(BaseHTTPRequestHandler):
    """Answers a request, by the server's trick or from its directory."""

    protocol_version = "HTTP/1.1"
    server: HostileServer

    def do_GET(self) -> None:  # the name is http.server's
        """GET."""
        self.server.requests += 1
        trick = self.server.trick
        with contextlib.suppress(OSError):
            if trick is None or not trick(self):
                self.answer()

    def answer(self) -> None:
        """The file, as an honest server gives it."""
        path = self.server.directory / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            self.send(404, b"")
            return
        data = path.read_bytes()
        asked = self.headers.get("range", "")
        if asked.startswith("bytes=") and asked.count("-") == 1:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self.send(206, part, {"Content-Range": place})
            return
        self.send(200, data, {"ETag": f'"{path.name[:40]}"'})

    def send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        """An answer. length: what it says of its size; -1: the truth."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.write(body)
        if length >= 0:
            self.close_connection = True

    def write(self, data: bytes) -> None:
        """Sends bytes as they are, and counts them."""
        self.wfile.write(data)
        self.server.sent += len(data)

    def endless(self, piece: bytes, pause: float = 0.0) -> None:
        """Sends a piece again and again, until the other side has had enough."""
        until = time.monotonic() + 60
        while time.monotonic() < until and not self.server.stopped.wait(pause):
            self.write(piece)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class HostileServer(ThreadingHTTPServer):
    """Use as a context manager. sent: bytes of bodies; requests: how many were asked."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        """directory: what is served."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.trick: Trick | None = None
        self.sent = self.requests = 0
        self.stopped = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is none."""

    def close(self) -> None:
        """Ends."""
        self.stopped.set()
        self.shutdown()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()
