"""The web server under test is nginx itself; clients are plain sockets and urllib."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path

import pytest

from qemu.accesslog import Request, bytes_by_path, parse
from qemu.errors import MachineExited
from qemu.server import Server

SIZE = 3_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "root with space"
    (root / "chunks").mkdir(parents=True)
    (root / "chunks" / "large").write_bytes(b"x" * SIZE)
    (root / "small").write_bytes(b"hello")
    logs = tmp_path / "logs"
    logs.mkdir()
    with Server(root, logs) as running:
        yield running


def fetch(server: Server, path: str, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(f"{server.local_url}/{path}", headers=headers or {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


def logged(server: Server, count: int) -> list[Request]:
    """The log's first requests; nginx writes a line after the client has its answer."""
    for _ in range(200):
        if len(server.requests()) >= count:
            break
        time.sleep(0.02)
    return server.requests()


def test_requests_are_served_and_counted(server: Server) -> None:
    assert fetch(server, "small") == b"hello"
    assert len(fetch(server, "chunks/large")) == SIZE
    requests = logged(server, 2)
    assert bytes_by_path(requests) == {"/small": 5, "/chunks/large": SIZE}
    assert [request.status for request in requests] == [200, 200]
    assert all(request.complete for request in requests)
    assert server.sent() == SIZE + 5


def test_a_range_is_logged(server: Server) -> None:
    assert fetch(server, "small", {"Range": "bytes=1-2"}) == b"el"
    (request,) = logged(server, 1)
    assert (request.status, request.bytes, request.range) == (206, 2, "bytes=1-2")


def test_a_missing_file_is_logged_with_its_status(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(server, "absent")
    assert logged(server, 1)[0].status == 404


def test_connections_are_broken_off_after_so_many_bytes(server: Server) -> None:
    server.start(drop_after=100_000)
    assert fetch(server, "small") == b"hello"
    with pytest.raises((ConnectionResetError, IncompleteRead)):
        fetch(server, "chunks/large")
    assert server.drops == 1
    server.start()
    assert len(fetch(server, "chunks/large")) == SIZE


def test_a_stopped_server_refuses_and_comes_back_at_the_same_port(server: Server) -> None:
    port = server.port
    server.stop()
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(server, "small")
    server.start()
    assert server.port == port
    assert fetch(server, "small") == b"hello"


def test_stopping_breaks_a_download_off(server: Server) -> None:
    server.start(rate=200_000)
    timer = threading.Timer(0.5, server.stop)
    timer.start()
    with pytest.raises((ConnectionResetError, IncompleteRead)):
        fetch(server, "chunks/large")
    timer.join()


def test_a_rate_limit_takes_time(server: Server) -> None:
    server.start(rate=2_000_000)
    started = time.monotonic()
    fetch(server, "chunks/large")
    assert time.monotonic() - started >= 0.9


def test_two_servers_do_not_disturb_each_other(server: Server, tmp_path: Path) -> None:
    other_logs = tmp_path / "other"
    other_logs.mkdir()
    (tmp_path / "root2").mkdir()
    with Server(tmp_path / "root2", other_logs) as other:
        assert other.port != server.port
    assert fetch(server, "small") == b"hello"


def test_a_taken_port_is_reported_with_the_reason(server: Server, tmp_path: Path) -> None:
    logs = tmp_path / "second"
    logs.mkdir()
    second = Server(tmp_path, logs)
    second.port = server.port
    with pytest.raises(MachineExited, match="Address already in use"):
        second.start()
    second.close()


def test_a_half_written_line_of_the_log_waits_for_its_end() -> None:
    line = (
        '{"time":1795231724.310,"method":"GET","path":"/a","status":200,"bytes":7,'
        '"range":"","agent":"orbital","complete":"OK"}\n'
    )
    assert parse(line + line[:40]) == [
        Request(1795231724.310, "GET", "/a", 200, 7, "", "orbital", True)
    ]
    aborted = line.replace('"OK"', '""')
    assert [request.complete for request in parse(line + aborted)] == [True, False]
