"""mount(2) and reboot(2) for early boot, through libc: no process to start, exact errors."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NOSUID = 2
NODEV = 4
NOEXEC = 8
BIND = 4096
_DETACH = 2
_AUTOBOOT = 0x01234567

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


def restart() -> None:
    """Restarts the machine at once. The caller has made durable what has to be."""
    os.sync()
    _libc.reboot(_AUTOBOOT)
