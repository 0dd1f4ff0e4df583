"""What the host and a guest of `benchmarks.install` say to each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.install.inside import READY
from benchmarks.install.machine import Guest, used
from recovery.errors import ToolError


class Wired(Guest):
    """A guest whose wire is a socket."""

    def processor_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        os.close(self._wire)


@contextmanager
def wired(*parts: bytes) -> Iterator[tuple[Wired, socket.socket]]:
    """A guest that sends these parts, a moment apart, and then no more."""
    here, there = socket.socketpair()

    def send() -> None:
        for part in parts:
            there.sendall(part)
            time.sleep(0.02)
        there.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with Wired(here.detach(), lambda: "Kernel panic") as guest:
            yield guest, there
    finally:
        sender.join()
        there.close()


def test_an_answer_may_come_in_parts() -> None:
    with wired(READY, b'{"code"', b': 0, "output": "done"}\n') as (guest, there):
        assert guest.run("true", "--now") == "done"
        question = json.loads(there.recv(1 << 16))
    assert question == {"do": "execute", "command": ["true", "--now"]}


def test_a_guest_that_goes_away_is_an_error_with_what_it_printed_last() -> None:
    with wired(READY, b'{"co') as (guest, _), pytest.raises(ToolError) as raised:
        guest.ask("measure")
    assert raised.value.brief == "cannot measure in the guest"
    assert raised.value.details == "Kernel panic"


@pytest.mark.parametrize("said", [b"", b'{"error": "no such module"}\n'])
def test_a_guest_that_does_not_say_that_it_is_ready_is_refused(said: bytes) -> None:
    with pytest.raises(ToolError, match="cannot start the guest"), wired(said):
        pytest.fail("it was taken for ready")


def test_what_a_process_used_includes_its_children_that_ended() -> None:
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); input()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 30
        while used(child.pid) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert used(child.pid) >= 0.3
        assert child.stdin is not None
        child.stdin.write(b"\n")
