"""Runs the declared health checks of the system and says which passed.

All checks run at once, each in its own thread and, where it is a program, in
its own process group. A check is repeated until it passes or its deadline is
over; a check that hangs is killed with everything it started.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from recovery.device import HealthCheck
from recovery.value import Value

_PAUSE_SECONDS = 1.0
# One try of a network check; the deadline is for all its tries.
_TRY_SECONDS = 10.0
_DETAIL = 300


class HealthResult(Value):
    """What came of one check. detail: why it failed, "" when passed. seconds: how long it took."""

    name: str
    passed: bool
    detail: str
    seconds: float


def run_checks(checks: Sequence[HealthCheck]) -> tuple[HealthResult, ...]:
    """Runs all checks at once and returns when each has passed or missed its deadline.

    In the order of the checks. Never raises for a check: what cannot be run
    has failed.
    """
    results: list[HealthResult | None] = [None] * len(checks)

    def work(index: int) -> None:
        results[index] = run_check(checks[index])

    threads = [
        threading.Thread(target=work, args=(index,), name=check.name, daemon=True)
        for index, check in enumerate(checks)
    ]
    for thread in threads:
        thread.start()
    # The grace is for killing what hangs. A thread that is stuck in the kernel
    # (a disk that does not answer) must not hold up the verdict.
    end = time.monotonic() + max((check.deadline_seconds for check in checks), default=0) + 5
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return tuple(
        result or HealthResult(check.name, False, "hangs and cannot be ended", 0.0)
        for check, result in zip(checks, results, strict=True)
    )


def run_check(check: HealthCheck) -> HealthResult:
    """Repeats one check until it passes or its deadline is over."""
    started = time.monotonic()
    end = started + check.deadline_seconds
    probe = _PROBES[check.kind]
    while True:
        detail = probe(check, max(0.1, end - time.monotonic()))
        now = time.monotonic()
        if not detail or now + _PAUSE_SECONDS >= end:
            break
        time.sleep(_PAUSE_SECONDS)
    seconds = round(now - started, 3)
    if detail:
        detail = f"{detail[:_DETAIL]} (for {seconds:.0f} of {check.deadline_seconds} s)"
    return HealthResult(check.name, not detail, detail, seconds)


def failures(results: Sequence[HealthResult]) -> str:
    """One line that names every failed check and why; "" when all passed."""
    return "; ".join(
        f"health check {result.name}: {result.detail}" for result in results if not result.passed
    )


def _exec(check: HealthCheck, seconds: float) -> str:
    """Passes when the program exits with 0. Returns why it did not, or ""."""
    try:
        # Not through recovery.process: the whole group must be killed at the deadline.
        child = subprocess.Popen(
            check.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot run {check.command[0]}: {error.strerror}"
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill_group(child)
        return f"{check.command[0]} did not end in time and was killed"
    if child.returncode == 0:
        return ""
    words = " ".join(output.decode("utf-8", "replace").split())
    return f"{check.command[0]} exited with {child.returncode}" + (f": {words}" if words else "")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.stdout:
        child.stdout.close()
    child.wait()


def _http(check: HealthCheck, seconds: float) -> str:
    """Passes when GET answers with the status. Returns why it did not, or ""."""
    url = urlsplit(check.url)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    connection = http.client.HTTPConnection(
        url.hostname or "localhost", url.port or 80, timeout=min(_TRY_SECONDS, seconds)
    )
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{check.url}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return "" if status == check.status else f"{check.url} answered {status}, not {check.status}"


def _tcp(check: HealthCheck, seconds: float) -> str:
    """Passes when a connection is accepted. Returns why it was not, or ""."""
    try:
        socket.create_connection(
            (check.host, check.port), timeout=min(_TRY_SECONDS, seconds)
        ).close()
    except OSError as error:
        return f"{check.host}:{check.port}: {error.strerror or error}"
    return ""


def _unit(check: HealthCheck, seconds: float) -> str:
    """Passes when the systemd unit is active. Returns why it is not, or ""."""
    command = ("/usr/bin/systemctl", "is-active", "--", check.unit)
    asked = HealthCheck(check.name, "exec", check.deadline_seconds, command=command)
    answer = _exec(asked, min(_TRY_SECONDS, seconds))
    if not answer:
        return ""
    return f"{check.unit} is not active" + answer.partition(":")[1] + answer.partition(":")[2]


_PROBES: dict[str, Callable[[HealthCheck, float], str]] = {
    "exec": _exec,
    "http": _http,
    "tcp": _tcp,
    "unit": _unit,
}
