"""Stops every CPU of a machine for good, through QEMU's debugger interface.

The GDB Remote Serial Protocol (GDB manual, appendix E): packets are
`$DATA#CHECKSUM`, each acknowledged with `+`. Register numbers of x86-64 are
those of GDB's target description: 16 rip, 17 eflags.
"""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path

from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, MachineError
from qemu.qmp import Qmp

_RIP, _EFLAGS = 16, 17
_INTERRUPTS = 1 << 9
_JUMP_TO_ITSELF = "ebfe"


def hang(qmp: Qmp) -> None:
    """Makes every CPU of an x86-64 machine spin with interrupts off.

    Raises MachineError when the debugger interface does not do it.
    """
    with tempfile.TemporaryDirectory(prefix="orbital-", dir="/tmp") as directory:
        path = Path(directory) / "gdb"
        # Stopped first: a debugger that attaches to a running machine gets a
        # stop report among its answers.
        qmp.execute("stop")
        answer = qmp.monitor(f"gdbserver unix:{path},server=on,wait=off")
        try:
            connection = _Connection(path, answer)
            threads = connection.threads()
            if not threads:
                raise MachineError("cannot hang the machine: QEMU shows no CPU")
            # Real mode: the instruction pointer counts from the code segment's base.
            bases = re.findall(r"^CS =\w+ (\w+)", qmp.monitor("info registers -a"), re.MULTILINE)
            for thread, base in zip(threads, bases, strict=True):
                connection.command(f"Hg{thread}")
                flags = int.from_bytes(bytes.fromhex(connection.command(f"p{_EFLAGS:x}")), "little")
                quiet = (flags & ~_INTERRUPTS).to_bytes(4, "little").hex()
                connection.expect_ok(f"P{_EFLAGS:x}={quiet}")
                where = int.from_bytes(bytes.fromhex(connection.command(f"p{_RIP:x}")), "little")
                connection.expect_ok(f"M{where + int(base, 16):x},2:{_JUMP_TO_ITSELF}")
            connection.command("D")
        finally:
            qmp.monitor("gdbserver none")
            qmp.execute("cont")


class _Connection:
    """A debugger's side of the protocol."""

    def __init__(self, path: Path, answer: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        deadline = Deadline(10)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                if deadline.expired:
                    raise DeadlineExpired(
                        "cannot reach QEMU's debugger interface", details=answer
                    ) from error
                deadline.pause(0.02)
        self.command("?")
        # QEMU gives single registers only to those who read its description of them.
        self.command("qXfer:features:read:target.xml:0,ffb")

    def threads(self) -> list[str]:
        """One for each CPU."""
        found: list[str] = []
        answer = self.command("qfThreadInfo")
        while answer.startswith("m"):
            found += answer[1:].split(",")
            answer = self.command("qsThreadInfo")
        return found

    def expect_ok(self, data: str) -> None:
        """Sends a command that must succeed."""
        answer = self.command(data)
        if answer != "OK":
            raise MachineError(f"cannot hang the machine: {data[:12]} was answered {answer!r}")

    def command(self, data: str) -> str:
        """Sends a command and returns the answer's data."""
        checksum = sum(data.encode()) % 256
        self._socket.sendall(f"${data}#{checksum:02x}".encode())
        received = b""
        while b"#" not in received or len(received) < received.index(b"#") + 3:
            piece = self._socket.recv(65536)
            if not piece:
                raise MachineError("cannot hang the machine: QEMU closed its debugger interface")
            received += piece
        self._socket.sendall(b"+")
        return received[received.index(b"$") + 1 : received.index(b"#")].decode()
