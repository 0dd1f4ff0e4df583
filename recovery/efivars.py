"""Variables of UEFI firmware, through Linux's efivarfs (Documentation/filesystems/efivarfs.rst).

A file is attributes, four bytes, and then the value. It is written in one write, and
the firmware makes it durable. What the kernel does not know is immutable by default.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

DIRECTORY = "sys/firmware/efi/efivars"
# EFI_GLOBAL_VARIABLE (UEFI specification, 3.3).
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Non-volatile, boot service access, runtime access (UEFI specification, 8.2).
ATTRIBUTES = (7).to_bytes(4, "little")
LARGEST = 64 << 10
"""Bytes that are read of a variable: no firmware has larger ones of those that are read here."""
# Linux, include/uapi/linux/fs.h.
_LONG = struct.calcsize("l") << 16
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80006601 | _LONG, 0x40006602 | _LONG, 0x10


def read(path: Path) -> bytes:
    """The value, without its attributes; empty when there is no such variable. Raises OSError."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST)[len(ATTRIBUTES) :]
    except FileNotFoundError:
        return b""


def write(path: Path, value: bytes) -> None:
    """Writes a variable that lasts. Raises OSError."""
    with suppress(OSError):
        _make_mutable(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, ATTRIBUTES + value)
    finally:
        os.close(fd)


def _make_mutable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(fd, _GET_FLAGS, flags, True)
        if flags[0] & _IMMUTABLE:
            flags[0] &= ~_IMMUTABLE
            fcntl.ioctl(fd, _SET_FLAGS, flags)
    finally:
        os.close(fd)
