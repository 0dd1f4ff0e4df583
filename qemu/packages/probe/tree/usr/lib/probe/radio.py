"""Adds an interface to the first radio and removes it, through nl80211 (linux/nl80211.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_REQUEST, _ACKNOWLEDGE = 1, 4
_ERROR = 2
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_NEW_INTERFACE, _DEL_INTERFACE = 7, 8
_WIPHY, _IFINDEX, _IFNAME, _IFTYPE = 1, 3, 4, 5
_STATION = 2
_NAME = "probe-radio"


def add_interface() -> bool:
    """Whether it worked. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as link:
        link.settimeout(10)
        wanted = _attribute(_FAMILY_NAME, b"nl80211\0")
        family = dict(_ask(link, _CONTROL, _GET_FAMILY, wanted))[_FAMILY_ID]
        number = struct.unpack("H", family)[0]
        made = _attribute(_WIPHY, struct.pack("I", _first_radio()))
        made += _attribute(_IFNAME, _NAME.encode() + b"\0")
        made += _attribute(_IFTYPE, struct.pack("I", _STATION))
        list(_ask(link, number, _NEW_INTERFACE, made))
        index = struct.pack("I", socket.if_nametoindex(_NAME))
        list(_ask(link, number, _DEL_INTERFACE, _attribute(_IFINDEX, index)))
    return True


def _first_radio() -> int:
    radios = sorted(Path("/sys/class/ieee80211").iterdir())
    return int((radios[0] / "index").read_text())


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _ask(link: socket.socket, kind: int, command: int, more: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of the answer, until the kernel acknowledges. Raises OSError."""
    body = struct.pack("BBH", command, 1, 0) + more
    head = struct.pack("IHHII", 16 + len(body), kind, _REQUEST | _ACKNOWLEDGE, 1, 0)
    link.send(head + body)
    while True:
        data = link.recv(1 << 16)
        while data:
            size, what = struct.unpack_from("IH", data)
            message, data = data[16:size], data[(size + 3) & ~3 :]
            if what == _ERROR:
                code = -struct.unpack_from("i", message)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return
            message = message[4:]
            while len(message) >= 4:
                length, name = struct.unpack_from("HH", message)
                yield name, message[4:length]
                message = message[(length + 3) & ~3 :]
