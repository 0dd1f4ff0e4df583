"""The soak on the device that ships, in QEMU: updates and rollbacks, power cut at random moments.

    WORK/lab/          keys' releases 1.0 and 2.0, repository, factory disk
    WORK/machine/      the device's disk, kept from one run to the next
    WORK/soak.json     cycles so far, cuts, seconds, wrong outcomes

A cycle updates the device to 2.0 by name, or rolls back to the version before, restarts it into
the trial, and cuts the power (SIGKILL of QEMU) at a random moment of all that. Then the device is
left alone until it has settled and its probation is over: it must run the old or the new
version, committed.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qemu.device import Device, Document
from qemu.errors import MachineError
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.server import Server

NEW = "2.0"
SETTLE_SECONDS = 1500
LATEST_CUT_SECONDS = 240.0
_RESTART = "systemctl start reboot.target --job-mode=replace-irreversibly --no-block"


@dataclass
class Progress:
    """What a soak has done so far."""

    cycles: int = 0
    cuts: int = 0
    new_version: int = 0
    seconds: float = 0.0
    written: int = 0
    state_bytes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Beside the machine; a run that is killed continues from the last cycle."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def soak(work: Path, cycles: int, seed: int, *, seconds: float = 0) -> Progress:
    """Runs until there are so many cycles in all, or for so many seconds (0: no limit)."""
    path = work / "soak.json"
    done = Progress(**json.loads(path.read_text())) if path.exists() else Progress()
    lab = Lab(work / "lab")
    lab.directory.mkdir(parents=True, exist_ok=True)
    for name in ("machine", "server"):
        (work / name).mkdir(exist_ok=True)
    if not lab.repository.exists():
        lab.offer(lab.version)
        lab.offer(NEW, delta_from=(lab.version,))
    with Server(lab.repository, work / "server") as server:
        machine = lab.machine(work / "machine")
        machine.start()
        try:
            status = calm(Device(machine))
            begun = time.monotonic()
            while done.cycles < cycles and not (seconds and time.monotonic() - begun > seconds):
                started = time.monotonic()
                dice = random.Random(f"{seed} {done.cycles}")
                status = cycle(machine, server.url, status, dice, done)
                done.cycles += 1
                done.seconds += time.monotonic() - started
                done.save(path)
        finally:
            machine.kill()
    return done


def cycle(
    machine: Machine, source: str, before: Document, dice: random.Random, done: Progress
) -> Document:
    """One cycle. Returns the status after it."""
    device = Device(machine)
    old = str(before["version"])
    back = old == NEW
    verb = "rollback" if back else f"update --source {source} --to {NEW}"
    machine.shell.spawn(f"orbital system {verb} && {_RESTART}")
    end = time.monotonic() + dice.uniform(1, LATEST_CUT_SECONDS)
    while time.monotonic() < end:
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))
    done.written += machine.written()
    machine.kill()
    done.cuts += 1
    machine.start()
    after = calm(device)
    version = str(after["version"])
    done.new_version += version != old
    print(f"cycle {done.cycles}: {old} → {version}, {verb.split(maxsplit=1)[0]}", flush=True)
    if not after["committed"] or version not in ("1.0", NEW):
        done.wrong.append(f"cycle {done.cycles}: {old} ran, then {version}: {after}")
    used = machine.run("du -sb /state/orbital | cut -f1", 60).output.strip()
    done.state_bytes.append(int(used))
    return after


def calm(device: Device) -> Document:
    """The status when the device has settled and is watched no longer."""
    try:
        return device.settle(
            SETTLE_SECONDS, when=lambda found: found["committed"] and not found["on_probation"]
        )
    except MachineError as error:
        raise MachineError(
            "cannot see the device come to rest",
            details=f"{error}\n{device.machine.console.tail()}",
        ) from error
