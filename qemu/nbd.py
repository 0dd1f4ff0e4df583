"""Reads and writes a disk through the NBD protocol (fixed newstyle, EXPORT_NAME).

Numbers and field order: the NBD project's doc/proto.md. All integers are
big-endian.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from qemu.errors import MachineError

_INIT_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
_OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE = 1
_NO_ZEROES = 2
_OPT_EXPORT_NAME = 1
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_PIECE = 8 << 20


class NbdClient:
    """One export of an NBD server on a Unix socket. size: its bytes."""

    def __init__(self, path: Path, export: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        magic, option, flags = struct.unpack(">QQH", self._receive(18))
        if (magic, option) != (_INIT_MAGIC, _OPTION_MAGIC) or not flags & _FIXED_NEWSTYLE:
            raise MachineError("cannot use the disk: the server does not speak NBD")
        self._socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE | (flags & _NO_ZEROES)))
        name = export.encode()
        self._socket.sendall(struct.pack(">QII", _OPTION_MAGIC, _OPT_EXPORT_NAME, len(name)) + name)
        self.size, _ = struct.unpack(">QH", self._receive(10))
        if not flags & _NO_ZEROES:
            self._receive(124)
        self._cookie = 0

    def read(self, offset: int, length: int) -> bytes:
        """Exactly length bytes from offset."""
        parts: list[bytes] = []
        for start in range(offset, offset + length, _PIECE):
            count = min(_PIECE, offset + length - start)
            self._request(_READ, start, count)
            parts.append(self._receive(count))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Replaces the bytes at offset."""
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self._request(_WRITE, offset + start, len(piece), piece)

    def close(self) -> None:
        """Flushes and disconnects."""
        try:
            self._request(_FLUSH, 0, 0)
            self._socket.sendall(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        finally:
            self._socket.close()

    def _request(self, kind: int, offset: int, length: int, data: bytes = b"") -> None:
        self._cookie += 1
        head = struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, kind, self._cookie, offset, length)
        self._socket.sendall(head + data)
        magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
        if magic != _REPLY_MAGIC or cookie != self._cookie:
            raise MachineError("cannot use the disk: the NBD server's reply is out of step")
        if error:
            verb = {_READ: "read", _WRITE: "write", _FLUSH: "flush"}[kind]
            raise MachineError(
                f"cannot {verb} {length} bytes at {offset} of the disk: {os.strerror(error)}",
                details=f"the disk has {self.size} bytes",
            )

    def _receive(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            piece = self._socket.recv(count - len(parts))
            if not piece:
                raise MachineError("cannot use the disk: the NBD server closed the connection")
            parts += piece
        return bytes(parts)
