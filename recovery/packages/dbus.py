"""Messages of D-Bus, as far as systemd needs them: calls written, answers read. Pure.

Source: D-Bus Specification, "Type System", "Marshaling" and "Message Protocol".
Numbers are little endian, as on every architecture of ours.
"""

from __future__ import annotations

import struct

from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_TO, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_VERSION = 1
# endian, kind, flags, version, size of the body, serial, size of the fields
_HEAD = struct.Struct("<cBBBIII")
HEAD_SIZE = _HEAD.size
_AT_MOST = 1 << 26
_FIXED = {
    "y": "<B", "b": "<I", "n": "<h", "q": "<H", "i": "<i", "u": "<I", "x": "<q", "t": "<Q",
    "d": "<d", "h": "<I",
}  # fmt: skip
_ALIGNMENT = {
    "y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8,
}  # fmt: skip
_CLOSING = {"(": ")", "{": "}"}


class Message(Value):
    """A message that arrived.

    kind: CALL, RETURN, ERROR or SIGNAL. reply_to: serial of the call that it
    answers. error: name of the error. body: its values; arrays and structures are tuples.
    """

    kind: int
    member: str = ""
    reply_to: int = 0
    error: str = ""
    body: tuple[object, ...] = ()


def call(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    *arguments: str | Sequence[str],
) -> bytes:
    """A method call whose arguments are strings and arrays of strings."""
    body, signature = _Writer(), ""
    for argument in arguments:
        if isinstance(argument, str):
            body.text(argument)
            signature += "s"
        else:
            body.texts(argument)
            signature += "as"
    fields = _Writer()
    for code, kind, text in (
        (_PATH, "o", path),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        (_DESTINATION, "s", destination),
        (_SIGNATURE, "g", signature),
    ):
        # The head's 16 bytes keep the alignment.
        fields.align(8)
        fields.data.append(code)
        fields.signature(kind)
        if kind == "g":
            fields.signature(text)
        else:
            fields.text(text)
    size = len(fields.data)
    fields.align(8)
    head = _HEAD.pack(b"l", CALL, 0, _VERSION, len(body.data), serial, size)
    return head + bytes(fields.data) + bytes(body.data)


def size(head: bytes) -> int:
    """Bytes of the whole message that begins with these HEAD_SIZE bytes. Raises ValueError."""
    endian, _, _, version, body, _, fields = _HEAD.unpack(head)
    total = int(HEAD_SIZE + fields + -fields % 8 + body)
    if endian != b"l" or version != _VERSION or total > _AT_MOST:
        raise ValueError("not a message of D-Bus")
    return total


def parse(data: bytes, signals: Collection[str]) -> Message:
    """The message; of signals, only those with these names get their body read.

    Raises ValueError.
    """
    kind = data[1]
    try:
        # The size of the fields is the head's last number, and the array's first.
        reader = _Reader(data, HEAD_SIZE - 4)
        fields = dict(reader.array("(yv)"))
        reader.align(8)
        member = str(fields.get(_MEMBER, ""))
        # systemd tells of every property that changes, at length.
        told = kind != SIGNAL or member in signals
        body = reader.several(str(fields.get(_SIGNATURE, ""))) if told else ()
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"a message of {len(data)} bytes is cut or wrong: {error}") from error
    reply_to = fields.get(_REPLY_TO, 0)
    return Message(
        kind,
        member,
        reply_to if isinstance(reply_to, int) else 0,
        str(fields.get(_ERROR_NAME, "")),
        body,
    )


class _Writer:
    """Values one after the other, each at a multiple of its alignment."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def number(self, value: int) -> None:
        self.align(4)
        self.data += value.to_bytes(4, "little")

    def text(self, value: str) -> None:
        raw = value.encode()
        self.number(len(raw))
        self.data += raw + b"\0"

    def signature(self, value: str) -> None:
        self.data += bytes([len(value)]) + value.encode() + b"\0"

    def texts(self, values: Sequence[str]) -> None:
        self.number(0)
        start = len(self.data)
        for value in values:
            self.text(value)
        self.data[start - 4 : start] = (len(self.data) - start).to_bytes(4, "little")


class _Reader:
    """The same, read."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def align(self, size: int) -> None:
        self._at += -self._at % size

    def several(self, signature: str) -> tuple[object, ...]:
        """One value for each type of the signature."""
        found = []
        while signature:
            one, signature = _first(signature)
            found.append(self.value(one))
        return tuple(found)

    def value(self, kind: str) -> object:
        """One value of a complete type."""
        first = kind[0]
        self.align(_ALIGNMENT.get(first, 4))
        if first in _FIXED:
            return self._number(_FIXED[first])
        if first in "so":
            return self._text(self._number("<I"))
        if first == "g":
            return self._text(self._number("<B"))
        if first == "v":
            return self.value(self._text(self._number("<B")))
        if first in _CLOSING:
            return self.several(kind[1:-1])
        if first == "a":
            return self.array(kind[1:])
        raise ValueError(f"type {kind!r} is unknown")

    def array(self, kind: str) -> tuple[Any, ...]:
        """An array of values of that type."""
        length = self._number("<I")
        self.align(_ALIGNMENT.get(kind[0], 4))
        end = self._at + length
        if end > len(self._data):
            raise ValueError("an array is longer than its message")
        found = []
        while self._at < end:
            start = self._at
            found.append(self.value(kind))
            if self._at == start:
                raise ValueError("an array of nothing")
        return tuple(found)

    def _number(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value  # type: ignore[no-any-return]

    def _text(self, length: int) -> str:
        end = self._at + length
        if end >= len(self._data):
            raise ValueError("a text is longer than its message")
        text = self._data[self._at : end].decode(errors="replace")
        self._at = end + 1
        return text


def _first(signature: str) -> tuple[str, str]:
    """The first complete type, and what follows it."""
    start = 0
    while signature[start] == "a":
        start += 1
    opening = signature[start]
    end = start + 1
    if opening in _CLOSING:
        depth = 1
        while depth:
            depth += {opening: 1, _CLOSING[opening]: -1}.get(signature[end], 0)
            end += 1
    return signature[:end], signature[end:]
