"""Runs commands in the guest, as root, over the virtio-serial port `orbital.test`.

The guest's side (agent.sh) comes as a systemd credential from the machine, so
the image under test is the image that ships.
"""

from __future__ import annotations

import base64
import shlex
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from qemu import protocol
from qemu.deadline import Deadline
from qemu.errors import CommandFailed, DeadlineExpired, GuestRestarted, MachineError, MachineExited

# How much longer than the guest itself the host waits for a command's end:
# timeout(1) sends SIGTERM, 5 s later SIGKILL, then the answer must travel.
_GRACE_SECONDS = 15
# A guest that does not run does not read either: struct timeval for 60 s.
_SEND_TIMEOUT = struct.pack("ll", 60, 0)
# How long to wait for the guest's greeting before asking for it (again).
_ASK_SECONDS = 5.0
# Exit code of our own scripts for a job of an earlier boot.
_GONE = 70


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended. output: standard output and error, as text."""

    returncode: int
    output: str
    raw: bytes
    seconds: float


class Shell:
    """The connection to the guest's shell. One command runs at a time.

    Survives reboots of the guest: a command that was running then raises
    GuestRestarted, later ones wait for the new shell.
    """

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._socket = connection
        self._log = log.open("a", encoding="utf-8")
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._hello: protocol.Hello | None = None
        self._answers: dict[int, protocol.Answer] = {}
        # Ids must differ from those of an earlier host on the same guest (a snapshot).
        self._last_id = int(time.time() * 1000) % 1_000_000_000
        self._closed = False
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        threading.Thread(target=self._read, name="shell", daemon=True).start()

    @property
    def boot_id(self) -> str:
        """The kernel's boot id of the guest last heard of, "" before the first."""
        with self._changed:
            return self._hello.boot_id if self._hello else ""

    def wait(self, deadline: Deadline | float, *, not_boot: str | None = None) -> str:
        """Waits until a shell runs in the guest and returns its boot id.

        not_boot: a boot id that does not count, to wait for the boot after it.
        Raises DeadlineExpired or MachineExited.
        """
        return self._session(Deadline.of(deadline), not_boot).boot_id

    def run(self, command: str, timeout: float = 60, *, check: bool = True) -> Result:
        """Runs a shell script in the guest and waits for its end, timeout seconds at most.

        The time includes waiting for the shell. Raises CommandFailed when it
        exits with another code than 0 (with check), DeadlineExpired when it
        does not end (it is killed then), GuestRestarted or MachineExited when
        the guest did not live to answer.
        """
        started = time.monotonic()
        deadline = Deadline(timeout)
        with self._turn:
            session = self._session(deadline, None).session
            answer = self._exchange(session, command, deadline)
        seconds = time.monotonic() - started
        result = Result(
            answer.returncode, answer.output.decode("utf-8", "replace"), answer.output, seconds
        )
        self._note(f"= {answer.returncode} ({seconds:.2f} s)\n{result.output[-4000:]}")
        if check and answer.returncode == 124:
            raise DeadlineExpired(
                f"cannot finish in {timeout:g} s in the guest: {command}",
                details=result.output[-3000:],
            )
        if check and answer.returncode != 0:
            raise CommandFailed(
                f"cannot complete in the guest: {command}: exit code {answer.returncode}",
                details=result.output[-3000:],
            )
        return result

    def push(self, path: str, data: bytes, timeout: float = 120) -> None:
        """Writes a file in the guest, making its directory."""
        target = shlex.quote(path)
        body = base64.encodebytes(data).decode()
        self.run(
            f'mkdir -p "$(dirname {target})" && base64 -d > {target} <<"END"\n{body}END', timeout
        )

    def pull(self, path: str, timeout: float = 120) -> bytes:
        """Reads a file of the guest."""
        return self.run(f"cat -- {shlex.quote(path)}", timeout).raw

    def spawn(self, command: str) -> Job:
        """Starts a command in the guest's background; it outlives this shell, not the boot."""
        directory = self.run(
            "mkdir -p /run/orbital-test && mktemp -d /run/orbital-test/job.XXXXXX"
        ).output.strip()
        script = f"({command}\n) >{directory}/output 2>&1 </dev/null; echo $? >{directory}/code"
        self.run(f"setsid sh -c {shlex.quote(script)} >/dev/null 2>&1 </dev/null &")
        return Job(self, directory, command)

    def _session(self, deadline: Deadline, not_boot: str | None) -> protocol.Hello:
        next_question = 0.0
        with self._changed:
            while not self._hello or self._hello.boot_id == not_boot:
                if not self._hello and not self._closed and time.monotonic() >= next_question:
                    # A shell that started before us (a snapshot) greets when asked.
                    self._send(protocol.WHO)
                    next_question = time.monotonic() + _ASK_SECONDS
                if self._closed:
                    raise MachineExited("cannot reach the guest's shell: the machine ended")
                if deadline.expired:
                    raise DeadlineExpired(
                        f"cannot reach the guest's shell within {deadline.seconds:g} s",
                        resolution="see console.log; the guest needs systemd 256 or later and"
                        " the kernel's virtio_console and dmi-sysfs",
                    )
                self._changed.wait(min(deadline.remaining, _ASK_SECONDS))
            return self._hello

    def _exchange(self, session: str, command: str, deadline: Deadline) -> protocol.Answer:
        self._last_id += 1
        number = self._last_id
        seconds = max(1, round(deadline.remaining))
        self._note(f"$ {command[:2000]}")
        self._send(protocol.request(session, number, command.encode(), seconds))
        limit = Deadline(deadline.remaining + _GRACE_SECONDS)
        with self._changed:
            while number not in self._answers:
                if self._closed:
                    raise MachineExited(f"cannot finish in the guest: {command}: the machine ended")
                if not self._hello or self._hello.session != session:
                    raise GuestRestarted(
                        f"cannot finish in the guest: {command}: the guest restarted"
                    )
                if limit.expired:
                    raise DeadlineExpired(f"cannot get an answer from the guest for: {command}")
                self._changed.wait(limit.remaining)
            return self._answers.pop(number)

    def port_closed(self) -> None:
        """The guest's end went away (events VSERPORT_CHANGE, RESET): its shell is no more."""
        with self._changed:
            self._hello = None
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError as error:
            raise DeadlineExpired("cannot send to the guest's shell: it does not read") from error
        except OSError as error:
            raise MachineExited(f"cannot reach the guest's shell: {error}") from error

    def _read(self) -> None:
        decoder = protocol.Decoder()
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            for message in decoder.feed(data):
                self._take(message)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._log.close()

    def _take(self, message: protocol.Message) -> None:
        with self._changed:
            if isinstance(message, protocol.Hello):
                if message != self._hello:
                    self._note(f"# shell {message.session} of boot {message.boot_id}")
                self._hello = message
            elif self._hello and message.session == self._hello.session:
                self._answers[message.id] = message
            self._changed.notify_all()

    def _note(self, text: str) -> None:
        if not self._log.closed:
            self._log.write(f"{time.time():.3f} {text}\n")
            self._log.flush()


