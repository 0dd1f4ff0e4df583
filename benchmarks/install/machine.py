"""What every machine of the benchmark has: a guest that answers, and a web server beside it."""

from __future__ import annotations

import json
import os
import select
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.install import link
from benchmarks.install.inside import READY
from qemu import children
from qemu.deadline import Deadline
from recovery.errors import ToolError

MEMORY_MIB = 1024
# On a busy host a boot has taken minutes; the benchmark has to end by itself all the same.
_PATIENCE = 3600.0

_NGINX = """\
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
user root;
events {{ worker_connections 256; }}
http {{
    access_log {work}/access.log;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen {address}:80; root {root}; }}
}}
"""


class WebServer:
    """nginx for a folder, on the server's end of the link."""

    url = f"http://{link.SERVER}"

    def __init__(self, root: Path, work: Path) -> None:
        configuration = work / "nginx.conf"
        configuration.write_text(_NGINX.format(work=work, address=link.SERVER, root=root))
        self._log = work / "nginx.log"
        self.requests_log = work / "access.log"
        self._process = children.start(
            ["nginx", "-e", self._log, "-p", work, "-c", configuration],
            self._log,
            at_our_death=signal.SIGTERM,
        )
        deadline = Deadline(15)
        while not (work / "nginx.pid").exists():
            if self._process.poll() is not None or deadline.expired:
                raise children.exited("nginx", self._process, self._log)
            deadline.pause(0.05)

    def requests(self) -> int:
        """How many were answered so far."""
        return self.requests_log.read_bytes().count(b"\n")

    def close(self) -> None:
        """Stops it."""
        self._process.terminate()
        self._process.wait(10)


@dataclass(frozen=True)
class Hardware:
    """What the guest has to know of its machine. modules: of the kernel, to be loaded.
    disks: how their names begin. interface: to the web server. port: a virtio port's name, or a
    terminal's path."""

    modules: tuple[str, ...]
    disks: str
    interface: str
    port: str


class Guest(ABC):
    """A running guest; `ask` runs a function of `benchmarks.install.inside` there.

    wire: file descriptor of the host's end of the guest's port. console: says what it printed last.
    """

    def __init__(self, wire: int, console: Callable[[], str]) -> None:
        self._wire = wire
        self._said = console
        if self._line(Deadline(_PATIENCE)) != READY:
            raise ToolError("cannot start the guest", details=console())

    def ask(self, action: str, timeout: float = _PATIENCE, **arguments: object) -> dict[str, Any]:
        """The answer. Raises ToolError with the guest's own words when there is none."""
        question = json.dumps({"do": action, **arguments}).encode() + b"\n"
        while question:
            question = question[os.write(self._wire, question) :]
        line = self._line(Deadline(timeout))
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._said()}
        if "error" in answer:
            raise ToolError(f"cannot {action} in the guest", details=str(answer["error"]))
        return answer

    def _line(self, deadline: Deadline) -> bytes:
        """Up to the end of a line; nothing when it does not come."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._wire], [], [], deadline.remaining)[0]:
                return b""
            try:
                part = os.read(self._wire, 1 << 16)
            except OSError:
                part = b""  # The other end of a terminal is gone.
            if not part:
                return b""
            line += part
        return line

    def run(self, *command: str, timeout: float = _PATIENCE) -> str:
        """What a program in the guest prints; not measured. Raises ToolError when it fails."""
        done = self.ask("execute", timeout, command=list(command))
        if done["code"]:
            raise ToolError(f"cannot run {command[0]} in the guest", details=str(done["output"]))
        return str(done["output"])

    @abstractmethod
    def processor_seconds(self) -> float:
        """What the machine has used of the host's processors so far."""

    @abstractmethod
    def close(self) -> None:
        """Cuts the power."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def used(pid: int) -> float:
    """Seconds of processors that a process has used, with those of its children that have ended
    (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def lower_priority() -> None:
    """Lets others on this machine go first."""
    os.nice(19 - os.nice(0))
