"""Runs in the guest: a Microchip MCP2221, a USB adapter with four GPIO lines, through /dev/uhid.

Debian's kernel has no simulated GPIO chip (gpio-sim, gpio-mockup), but a real
driver for this one, hid-mcp2221, which talks to it in 64 byte HID reports
(data sheet DS20005565, 3.1). All lines are inputs here; the third is high.

    python3 mcp2221.py     plugs it in, and out when it ends

Structures and events: linux/uhid.h.
"""

from __future__ import annotations

import os
import struct

_CREATE2, _INPUT2, _OUTPUT = 11, 12, 6
_USB, _MICROCHIP, _MCP2221 = 3, 0x04D8, 0x00DD
_EVENT = 4 + 128 + 64 + 64 + 20 + 4096
# Vendor page: 64 bytes in, 64 bytes out.
_REPORTS = bytes.fromhex(
    "0600ff0901a101 0902150026ff0075089540 8102 0903150026ff0075089540 9102 c0".replace(" ", "")
)
_GET_LINES = 0x51
_HIGH = (0, 0, 1, 0)
_INPUT = 1


def answer(report: bytes) -> bytes:
    """To a command, whose code is the first byte of the report."""
    # The code again, 0 for success, and with the lines' state value and direction of each.
    lines = bytes(part for high in _HIGH for part in (high, _INPUT))
    body = lines if report[0] == _GET_LINES else b""
    return (report[:1] + b"\0" + body).ljust(64, b"\0")


def main() -> None:
    """Answers until it is ended."""
    device = os.open("/dev/uhid", os.O_RDWR)
    create = struct.pack(
        "<I128s64s64sHHIIII", _CREATE2, b"mcp2221", b"", b"", len(_REPORTS), _USB, _MICROCHIP,
        _MCP2221, 0x0100, 0,
    )  # fmt: skip
    os.write(device, create + _REPORTS.ljust(4096, b"\0"))
    while True:
        event = os.read(device, _EVENT)
        if struct.unpack_from("<I", event)[0] == _OUTPUT:
            size = struct.unpack_from("<H", event, 4 + 4096)[0]
            said = answer(event[4 : 4 + size])
            os.write(device, struct.pack("<IH", _INPUT2, len(said)) + said)


if __name__ == "__main__":
    main()
