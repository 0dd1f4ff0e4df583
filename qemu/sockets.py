"""Sockets on which a program that we start connects back to us.

We listen before the program starts, so nothing it prints is lost and nobody
polls for a socket file. The path is short on purpose: a Unix socket's path
must fit into 107 bytes, which directories of tests often exceed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from qemu.children import exited
from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired


class Listeners:
    """Unix sockets in a private temporary directory, by name."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="orbital-", dir="/tmp"))
        self._sockets: dict[str, socket.socket] = {}

    def path(self, name: str) -> Path:
        """Where the program must connect; listens from the first call on."""
        path = self.directory / name
        if name not in self._sockets:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(0.05)
            self._sockets[name] = listener
        return path

    def accept(
        self, name: str, program: str, child: subprocess.Popen[bytes], log: Path, deadline: Deadline
    ) -> socket.socket:
        """The program's connection.

        Raises MachineExited with the content of its log when it ended
        instead, DeadlineExpired when it does neither.
        """
        while True:
            try:
                connection, _ = self._sockets[name].accept()
            except TimeoutError:
                if child.poll() is not None:
                    raise exited(program, child, log) from None
                if deadline.expired:
                    raise DeadlineExpired(
                        f"cannot reach {program}: no connection to {name}"
                        f" within {deadline.seconds:g} s"
                    ) from None
            else:
                connection.settimeout(None)
                return connection

    def close(self) -> None:
        """Removes the sockets and their directory."""
        for listener in self._sockets.values():
            listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, *, wanted: int = 0) -> int:
    """A port of the host's loopback that nobody uses now: the wanted one, if it is and is not 0."""
    with socket.socket(socket.AF_INET, kind) as probe:
        if wanted:
            # One that only closed connections still hold is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            if not wanted:
                raise
            return free_port(kind)
        return int(probe.getsockname()[1])
