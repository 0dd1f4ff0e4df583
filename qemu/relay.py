"""A bad connection: passes TCP on to a server and breaks it off after so many bytes."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

_PIECE = 65536
# SO_LINGER with 0 seconds: close sends a reset, as a router that forgot the connection.
_RESET = struct.pack("ii", 1, 0)


class Relay:
    """Listens on a port of the loopback and relays to a Unix socket.

    drop_after: bytes from the server after which a connection is reset; each
        connection starts from nothing. drops: how many were reset.
    """

    def __init__(self, port: int, target: Path, drop_after: int) -> None:
        self.drops = 0
        self._target = target
        self._drop_after = drop_after
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        """Resets all connections and stops listening."""
        # shutdown wakes the thread that waits in accept; close alone would not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        left = self._drop_after
        with suppress(OSError):
            while left and (data := server.recv(min(_PIECE, left))):
                client.sendall(data)
                left -= len(data)
            if not left:
                self.drops += 1
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with self._lock:
            self._open -= {client, server}
        # The other thread waits in recv on the client, which would keep it open
        # beyond close: wake it, quietly, so that close sends the reset (or the end).
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)
        server.close()
        client.close()