@dataclass(frozen=True)
class Job:
    """A command in the guest's background."""

    shell: Shell
    directory: str
    command: str

    def poll(self) -> int | None:
        """Its exit code, or None while it runs.

        Raises GuestRestarted when the guest that it ran in is no more.
        """
        found = self.shell.run(
            f"cd {self.directory} || exit {_GONE}; cat code 2>/dev/null || :", check=False
        )
        if found.returncode == _GONE:
            raise GuestRestarted(f"cannot finish in the guest: {self.command}: the guest restarted")
        return int(found.output) if found.output.strip() else None

    def wait(self, timeout: float) -> Result:
        """Waits for its end. Raises DeadlineExpired, GuestRestarted or MachineExited."""
        started = time.monotonic()
        deadline = Deadline(timeout)
        while (code := self.poll()) is None:
            if deadline.expired:
                raise DeadlineExpired(
                    f"cannot finish in {timeout:g} s in the guest: {self.command}",
                    details=self.output()[-3000:],
                )
            deadline.pause(0.3)
        raw = self.shell.pull(f"{self.directory}/output")
        return Result(code, raw.decode("utf-8", "replace"), raw, time.monotonic() - started)

    def output(self) -> str:
        """What it printed so far."""
        try:
            return self.shell.run(f"cat {self.directory}/output").output
        except MachineError as error:
            return f"(no output: {error.brief})"
