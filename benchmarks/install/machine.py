"""The emulated device and the web server beside it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.install import link
from benchmarks.install.inside import PORT
from qemu import children
from qemu.console import Console
from qemu.deadline import Deadline
from qemu.hardware import ACCELERATOR
from qemu.sockets import Listeners
from recovery.errors import ToolError

MEMORY_MIB = 1024
_QEMU = "qemu-system-x86_64"
_CONNECT_SECONDS = 300
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


class Guest:
    """The running guest; `ask` runs a function of `benchmarks.install.inside` there.

    write_rate: bytes a second that the disks take in together, 0 without limit.
    """

    def __init__(
        self, kernel: Path, initramfs: Path, disks: Sequence[Path], work: Path, write_rate: int
    ) -> None:
        self._listeners = Listeners()
        log = work / "qemu.log"
        command: list[str] = [
            _QEMU,
            *("-machine", "q35", "-accel", ACCELERATOR, "-cpu", "max", "-smp", "1"),
            *("-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(kernel), "-initrd", str(initramfs)),
            # On a busy host the kernel's check of its timer fails: it counts the host's time.
            *("-append", "console=ttyS0 quiet panic=-1 no_timer_check rauc.slot=a"),
            *("-chardev", f"socket,id=console,path={self._listeners.path('console')}"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=bench,path={self._listeners.path('bench')}"),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=bench,name={PORT}"),
            *("-netdev", f"tap,id=net0,ifname={link.NAME},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net0"),
            *("-device", "virtio-rng-pci,rng=rng0"),
            *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        ]
        limit = f",throttling.group=disk,throttling.bps-write={write_rate}" if write_rate else ""
        for number, disk in enumerate(disks):
            # The host's own disk, which others use, is not what is measured: a flush of the
            # guest ends in the host's memory.
            command += [
                "-drive",
                f"file={disk},id=disk{number},if=none,format=raw,cache=unsafe{limit}",
                "-device",
                f"virtio-blk-pci,drive=disk{number}",
            ]
        (work / "command").write_text(shlex.join(command) + "\n")
        self._process = children.start(command, log)
        deadline = Deadline(_CONNECT_SECONDS)
        started = time.monotonic()
        self._console = Console(
            self._listeners.accept("console", _QEMU, self._process, log, deadline),
            work / "console.log",
            started,
        )
        self._port = self._listeners.accept("bench", _QEMU, self._process, log, deadline)
        self._answers = self._port.makefile("rb")

    def ask(self, action: str, timeout: float = _PATIENCE, **arguments: object) -> dict[str, Any]:
        """The answer. Raises ToolError with the guest's own words when there is none."""
        self._port.settimeout(timeout)
        try:
            self._port.sendall(json.dumps({"do": action, **arguments}).encode() + b"\n")
            line = self._answers.readline()
        except TimeoutError:
            line = b""
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._console.tail()}
        if "error" in answer:
            raise ToolError(f"cannot {action} in the guest", details=str(answer["error"]))
        return answer

    def run(self, *command: str, timeout: float = _PATIENCE) -> str:
        """What a program in the guest prints; not measured. Raises ToolError when it fails."""
        done = self.ask("execute", timeout, command=list(command))
        if done["code"]:
            raise ToolError(f"cannot run {command[0]} in the guest", details=str(done["output"]))
        return str(done["output"])

    def processor_seconds(self) -> float:
        """What the emulator has used of the host's processors so far (proc_pid_stat(5))."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Cuts the power."""
        children.end(self._process)
        self._port.shutdown(socket.SHUT_RDWR)
        self._console.close()
        self._listeners.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def lower_priority() -> None:
    """Lets others on this machine go first."""
    os.nice(19 - os.nice(0))
