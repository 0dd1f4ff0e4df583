"""Saves a machine that has settled, and starts others from that state in a second or two.

A snapshot is a directory:

    memory        RAM and devices (QEMU's migration stream)
    disk.qcow2    the disk at that moment; machines started from it use overlays
    variables.fd  the firmware's variables at that moment, copied for each machine
    snapshot.json what the machine was made of

Migration to a file is used rather than QEMU's internal snapshots because the
disk then stays a plain base of overlays: nothing large is copied.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, MachineError
from qemu.hardware import Forward, Hardware
from qemu.machine import Machine

_MIGRATION_SECONDS = 120
# Bytes a second: as fast as the file takes it.
_BANDWIDTH = 1 << 40


@dataclass(frozen=True)
class Snapshot:
    """A saved machine. directory: see above. emulator: version of the QEMU that saved it, which no
    other one can be expected to continue; "" when it is not known."""

    directory: Path
    emulator: str
    hardware: Hardware
    network: bool
    shell: bool
    credentials: dict[str, bytes]
    extra: tuple[str, ...]

    @property
    def disk(self) -> Path:
        """The disk at that moment; must never be written."""
        return self.directory / "disk.qcow2"

    @property
    def variables(self) -> Path | None:
        """The firmware's variables at that moment."""
        path = self.directory / "variables.fd"
        return path if path.exists() else None

    @property
    def memory(self) -> Path:
        """The migration stream."""
        return self.directory / "memory"


def save(machine: Machine, directory: Path) -> Snapshot:
    """Saves a running machine into directory (created) and ends it.

    The machine's disk becomes the snapshot's. Complete only when
    snapshot.json is there: a run that is cut short leaves nothing usable.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "snapshot.json").unlink(missing_ok=True)
    snapshot = Snapshot(
        directory,
        _version(machine),
        machine.hardware,
        machine.network,
        machine.has_shell,
        machine.credentials,
        machine.extra,
    )
    machine.qmp.execute("stop")
    machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})
    with snapshot.memory.open("wb") as memory:
        machine.qmp.pass_descriptor("memory", memory.fileno())
        machine.qmp.execute("migrate", {"uri": "fd:memory"})
    _await_migration(machine)
    machine.qmp.execute("quit")
    machine.wait(30)
    shutil.move(machine.disk, snapshot.disk)
    if machine.variables.exists():
        shutil.move(machine.variables, directory / "variables.fd")
    (directory / "snapshot.json").write_text(json.dumps(_encode(snapshot), indent=1))
    return snapshot


def load(directory: Path) -> Snapshot | None:
    """The snapshot in directory, or None when there is no complete one."""
    path = directory / "snapshot.json"
    if not path.exists():
        return None
    return _decode(directory, json.loads(path.read_text()))


def restore(
    snapshot: Snapshot,
    directory: Path,
    *,
    forwards: Sequence[Forward] = (),
    timeout: float = 60,
) -> Machine:
    """A running machine that continues from the snapshot, with its own disk and variables.

    The guest's clock, which stood still since the snapshot was taken, is set to
    the host's when the guest has the root shell. Use the machine in a `with`
    block, or end it with `kill`. forwards may differ from the saved machine's.

    Raises MachineError when another QEMU has saved it.
    """
    machine = Machine(
        snapshot.hardware,
        snapshot.disk,
        directory,
        variables=snapshot.variables,
        network=snapshot.network,
        forwards=forwards,
        shell=False,
        credentials=snapshot.credentials,
        extra=snapshot.extra,
    )
    machine.has_shell = snapshot.shell
    deadline = Deadline(timeout)
    machine.start(restore=True)
    try:
        if (version := _version(machine)) != snapshot.emulator:
            raise MachineError(
                f"cannot continue the machine in {snapshot.directory}: QEMU"
                f" {snapshot.emulator or 'of another version'} has saved it, this is {version}",
                resolution=f"delete {snapshot.directory}, and do again what made it",
            )
        with snapshot.memory.open("rb") as memory:
            machine.qmp.pass_descriptor("memory", memory.fileno())
            machine.qmp.execute("migrate-incoming", {"uri": "fd:memory"})
        _await_migration(machine)
        machine.qmp.execute("cont")
        if snapshot.shell:
            machine.wait_shell(deadline)
            machine.run(f"date -u -s @{time.time():.3f}", deadline.remaining)
    except BaseException:
        machine.kill()
        raise
    return machine


def _version(machine: Machine) -> str:
    """Of the machine's QEMU, with that of its package."""
    found = machine.qmp.execute("query-version")
    numbers = ".".join(str(found["qemu"][part]) for part in ("major", "minor", "micro"))
    return f"{numbers} {found['package']}".strip()


def _await_migration(machine: Machine) -> None:
    deadline = Deadline(_MIGRATION_SECONDS)
    while True:
        status = machine.qmp.execute("query-migrate").get("status")
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise MachineError(
                f"cannot save or restore the machine: migration {status}",
                details=str(machine.qmp.execute("query-migrate").get("error-desc", "")),
                resolution=f"see {machine.directory}/qemu.log",
            )
        if deadline.expired:
            raise DeadlineExpired(
                f"cannot save or restore the machine within {deadline.seconds:g} s"
            )
        deadline.pause(0.02)


def _encode(snapshot: Snapshot) -> dict[str, Any]:
    hardware = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(snapshot.hardware).items()
    }
    return {
        "emulator": snapshot.emulator,
        "hardware": hardware,
        "network": snapshot.network,
        "shell": snapshot.shell,
        "credentials": {
            name: base64.b64encode(value).decode() for name, value in snapshot.credentials.items()
        },
        "extra": snapshot.extra,
    }


def _decode(directory: Path, document: dict[str, Any]) -> Snapshot:
    values = dict(document["hardware"])
    for field in fields(Hardware):
        if "Path" in str(field.type) and values[field.name] is not None:
            values[field.name] = Path(values[field.name])
    values["arguments"] = tuple(values["arguments"])
    return Snapshot(
        directory,
        document.get("emulator", ""),
        Hardware(**values),
        document["network"],
        document["shell"],
        {name: base64.b64decode(text) for name, text in document["credentials"].items()},
        tuple(document["extra"]),
    )
