"""Health checks against real programs, sockets and servers."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.device import HealthCheck
from recovery.health import failures, run_check, run_checks


@pytest.fixture
def web() -> Iterator[int]:
    """A web server on the loopback that knows /ok only."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ok" else 500)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_program_that_exits_with_0_passes() -> None:
    result = run_check(HealthCheck("good", "exec", 5, command=("/bin/true",)))
    assert (result.passed, result.detail) == (True, "")


def test_a_program_that_fails_is_repeated_until_it_passes(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"test -e {mark} && exit 0; touch {mark}; exit 1"
    result = run_check(HealthCheck("late", "exec", 10, command=("/bin/sh", "-c", script)))
    assert result.passed
    assert result.seconds >= 1


def test_a_failure_says_what_the_program_said() -> None:
    command = ("/bin/sh", "-c", "echo no route to host; exit 3")
    result = run_check(HealthCheck("bad", "exec", 1, command=command))
    assert not result.passed
    assert "/bin/sh exited with 3: no route to host" in result.detail


def test_a_hanging_program_is_killed_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 1000 & echo $! > {child}; wait"
    started = time.monotonic()
    result = run_check(HealthCheck("hangs", "exec", 1, command=("/bin/sh", "-c", script)))
    assert not result.passed
    assert "did not end in time" in result.detail
    assert time.monotonic() - started < 4
    status = Path("/proc", child.read_text().strip(), "status")
    deadline = time.monotonic() + 2
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < deadline, "the child still runs"
        time.sleep(0.05)


def test_a_missing_program_is_a_failed_check_not_an_error() -> None:
    result = run_check(HealthCheck("missing", "exec", 1, command=("/no/such",)))
    assert not result.passed
    assert "cannot run /no/such" in result.detail


def test_http_passes_on_the_declared_status_only(web: int) -> None:
    ok = run_check(HealthCheck("web", "http", 2, url=f"http://127.0.0.1:{web}/ok"))
    wrong = run_check(HealthCheck("web", "http", 1, url=f"http://127.0.0.1:{web}/other"))
    assert ok.passed
    assert not wrong.passed
    assert "answered 500, not 200" in wrong.detail


def test_tcp_passes_when_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run_check(HealthCheck("port", "tcp", 2, host="127.0.0.1", port=port)).passed
    closed = run_check(HealthCheck("port", "tcp", 1, host="127.0.0.1", port=port))
    assert "Connection refused" in closed.detail


def test_checks_run_at_once_and_keep_their_order() -> None:
    checks = [
        HealthCheck(f"slow-{number}", "exec", 5, command=("/bin/sleep", "1")) for number in range(5)
    ]
    started = time.monotonic()
    results = run_checks([*checks, HealthCheck("bad", "exec", 1, command=("/bin/false",))])
    assert time.monotonic() - started < 4
    assert [result.name for result in results] == [*(check.name for check in checks), "bad"]
    assert "health check bad: /bin/false exited with 1" in failures(results)
    assert "slow" not in failures(results)
