"""qemu-storage-daemon: QEMU's block layer without a machine.

Makes qcow2 files and opens a stopped machine's disk, whatever its format, to
read and change bytes. Needs no root, no loop device and no mount.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from qemu import children
from qemu.deadline import Deadline
from qemu.emulator import STORAGE_DAEMON
from qemu.errors import MachineError, MachineExited
from qemu.hardware import quote
from qemu.nbd import NbdClient
from qemu.qmp import Qmp
from qemu.sockets import Listeners

Format = Literal["raw", "qcow2"]
_START_SECONDS = 20
_COPY = 1 << 20


def disk_format(path: Path) -> Format:
    """qcow2 when the file begins like one (docs/interop/qcow2.txt), else raw."""
    with path.open("rb") as disk:
        return "qcow2" if disk.read(4) == b"QFI\xfb" else "raw"


@contextmanager
def _daemon(*options: str) -> Iterator[tuple[Qmp, Listeners]]:
    listeners = Listeners()
    log = listeners.directory / "log"
    try:
        daemon = children.start(
            [
                STORAGE_DAEMON,
                "--chardev",
                f"socket,id=qmp,path={listeners.path('qmp')}",
                "--monitor",
                "chardev=qmp",
                *options,
            ],
            log,
        )
        try:
            connection = listeners.accept(
                "qmp", STORAGE_DAEMON, daemon, log, Deadline(_START_SECONDS)
            )
            qmp = Qmp(connection, listeners.directory / "qmp.log")
            yield qmp, listeners
            # A clean end flushes and unlocks the files before anyone else opens them.
            qmp.execute("quit")
            daemon.wait(timeout=30)
        except MachineExited as error:
            raise children.explained(error, STORAGE_DAEMON, daemon, log) from error
        finally:
            children.end(daemon)
    finally:
        listeners.close()


def create_overlay(path: Path, base: Path, size: int | None = None) -> None:
    """Makes a qcow2 file that shows base and takes the changes; base is never written.

    size: bytes of the new disk, when it should be larger than base.
    """
    form = disk_format(base)
    node: dict[str, Any] = {
        "driver": form,
        "read-only": True,
        "file": {"driver": "file", "filename": str(base.resolve())},
    }
    with _daemon() as (qmp, _):
        if size is None:
            qmp.execute("blockdev-add", {"node-name": "base", **node})
            found = qmp.execute("query-named-block-nodes", {"flat": True})
            size = next(n["image"]["virtual-size"] for n in found if n["node-name"] == "base")
        _create(qmp, path, size, {"backing-file": str(base.resolve()), "backing-fmt": form})


def create_empty(path: Path, size: int) -> None:
    """Makes an empty qcow2 disk of size bytes."""
    with _daemon() as (qmp, _):
        _create(qmp, path, size, {})


def _create(qmp: Qmp, path: Path, size: int, backing: dict[str, str]) -> None:
    path.unlink(missing_ok=True)
    path.touch()
    qmp.execute("blockdev-add", {"driver": "file", "node-name": "file", "filename": str(path)})
    options: dict[str, Any] = {"driver": "qcow2", "file": "file", "size": size, **backing}
    _job(qmp, "create", options)
    qmp.execute("blockdev-del", {"node-name": "file"})


def _job(qmp: Qmp, name: str, options: dict[str, Any]) -> None:
    qmp.execute("blockdev-create", {"job-id": name, "options": options})
    qmp.wait_event(
        "JOB_STATUS_CHANGE",
        60,
        accept=lambda data: data["id"] == name and data["status"] == "concluded",
    )
    failed = next(job.get("error") for job in qmp.execute("query-jobs") if job["id"] == name)
    qmp.execute("job-dismiss", {"id": name})
    if failed:
        raise MachineError(f"cannot create a disk: {failed}")


def export_raw(path: Path, output: Path) -> None:
    """Copies what a disk shows into a raw, sparse file; its machine must be stopped or off."""
    with open_disk(path, shared=True) as disk, output.open("wb") as out:
        out.truncate(disk.size)
        for start in range(0, disk.size, _COPY):
            data = disk.read(start, min(_COPY, disk.size - start))
            if data.count(0) != len(data):
                out.seek(start)
                out.write(data)


@contextmanager
def open_disk(path: Path, *, writable: bool = False, shared: bool = False) -> Iterator[NbdClient]:
    """The bytes of a disk as a guest would see them. No machine may run on it.

    shared: a machine that stands still may have it open, too.
    Raises MachineExited, with QEMU's reason, when the file is locked or no disk.
    """
    access = f"read-only={'off' if writable else 'on'}" + (",force-share=on" if shared else "")
    options = [
        "--blockdev",
        f"driver=file,node-name=file,filename={quote(path.resolve())},{access}",
        "--blockdev",
        f"driver={disk_format(path)},node-name=disk,file=file,{access}",
    ]
    with _daemon(*options) as (qmp, listeners):
        server = listeners.directory / "nbd"
        address = {"type": "unix", "data": {"path": str(server)}}
        qmp.execute("nbd-server-start", {"addr": address})
        export = {"type": "nbd", "id": "disk", "node-name": "disk", "name": "disk"}
        qmp.execute("block-export-add", {**export, "writable": writable})
        client = NbdClient(server, "disk")
        try:
            yield client
        finally:
            client.close()
