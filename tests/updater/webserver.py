"""nginx from Debian on the loopback interface, serving one directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path

from qemu.sockets import free_port
from recovery import process

_CONFIG = """
daemon off;
master_process off;
pid {base}/nginx.pid;
error_log {base}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format plain '$request_uri $status $body_bytes_sent';
  access_log {base}/access.log plain;
  client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path {base}/t3;
  uwsgi_temp_path {base}/t4; scgi_temp_path {base}/t5;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    {extra}
  }}
}}
"""


class WebServer:
    """One nginx. Use as a context manager."""

    def __init__(self, root: Path, base: Path, extra: str = "") -> None:
        """root: what is served. base: an empty directory for nginx's own files."""
        base.mkdir(parents=True, exist_ok=True)
        self.base = base
        self.port = free_port()
        self._config = base / "nginx.conf"
        self._config.write_text(_CONFIG.format(base=base, port=self.port, root=root, extra=extra))
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> WebServer:
        """Starts nginx and waits until it answers."""
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        log = str(self.base / "error.log")
        self._process = process.start([program, "-e", log, "-c", str(self._config)])
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert self._process.poll() is None, (self.base / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        """Ends nginx."""
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(10)

    def requests(self) -> list[str]:
        """Paths that were answered with content, in order."""
        lines = (self.base / "access.log").read_text().splitlines()
        return [path for path, status, _ in (line.split() for line in lines) if status == "200"]

    def forget(self) -> None:
        """Empties the access log."""
        os.truncate(self.base / "access.log", 0)
