"""mount(2) and reboot(2) for early boot, through libc: no process to start, exact errors."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

READ_ONLY = 1
NOSUID = 2
NODEV = 4
NOEXEC = 8
BIND = 4096
_DETACH = 2
_AUTOBOOT = 0x01234567
# reboot(2); numbers from arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl
# (arm64, riscv64) and arch/arm/tools/syscall.tbl.
_REBOOT_MAGIC = (ctypes.c_long(0xFEE1DEAD), ctypes.c_long(672274793))
_RESTART2 = ctypes.c_long(0xA1B2C3D4)
_REBOOT_CALL = {"x86_64": 169, "aarch64": 142, "riscv64": 142, "armv7l": 88}

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    """Mounts. Raises OSError with the target's name."""
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path) -> None:
    """Unmounts lazily. Raises OSError."""
    if _libc.umount2(os.fsencode(target), _DETACH) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def restart(argument: str = "") -> None:
    """Restarts the machine at once. The caller has made durable what has to be.

    argument: for the firmware, as systemd takes it from /run/systemd/reboot-param.
    """
    os.sync()
    if argument:
        # glibc's reboot(2) has no argument. Where it is refused, the restart below is left.
        number = _REBOOT_CALL.get(os.uname().machine)
        if number is not None:
            _libc.syscall(number, *_REBOOT_MAGIC, _RESTART2, argument.encode())
    _libc.reboot(_AUTOBOOT)
