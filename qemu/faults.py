"""What goes wrong in the life of a device, on purpose and at a chosen moment.

On a running machine: power, network link, disk speed, disk errors, hangs.
On a machine that is off: bytes of its disk.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from qemu import gdb, gpt, storage
from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, MachineError, MachineExited
from qemu.hardware import DISK, NETWORK
from qemu.machine import Machine

_POLL_SECONDS = 0.005
_COPY = 8 << 20


class PowerCut:
    """Waits in the background for a moment, then kills QEMU at once.

    Use as a context manager around what shall be interrupted; afterwards
    `happened` tells whether the moment came.
    """

    def __init__(self, machine: Machine, moment: Callable[[], bool]) -> None:
        self._machine = machine
        self._moment = moment
        self._cancelled = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="power-cut", daemon=True)

    @property
    def happened(self) -> bool:
        """Whether the power was cut."""
        return self._done.is_set()

    def wait(self, timeout: Deadline | float) -> None:
        """Waits for the cut. Raises DeadlineExpired when the moment does not come."""
        deadline = Deadline.of(timeout)
        if not self._done.wait(deadline.remaining):
            raise DeadlineExpired(
                f"cannot cut the power: its moment did not come within {deadline.seconds:g} s",
                details=self._machine.console.tail(),
            )
        self._machine.kill()

    def __enter__(self) -> PowerCut:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()
        self._thread.join()
        if self.happened:
            self._machine.kill()

    def _watch(self) -> None:
        while not self._cancelled.wait(_POLL_SECONDS):
            try:
                if self._moment():
                    # The process only, from this thread; `kill` tidies up in the caller's.
                    os.kill(self._machine.pid, signal.SIGKILL)
                    self._done.set()
                    return
            except (MachineExited, ProcessLookupError):
                return


def cut_after_written(machine: Machine, count: int) -> PowerCut:
    """Cuts the power when the guest has written count more bytes to the disk than now."""
    limit = machine.written() + count
    return PowerCut(machine, lambda: machine.written() >= limit)


def cut_at_console(machine: Machine, pattern: str) -> PowerCut:
    """Cuts the power when the pattern appears on the console from now on."""
    mark = machine.console.mark
    return PowerCut(machine, lambda: machine.console.search(pattern, mark) is not None)


def cut_at_file(path: Path, pattern: str, machine: Machine) -> PowerCut:
    """Cuts the power when a text file of the host (a server's log) has the text, from now on."""
    start = path.stat().st_size if path.exists() else 0

    def seen() -> bool:
        if not path.exists():
            return False
        with path.open("rb") as log:
            log.seek(start)
            return pattern.encode() in log.read()

    return PowerCut(machine, seen)


def set_link(machine: Machine, *, up: bool) -> None:
    """Plugs or unplugs the network cable."""
    machine.qmp.execute("set_link", {"name": NETWORK, "up": up})


@contextmanager
def link_down(machine: Machine) -> Iterator[None]:
    """The network cable is out within the block."""
    set_link(machine, up=False)
    try:
        yield
    finally:
        if machine.running:
            set_link(machine, up=True)


def throttle_disk(machine: Machine, *, bytes_per_second: int = 0, operations: int = 0) -> None:
    """Limits the disk's throughput; 0 means no limit.

    operations: reads and writes per second.
    """
    limits = {"bps": bytes_per_second, "bps_rd": 0, "bps_wr": 0}
    limits |= {"iops": operations, "iops_rd": 0, "iops_wr": 0}
    machine.qmp.execute("block_set_io_throttle", {"id": _disk_device(machine), **limits})


@contextmanager
def disk_stalled(machine: Machine) -> Iterator[None]:
    """The disk answers almost nothing (one byte a second) within the block."""
    throttle_disk(machine, bytes_per_second=1)
    try:
        yield
    finally:
        if machine.running:
            throttle_disk(machine)


@contextmanager
def disk_errors(
    machine: Machine,
    *,
    operation: Literal["read", "write", "flush"],
    offset: int | Iterable[int] | None = None,
    errno: int = 5,
    once: bool = False,
) -> Iterator[None]:
    """The disk reports an error for such operations within the block.

    offset: only operations that touch the sector at that byte, or at one of those; all
    otherwise. errno: error number for the guest, 5 is EIO. once: only the first time.
    """
    rule: dict[str, object] = {
        # "none": the rule holds for every matching operation, not at an event
        # inside the image format (QEMU, qapi/block-core.json, BlkdebugEvent).
        "event": "none",
        "iotype": operation,
        "errno": errno,
        "once": once,
        "immediately": True,
    }
    rules = [rule]
    if offset is not None:
        offsets = [offset] if isinstance(offset, int) else offset
        rules = [{**rule, "sector": at // gpt.SECTOR} for at in offsets]
    node = "faulty0"
    machine.qmp.execute(
        "blockdev-add",
        {"driver": "blkdebug", "node-name": node, "image": "image0", "inject-error": rules},
    )
    attach_disk(machine, node)
    try:
        yield
    finally:
        if machine.running:
            attach_disk(machine, "image0")
            machine.qmp.execute("blockdev-del", {"node-name": node})


def attach_disk(machine: Machine, node: str) -> None:
    """Puts the guest's disk on another node of QEMU's block layer, which shows the same bytes."""
    device = _disk_device(machine)
    machine.qmp.execute("qom-set", {"path": device, "property": "drive", "value": node})


def _disk_device(machine: Machine) -> str:
    """QEMU's object path of the disk; virtio disks have a device within the device."""
    paths = [str(entry.get("qdev", "")) for entry in machine.qmp.execute("query-block")]
    return next(path for path in paths if f"/{DISK}" in f"/{path}")


def hang(machine: Machine) -> None:
    """Hangs the whole machine at whatever it executes now, firmware included.

    Every CPU spins with interrupts off, so nobody feeds the watchdog, as after
    a locked-up driver. Only a reset ends it.
    """
    gdb.hang(machine.qmp)


def panic(machine: Machine) -> None:
    """Makes the guest's kernel panic. Returns at once."""
    machine.run(
        "echo 1 >/proc/sys/kernel/sysrq\n"
        "(sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &"
    )


def partitions(disk: Path) -> tuple[gpt.Partition, ...]:
    """The partitions of a disk on which no machine runs."""
    with storage.open_disk(disk) as opened:
        return gpt.read_partitions(opened.read)


def corrupt(disk: Path, label: str, *, offset: int = 0, length: int = 4096, seed: int = 1) -> None:
    """Overwrites bytes of a partition with noise. The machine must be off.

    offset: from the start of the partition. The same seed gives the same noise.
    """
    noise = random.Random(seed).randbytes(length)
    with storage.open_disk(disk, writable=True) as opened:
        partition = gpt.by_label(gpt.read_partitions(opened.read), label)
        if offset + length > partition.size:
            raise MachineError(
                f"cannot corrupt {label}: {offset + length} is beyond its {partition.size} bytes"
            )
        opened.write(partition.offset + offset, noise)


def read_partition(disk: Path, label: str, output: Path) -> None:
    """Copies a partition of a disk on which no machine runs into a file."""
    with storage.open_disk(disk) as opened, output.open("wb") as out:
        partition = gpt.by_label(gpt.read_partitions(opened.read), label)
        for start in range(0, partition.size, _COPY):
            count = min(_COPY, partition.size - start)
            out.write(opened.read(partition.offset + start, count))


def write_partition(disk: Path, label: str, source: Path) -> None:
    """Replaces the start of a partition with a file's bytes. The machine must be off."""
    with storage.open_disk(disk, writable=True) as opened, source.open("rb") as data:
        partition = gpt.by_label(gpt.read_partitions(opened.read), label)
        if source.stat().st_size > partition.size:
            raise MachineError(
                f"cannot write {source} to {label}: it is larger than {partition.size} bytes"
            )
        position = partition.offset
        while piece := data.read(_COPY):
            opened.write(position, piece)
            position += len(piece)
