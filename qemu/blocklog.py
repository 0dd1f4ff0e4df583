"""Records every write and flush that a guest sends to its disk; reads and writes such records.

The format is that of the kernel's dm-log-writes target
(Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c), written by
QEMU's block driver blklogwrites: a super block, then for each request one sector that describes
it and the data that it carried. All integers are little-endian.

A request is in the log before the guest is told that it is done, and a flush when it is sent. So
what the guest knew to be done when it sent a flush stands before that flush.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qemu import storage
from qemu.errors import MachineError
from qemu.faults import attach_disk
from qemu.machine import Machine

SECTOR = 512
_MAGIC = 0x6A736677736872
_VERSION = 1
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8
_NODE, _FILE = "recorded0", "record0"


@dataclass(frozen=True)
class Request:
    """One request of the guest, in bytes of the disk.

    data: what is written; b"" for a flush alone and for a discard. size: how many bytes it
    concerns. flush: what was done before it reaches the medium first. fua: it is itself on
    the medium when the guest is told.
    """

    offset: int
    size: int
    data: bytes
    flush: bool = False
    fua: bool = False
    discard: bool = False


@contextmanager
def recorded(machine: Machine, base: Path, log: Path) -> Iterator[None]:
    """Records what the guest writes within the block.

    The machine stands still while its disk as it is then is copied to base (raw, sparse).
    """
    machine.qmp.execute("stop")  # QEMU drains and flushes its disks, too.
    storage.export_raw(machine.disk, base)
    log.write_bytes(b"")
    machine.qmp.execute(
        "blockdev-add",
        {
            "driver": "file",
            "node-name": _FILE,
            "filename": str(log.resolve()),
            "cache": {"no-flush": True},
        },
    )
    machine.qmp.execute(
        "blockdev-add",
        {
            "driver": "blklogwrites",
            "node-name": _NODE,
            "file": "image0",
            "log": _FILE,
            "log-sector-size": SECTOR,
        },
    )
    attach_disk(machine, _NODE)
    machine.qmp.execute("cont")
    try:
        yield
    finally:
        if machine.running:
            machine.qmp.execute("stop")
            attach_disk(machine, "image0")
            machine.qmp.execute("blockdev-del", {"node-name": _NODE})
            machine.qmp.execute("blockdev-del", {"node-name": _FILE})
            machine.qmp.execute("cont")


def read_log(path: Path) -> Iterator[Request]:
    """The requests of a log, in order. Raises MachineError when it is none."""
    with path.open("rb") as log:
        head = log.read(SECTOR).ljust(SECTOR, b"\0")
        magic, version, count, sector = _SUPER.unpack_from(head)
        if (magic, version, sector) != (_MAGIC, _VERSION, SECTOR):
            raise MachineError(
                f"cannot read {path}: it is no log of writes in sectors of {SECTOR} bytes"
            )
        for _ in range(count):
            entry = log.read(SECTOR)
            if len(entry) < SECTOR:
                return
            first, sectors, flags, _ = _ENTRY.unpack_from(entry)
            discard, mark = bool(flags & _DISCARD), bool(flags & _MARK)
            size = sectors * SECTOR
            data = b"" if discard or mark else log.read(size)
            if mark:
                continue
            yield Request(
                first * SECTOR,
                size,
                data,
                flush=bool(flags & _FLUSH),
                fua=bool(flags & _FUA),
                discard=discard,
            )


def write_log(path: Path, requests: Iterable[Request]) -> None:
    """Writes a log in the same format."""
    count = 0
    with path.open("wb") as log:
        log.seek(SECTOR)
        for request in requests:
            flags = _FLUSH * request.flush | _FUA * request.fua | _DISCARD * request.discard
            entry = _ENTRY.pack(request.offset // SECTOR, request.size // SECTOR, flags, 0)
            log.write(entry.ljust(SECTOR, b"\0") + request.data)
            count += 1
        log.seek(0)
        log.write(_SUPER.pack(_MAGIC, _VERSION, count, SECTOR).ljust(SECTOR, b"\0"))
