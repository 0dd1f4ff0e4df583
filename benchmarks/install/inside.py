#!/usr/bin/python3
"""The guest's first and only program besides what is measured: sets up, runs, measures.

Standard library only; it is /init of the guest's initramfs (`benchmarks.install.guest`). The
host sends one JSON document a line through the virtio port `orbital.bench` and gets one back:
{"do": NAME, ...arguments} gives the result, or {"error": TEXT}.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import string
import subprocess
import threading
import time
import traceback
import tty
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PORT = "orbital.bench"
# The guest's first line: what is sent to a terminal before can be lost.
READY = b'"ready"\n'
# What the host says of the machine: modules to load, how names of disks begin, the interface
# (`benchmarks.install.machine.Hardware`).
HARDWARE = "/etc/bench/hardware.json"
_SAMPLE_SECONDS = 0.2
_COPY = 1 << 20


def main() -> None:
    """Sets the guest up and serves the host until it cuts the power."""
    for source, target, kind in (
        ("proc", "/proc", "proc"),
        ("sys", "/sys", "sysfs"),
        ("dev", "/dev", "devtmpfs"),
        ("run", "/run", "tmpfs"),
        ("tmp", "/tmp", "tmpfs"),
    ):
        _mount(source, target, kind)
    os.environ.update(PATH="/usr/sbin:/usr/bin", LC_ALL="C.UTF-8", HOME="/root", TMPDIR="/tmp")
    hardware.update(json.loads(Path(HARDWARE).read_text()))
    for module in hardware["modules"]:
        _run(["modprobe", module])
    _name_disks()
    with _port() as port:
        port.write(READY)
        for line in port:
            port.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")


hardware: dict[str, Any] = {}


def _answer(question: dict[str, Any]) -> object:
    try:
        return _ACTIONS[question.pop("do")](**question)
    except Exception:
        return {"error": traceback.format_exc()}


def setup(address: str, state: str) -> dict[str, object]:
    """Brings up the network and the state partition; starts the bus."""
    _run(["ip", "link", "set", "lo", "up"])
    _run(["ip", "address", "add", address, "dev", hardware["interface"]])
    _run(["ip", "link", "set", hardware["interface"], "up"])
    Path("/state").mkdir(exist_ok=True)
    _mount(state, "/state", "ext4")
    Path("/run/dbus").mkdir()
    subprocess.Popen(["dbus-daemon", "--config-file=/etc/bench/bus.conf", "--nofork"])
    return {"kernel": os.uname().release, "rauc": _run(["rauc", "--version"]).strip()}


def execute(command: list[str]) -> dict[str, object]:
    """Runs a program to its end; not measured."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "output": done.stdout + done.stderr}


_services: dict[str, subprocess.Popen[bytes]] = {}


def service(name: str, command: list[str], ready: list[str]) -> dict[str, object]:
    """Starts a program anew, and waits until another one ends well."""
    if name in _services:
        _services[name].terminate()
        _services[name].wait()
    with open(f"/run/{name}.log", "ab") as log:
        _services[name] = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(100):
        if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
            return {}
        time.sleep(0.2)
    return {"error": f"{name} does not answer: {Path(f'/run/{name}.log').read_text()[-2000:]}"}


def copy(source: str, target: str) -> dict[str, object]:
    """Makes the device target hold what source holds."""
    with open(source, "rb") as old, open(target, "r+b") as new:
        shutil.copyfileobj(old, new, _COPY)
        new.flush()
        os.fsync(new.fileno())
    return {}


def zero(target: str) -> dict[str, object]:
    """Fills the device with zeros."""
    with open(target, "r+b") as new:
        left = new.seek(0, os.SEEK_END)
        new.seek(0)
        while left:
            left -= new.write(bytes(min(_COPY, left)))
        new.flush()
        os.fsync(new.fileno())
    return {}


def keep(source: str, target: str) -> dict[str, object]:
    """Makes the folder target as source is; both absent when there is no source."""
    shutil.rmtree(target, ignore_errors=True)
    if Path(source).is_dir():
        shutil.copytree(source, target, symlinks=True)
    return {}


def measure(command: list[str]) -> dict[str, object]:
    """Runs a program from dropped caches to data that is on the disks, and counts.

    seconds: until it has ended and everything is flushed. cpu: seconds in which the processor
    was busy, with the kernel's work. memory: the most that all processes except this one and
    the bus had in memory together, of samples five times a second. written: bytes by disk.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(0.5)
    totals: list[int] = []
    stop = threading.Event()
    sampler = threading.Thread(target=_sample, args=(totals, stop))
    busy_before, written = busy(), _written()
    sampler.start()
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended = time.monotonic()
    os.sync()
    seconds = time.monotonic() - start
    stop.set()
    sampler.join()
    after = _written()
    return {
        "code": done.returncode,
        "output": done.stdout + done.stderr,
        "seconds": seconds,
        "flush": seconds - (ended - start),
        "cpu": busy() - busy_before,
        "memory": max(totals),
        "written": {name: after[name] - written[name] for name in after},
    }


_ACTIONS: dict[str, Any] = {
    action.__name__: action for action in (setup, execute, service, copy, zero, keep, measure)
}


def _sample(totals: list[int], stop: threading.Event) -> None:
    while True:
        totals.append(resident(processes()))
        if stop.wait(_SAMPLE_SECONDS):
            return


def resident(pids: Iterable[int]) -> int:
    """Bytes in memory of the processes, without the bus's.

    Proportional: what two of them share counts once (proc_pid_smaps(5)).
    """
    total = 0
    for pid in pids:
        # It may end at any time.
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines[1:])
            if Path(f"/proc/{pid}/comm").read_text() != "dbus-daemon\n":
                total += int(fields.get("Pss", "0").split()[0]) * 1024
    return total


def processes(parent: int = 1) -> Iterator[int]:
    """All processes below this one."""
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from processes(child)


def busy() -> float:
    """Seconds for which the processors were not idle (proc_stat(5))."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _written() -> dict[str, int]:
    """Bytes written to each disk; sectors are of 512 bytes (kernel, ABI/stable/sysfs-block)."""
    return {
        path.name: int((path / "stat").read_text().split()[6]) * 512
        for path in sorted(Path("/sys/block").glob(f"{hardware['disks']}*"))
    }


def _name_disks() -> None:
    """Gives every machine's disks the names that programs here know: vda, vdb, ..."""
    for letter in string.ascii_lowercase:
        disk, name = Path(f"/dev/{hardware['disks']}{letter}"), Path(f"/dev/vd{letter}")
        if disk.exists() and not name.exists():
            os.mknod(name, stat.S_IFBLK | 0o600, disk.stat().st_rdev)


def _port() -> Any:
    if hardware["port"] != PORT:
        terminal = os.open(hardware["port"], os.O_RDWR)
        tty.setraw(terminal)
        return os.fdopen(terminal, "r+b", buffering=0)
    for path in Path("/sys/class/virtio-ports").iterdir():
        if (path / "name").read_text().strip() == PORT:
            return open(f"/dev/{path.name}", "r+b", buffering=0)
    raise OSError("no such port")


def _mount(source: str, target: str, kind: str) -> None:
    Path(target).mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
