"""Boots a random choice of crash states for real, and compares with what was judged."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from evidence.powercut import record
from evidence.powercut.boots import named
from evidence.powercut.crashes import SEED, Crash
from evidence.powercut.disk import Disk
from evidence.powercut.judge import Judge
from evidence.powercut.replay import Recording, Replayed, visit
from evidence.powercut.state import OWNED
from qemu import storage
from qemu.alone import alone
from qemu.blocklog import read_log
from qemu.deadline import Deadline
from qemu.device import SETTLE_SECONDS, Device
from qemu.errors import GuestRestarted, MachineError
from qemu.machine import Machine
from qemu.snapshot import Snapshot
from recovery.boot import load_report, running_record
from recovery.errors import OrbitalError
from recovery.state import StateStore

_PIECE = 1 << 20
_KEPT = "booted.jsonl"
_FOLDER = "to-boot"
# A guest that gets less than a fifth of a processor is reset by its watchdog as it starts.
_BUSY = 0.8
_MARK = "== "
# One script, and no program of ours: what starts Python is slow in an emulated machine. The
# records are read by the code that ships, here. What fails of a package's services is said.
_LOOK = f"""
systemctl is-system-running --wait >/dev/null
systemctl is-active orbital-health.service
systemctl list-units --state=failed --plain --no-legend 'orbital.*'
for file in /run/orbital/boot.json /state/orbital/state.json \\
    /state/orbital/generations/*.json; do
    echo; echo "{_MARK}$file"; cat $file
done
find /state/orbital/etc /state/orbital/layers -name {OWNED} 2>/dev/null | while read -r file; do
    echo; echo "{_MARK}$file"
done
"""


def boot_sample(work: Path, recordings: Sequence[Recording], count: int) -> None:
    """Boots count states, the same number of each recording; those done already count.

    Their disks are made first, in one pass over each recording; then one of each in turn boots.
    Several processes may share this: each takes a disk that no other has.
    """
    waiting = []
    for index, recording in enumerate(recordings):
        with alone(work / recording.name):
            prepare(work, recording, len(range(index, count, len(recordings))))
        waiting.append(sorted((work / recording.name / _FOLDER).glob("*.json")))
    for path in (path for turn in zip_longest(*waiting) for path in turn if path is not None):
        with alone(path, wait=False) as mine:
            if mine and path.exists():
                _boot_prepared(work, path)


def booted(work: Path, names: Sequence[str]) -> Replayed:
    """What came of all that have been booted, and which came up otherwise than judged."""
    found = Replayed()
    for name in names:
        for line in _known(work, name):
            found.counts["crash states booted"] += 1
            found.seconds += line["seconds"]
            if line["wrong"]:
                found.counts["wrong outcomes"] += 1
                found.wrong.append(f"{name}: booted: {line['crash']}: {line['wrong']}")
    return found


def _known(work: Path, name: str) -> list[dict[str, Any]]:
    kept = work / name / _KEPT
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def prepare(work: Path, recording: Recording, count: int) -> None:
    """Makes the disks of the states that are to be booted until count have been."""
    folder = work / recording.name / _FOLDER
    folder.mkdir(exist_ok=True)
    ready = {line["number"] for line in _known(work, recording.name)}
    ready |= {json.loads(path.read_text())["number"] for path in folder.glob("*.json")}
    total = sum(
        json.loads(path.read_text())["counts"]["crash states judged"]
        for path in (work / recording.name).glob("judged-*-of-*.json")
    )
    chance = random.Random(f"{SEED} {recording.name}")
    order = list(range(total))
    chance.shuffle(order)
    # In a random order, too: whatever is not booted in the end is left out at random.
    wanted = {number: rank for rank, number in enumerate(order[:count]) if number not in ready}
    touched = {
        piece * _PIECE
        for request in read_log(recording.log)
        for piece in range(request.offset // _PIECE, -(-(request.offset + request.size) // _PIECE))
    }

    def look(ordinal: int, crash: Crash, disk: Disk, judge: Judge) -> None:
        if ordinal in wanted:
            path = folder / f"{wanted[ordinal]:06}.qcow2"
            path.unlink(missing_ok=True)
            _make_disk(path, recording.base, disk, touched)
            line = {"number": ordinal, "crash": str(crash), "runs": judge.judge().well.runs}
            # Last: a disk without it is not whole.
            path.with_suffix(".json").write_text(json.dumps(line))

    if wanted:
        visit(recording, look, last=max(wanted))


def _boot_prepared(work: Path, path: Path) -> None:
    """Boots a disk that was made, and notes what came of it."""
    name = path.parent.parent.name
    line = json.loads(path.read_text())
    place = path.with_suffix("")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    began = time.monotonic()
    line["wrong"] = _boot(record.factory(work), path.with_suffix(".qcow2"), place, line["runs"])
    line["seconds"] = round(time.monotonic() - began)
    with (work / name / _KEPT).open("a") as out:
        out.write(json.dumps(line) + "\n")
    print(f"{name}: booted {line['crash']}: {line['wrong'] or 'as judged'}", flush=True)
    path.unlink()
    if not line["wrong"]:
        shutil.rmtree(place)
        path.with_suffix(".qcow2").unlink()


def _make_disk(path: Path, base: Path, disk: Disk, touched: set[int]) -> None:
    """The disk as it is now, as an overlay of what it was. touched: pieces that may differ."""
    storage.create_overlay(path, base)
    before = np.memmap(base, dtype=np.uint8, mode="r")
    with storage.open_disk(path, writable=True) as out:
        for at in sorted(touched):
            content = disk.bytes[at : at + _PIECE]
            if not np.array_equal(content, before[at : at + _PIECE]):
                out.write(at, content.tobytes())


def _boot(saved: Snapshot, disk: Path, place: Path, wanted: str) -> str:
    """Boots the disk. In what the device differs from what was judged, or "".

    place: for what the machine leaves.
    """
    machine = Machine(
        saved.hardware,
        disk,
        place,
        variables=saved.variables,
        network=saved.network,
        credentials=saved.credentials,
        shell=False,
    )
    machine.has_shell = saved.shell
    try:
        machine.start()
        return settled(machine, wanted, place / "seen")
    except MachineError as error:
        if machine.running and waited(machine.pid) > _BUSY:
            raise MachineError(
                "cannot boot a state: the host is too busy for the guest's watchdog",
                details=error.brief,
                resolution="run it again with less beside it; it goes on with this state",
            ) from error
        return f"does not come up: {error.brief}"
    finally:
        machine.kill()


def waited(pid: int) -> float:
    """Which share of its time a process that wanted to run had to wait for a processor.

    By the busiest of its threads (Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat).
    """
    threads = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    ran, wait = max((int(ran), int(wait)) for ran, wait, _ in threads)
    return wait / (ran + wait)


def settled(machine: Machine, wanted: str, place: Path) -> str:
    """Waits, over as many boots as it takes, until no trial is under way and no probation open.
    What is wrong then.

    wanted: what shall run, and be committed and healthy. place: for what is read of the device.
    """
    deadline = Deadline(SETTLE_SECONDS)
    while True:
        try:
            machine.wait_shell(deadline)
            output = machine.run(_LOOK, deadline.remaining, check=False).output
        except GuestRestarted:
            continue
        said = unpack(output, place)
        try:
            store = StateStore(place / "state/orbital")
            report, found = load_report(place), store.load()
            running = running_record(report, found, store.generations.all())
        except OrbitalError as error:
            return f"{error}; {said}"
        if found.trial is None and found.probation is None:
            break
        if deadline.expired:
            return f"is still on trial or probation: {found.trial or found.probation}"
        if found.trial is not None and not report.trial and "active" in said:
            Device(machine).reboot()  # Else the trial waits for an operator.
        deadline.pause(2)
    paths = [str(path.relative_to(store.root)) for path in store.root.rglob("*")]
    runs = named(running, paths)
    if running.number != found.committed or report.volatile:
        return f"runs {runs}, which is not committed"
    if said != ["active"]:
        return f"runs {runs}, and not all is well: {said}"
    return "" if runs == wanted else f"runs {runs}, not {wanted}"


def unpack(output: str, root: Path) -> list[str]:
    """The files that the guest has shown, written below root; and what it said before them."""
    shutil.rmtree(root, ignore_errors=True)
    said, *files = f"\n{output}".split(f"\n{_MARK}")
    for text in files:
        name, _, content = text.partition("\n")
        path = root / name.strip().lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return said.split()
