"""What asks a service for a sign of life: real sockets, real programs."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from recovery.packages import probe
from recovery.packages.probe import execute, main, wait

SH = "/bin/sh"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(probe, "_COMMAND_PAUSE_SECONDS", 0.01)


def counting(tmp_path: Path, then: str) -> tuple[list[str], Path]:
    """A command that notes each run in a file and goes on with that script."""
    runs = tmp_path / "runs"
    return [SH, "-c", f"echo run >>{runs}; {then}"], runs


@pytest.mark.usefixtures("quick")
def test_a_command_that_passes_runs_once(tmp_path: Path) -> None:
    command, runs = counting(tmp_path, "exit 0")
    assert main(["exec", "30", *command]) == 0
    assert runs.read_text().count("run") == 1


@pytest.mark.usefixtures("quick")
def test_a_command_that_passes_at_the_third_try_is_well(tmp_path: Path) -> None:
    command, runs = counting(tmp_path, f"test $(wc -l <{tmp_path}/runs) -ge 3")
    assert main(["exec", "30", *command]) == 0
    assert runs.read_text().count("run") == 3


@pytest.mark.usefixtures("quick")
def test_a_command_that_never_passes_fails_when_the_time_is_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command, runs = counting(tmp_path, "echo the reason >&2; exit 7")
    began = time.monotonic()
    assert main(["exec", "0.5", *command]) == 1
    assert time.monotonic() - began >= 0.5
    assert runs.read_text().count("run") > 3
    said = capfd.readouterr().err
    assert "the reason" in said
    assert said.endswith(f"{SH}: exit code 7\n")


@pytest.mark.usefixtures("quick")
def test_a_command_that_hangs_gets_three_tries_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """As on a device so slow that each try takes all the time."""
    # A child that keeps our output open must not keep us waiting either.
    child = tmp_path / "child"
    command, runs = counting(tmp_path, f"sleep 600 & echo $! >{child}; wait")
    began = time.monotonic()
    assert main(["exec", "0.4", *command]) == 1
    assert 1.2 <= time.monotonic() - began < 30
    assert runs.read_text().count("run") == 3
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    limit = time.monotonic() + 20
    while _runs(state):
        assert time.monotonic() < limit
        time.sleep(0.05)


def _runs(state: Path) -> bool:
    """Whether a killed process is not yet gone, by its /proc/PID/stat."""
    try:
        return state.read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_command_that_is_not_there_is_said() -> None:
    assert execute(["/usr/bin/no-such-program"], 5) == (
        "/usr/bin/no-such-program: No such file or directory"
    )


def test_a_command_killed_by_a_signal_has_not_passed() -> None:
    assert execute([SH, "-c", "kill -9 $$"], 5) == f"{SH}: exit code -9"


def test_however_short_the_time_there_are_three_tries() -> None:
    tries: list[int] = []

    def attempt() -> str:
        tries.append(1)
        return "no"

    assert wait(attempt, 0, pause=0) == "no"
    assert len(tries) == 3


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_http_judges_by_the_status(status: int, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(f"HTTP/1.0 {status} x\r\n\r\n".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert main(["http", f"http://127.0.0.1:{port}/", "200", "0.1"]) == code
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_tcp_sees_whether_something_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert main(["tcp", port, "5"]) == 0
    assert main(["tcp", port, "0.1"]) == 1


@pytest.mark.parametrize(
    "words", [[], ["udp", "1", "2"], ["exec"], ["exec", "5"], ["exec", "x", "/bin/true"]]
)
def test_words_without_sense_are_another_code(words: list[str]) -> None:
    assert main(words) == 2
