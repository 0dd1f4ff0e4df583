"""A real web server (nginx) for a directory, on a free port of the loopback, that can fail.

Runs from its own configuration in its own directory and ends only what it
started; an nginx of the system is not touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from qemu import accesslog, children
from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, MachineError
from qemu.hardware import HOST_ADDRESS
from qemu.relay import Relay
from qemu.sockets import free_port

_START_SECONDS = 15

_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {pid_file};
{user}
events {{ worker_connections 512; }}
http {{
    {log_format}
    access_log {access_log} orbital;
    default_type application/octet-stream;
    # A body that is sent whole by sendfile is counted before the client has it.
    sendfile off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen {listen};
        root {root};
        limit_rate {rate};
        {ranges}
        autoindex off;
    }}
}}
"""


class Server:
    """Serves a directory; on from the `with` block or `start`, always at the same port.

    root: the directory. logs: where access.log and nginx.log go; must exist.
    port: on the host's loopback, another one if that is taken; the guest reaches it at `url`.
    """

    def __init__(self, root: Path, logs: Path, port: int = 0) -> None:
        self.root = root
        self.port = free_port(wanted=port)
        self._logs = logs
        self._work = tempfile.TemporaryDirectory(prefix="orbital-", dir="/tmp")
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: Relay | None = None

    @property
    def url(self) -> str:
        """The server's address for a guest."""
        return f"http://{HOST_ADDRESS}:{self.port}"

    @property
    def local_url(self) -> str:
        """The server's address on the host."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """The access log."""
        return self._logs / "access.log"

    @property
    def _pid_file(self) -> Path:
        return Path(self._work.name) / "pid"

    @property
    def drops(self) -> int:
        """Connections that were broken off since the start with drop_after."""
        return self._relay.drops if self._relay else 0

    def start(self, *, rate: int = 0, drop_after: int = 0, ranges: bool = True) -> None:
        """Starts to serve, or serves in another way from now on.

        rate: bytes a second for each connection, 0 without limit.
        drop_after: reset each connection after so many bytes of answer
            (headers included), 0 never.
        ranges: whether a part of a file can be asked for.
        Raises MachineExited with nginx's reason when it does not start.
        """
        self.stop()
        work = Path(self._work.name)
        address = work / "socket"
        address.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)
        configuration = work / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                work=work,
                pid_file=self._pid_file,
                access_log=_word(self.log.resolve()),
                root=_word(self.root.resolve()),
                # As root nginx would serve as another user, who may not read the files.
                user="user root;" if os.geteuid() == 0 else "",
                log_format=accesslog.LOG_FORMAT,
                listen=f"unix:{address}" if drop_after else f"127.0.0.1:{self.port}",
                rate=rate,
                ranges="" if ranges else "max_ranges 0;",
            )
        )
        log = self._logs / "nginx.log"
        process = children.start(
            ["nginx", "-e", log.resolve(), "-p", work, "-c", configuration],
            log,
            at_our_death=signal.SIGTERM,
        )
        self._process = process
        try:
            self._await(process, log)
            if drop_after:
                self._relay = Relay(self.port, address, drop_after)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops at once and breaks all connections off; the port is closed. No-op when off."""
        if self._relay:
            self._relay.close()
            self._relay = None
        if self._process:
            # nginx's fast shutdown ends its worker, too; SIGKILL would leave it.
            self._process.terminate()
            try:
                self._process.wait(10)
            finally:
                children.end(self._process)
                self._process = None

    def requests(self) -> list[accesslog.Request]:
        """What was asked for so far."""
        return accesslog.parse(self.log.read_text()) if self.log.exists() else []

    def sent(self) -> int:
        """Bytes of bodies sent so far."""
        return sum(request.bytes for request in self.requests())

    def close(self) -> None:
        """Stops and removes the working directory; the logs stay."""
        self.stop()
        self._work.cleanup()

    def __enter__(self) -> Server:
        if self._process is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _await(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Waits for nginx's pid file, which it writes when all its sockets listen."""
        deadline = Deadline(_START_SECONDS)
        while not self._pid_file.exists():
            if process.poll() is not None:
                raise children.exited("nginx", process, log)
            if deadline.expired:
                raise DeadlineExpired(f"cannot start nginx within {deadline.seconds:g} s")
            deadline.pause(0.02)


def _word(path: Path) -> str:
    """A path as one word of nginx's configuration."""
    text = str(path)
    if any(character in text for character in '"\\$\n'):
        raise MachineError(f"cannot serve {text}: nginx cannot be told such a name")
    return f'"{text}"'
