"""The test shell's protocol, without any input or output: bytes in, messages out.

The formats are in agent.sh, the other end.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from qemu.qmp import LineSplitter


@dataclass(frozen=True)
class Hello:
    """A shell started in the guest (or was asked who it is)."""

    session: str
    boot_id: str


@dataclass(frozen=True)
class Answer:
    """A command ended. output: what it printed on standard output and error."""

    session: str
    id: int
    returncode: int
    output: bytes


Message = Hello | Answer

# Each request begins a new line, whatever an earlier one left unfinished.
WHO = b"\nWHO\n"


def request(session: str, number: int, script: bytes, seconds: int) -> bytes:
    """Asks the shell of that session to run a script for at most so many seconds."""
    return b"\nRUN %s %d %d %d\n%s" % (session.encode(), number, seconds, len(script), script)


class Decoder:
    """Finds messages in what the guest sends, in pieces of any size.

    Text out of place (the half answer of a shell that was killed) is dropped:
    an answer counts only from its BEGIN to the END of the same session and id.
    """

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._begun: tuple[bytes, bytes] | None = None
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that this piece completes."""
        for line in self._lines.feed(data):
            message = self._take(line)
            if message:
                yield message

    def _take(self, line: bytes) -> Message | None:
        match line.split():
            case [b"HELLO", session, boot_id]:
                self._begun = None
                return Hello(session.decode(), boot_id.decode())
            case [b"BEGIN", session, number]:
                self._begun, self._body = (session, number), []
            case [b"END", session, number, code] if self._begun == (session, number):
                self._begun = None
                try:
                    output = base64.b64decode(b"".join(self._body), validate=True)
                    return Answer(session.decode(), int(number), int(code), output)
                except (binascii.Error, ValueError):
                    return None
            case [word] if self._begun:
                self._body.append(word)
        return None
