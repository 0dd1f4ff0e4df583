"""The emulated machine: QEMU, TCG, with Debian's kernel.

Its processor is slow, and an interpreter's more than compiled code's: figures compare, and are no
device's.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.install import link
from benchmarks.install.inside import PORT
from benchmarks.install.machine import MEMORY_MIB, Guest, Hardware, used
from qemu import children
from qemu.console import Console
from qemu.deadline import Deadline
from qemu.hardware import ACCELERATOR
from qemu.sockets import Listeners

HARDWARE = Hardware(
    modules=(
        "virtio_blk", "virtio_net", "ext4", "nbd", "loop", "dm-verity", "squashfs",
        "sha256_ssse3",
    ),
    disks="vd",
    interface="eth0",
    port=PORT,
)  # fmt: skip
_QEMU = "qemu-system-x86_64"
_CONNECT_SECONDS = 300


class Emulated(Guest):
    """The running guest.

    write_rate: bytes a second that the disks take in together, 0 without limit.
    """

    def __init__(
        self, kernel: Path, initramfs: Path, disks: Sequence[Path], work: Path, write_rate: int
    ) -> None:
        self._listeners = Listeners()
        log = work / "qemu.log"
        command: list[str] = [
            _QEMU,
            *("-machine", "q35", "-accel", ACCELERATOR, "-cpu", "max", "-smp", "1"),
            *("-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(kernel), "-initrd", str(initramfs)),
            # On a busy host the kernel's check of its timer fails: it counts the host's time.
            *("-append", "console=ttyS0 quiet panic=-1 no_timer_check rauc.slot=a"),
            *("-chardev", f"socket,id=console,path={self._listeners.path('console')}"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=bench,path={self._listeners.path('bench')}"),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=bench,name={PORT}"),
            *("-netdev", f"tap,id=net0,ifname={link.NAME},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net0"),
            *("-device", "virtio-rng-pci,rng=rng0"),
            *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        ]
        limit = f",throttling.group=disk,throttling.bps-write={write_rate}" if write_rate else ""
        for number, disk in enumerate(disks):
            # The host's own disk, which others use, is not what is measured: a flush of the
            # guest ends in the host's memory.
            command += [
                "-drive",
                f"file={disk},id=disk{number},if=none,format=raw,cache=unsafe{limit}",
                "-device",
                f"virtio-blk-pci,drive=disk{number}",
            ]
        (work / "command").write_text(shlex.join(command) + "\n")
        self._process = children.start(command, log)
        deadline = Deadline(_CONNECT_SECONDS)
        started = time.monotonic()
        self._console = Console(
            self._listeners.accept("console", _QEMU, self._process, log, deadline),
            work / "console.log",
            started,
        )
        self._port = self._listeners.accept("bench", _QEMU, self._process, log, deadline)
        super().__init__(self._port.fileno(), self._console.tail)

    def processor_seconds(self) -> float:
        """What the emulator has used of the host's processors so far (proc_pid_stat(5))."""
        return used(self._process.pid)

    def close(self) -> None:
        """Cuts the power."""
        children.end(self._process)
        self._port.shutdown(socket.SHUT_RDWR)
        self._console.close()
        self._listeners.close()
