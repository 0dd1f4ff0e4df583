"""A disk whose boot sector is a tiny guest, so that the harness can be tested in seconds.

It prints BOOT on the serial port and then, 18 times a second, writes a sector
to the disk and prints `.` when that worked, `E` when it did not.
"""

from __future__ import annotations

from pathlib import Path

_CODE = bytes.fromhex(
    "31c0"  # xor ax, ax
    "8ed8"  # mov ds, ax
    "8ec0"  # mov es, ax
    "fc"  # cld
    "be317c"  # mov si, text
    "baf803"  # mov dx, COM1
    "ac"  # next: lodsb
    "84c0"  # test al, al
    "7403"  # jz work
    "ee"  # out dx, al
    "ebf8"  # jmp next
    "b80103"  # work: mov ax, write one sector
    "bb007c"  # mov bx, this code
    "b90900"  # mov cx, sector 9
    "ba8000"  # mov dx, first disk
    "cd13"  # int 0x13
    "baf803"  # mov dx, COM1
    "b02e"  # mov al, '.'
    "7302"  # jnc print
    "b045"  # mov al, 'E'
    "ee"  # print: out dx, al
    "fb"  # sti
    "f4"  # hlt: until the timer's next tick
    "ebe4"  # jmp work
)
_TEXT = b"BOOT\r\n\0"
TEXT_AT = 0x31
SIZE = 1 << 20


def write(path: Path) -> Path:
    """Makes the disk image (raw)."""
    assert len(_CODE) == TEXT_AT
    sector = (_CODE + _TEXT).ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(SIZE, b"\0"))
    return path
