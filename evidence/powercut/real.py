"""Boots a random choice of crash states for real, and compares with what was judged."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence.powercut import record
from evidence.powercut.crashes import SEED, Crash
from evidence.powercut.disk import Disk
from evidence.powercut.judge import Judge, Outcome
from evidence.powercut.replay import Recording, Replayed, visit
from qemu import storage
from qemu.device import Device
from qemu.errors import MachineError
from qemu.machine import Machine

BOOT_SECONDS = 900
_PIECE = 1 << 20
_KEPT = "booted.jsonl"


def boot_sample(work: Path, recordings: Sequence[Recording], count: int) -> None:
    """Boots count states, the same number of each recording; those done already count."""
    for index, recording in enumerate(recordings):
        _sample(work, recording, len(range(index, count, len(recordings))))


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


def _sample(work: Path, recording: Recording, count: int) -> None:
    """Boots states of a recording until count have been."""
    done = len(_known(work, recording.name))
    total = sum(
        json.loads(path.read_text())["counts"]["crash states judged"]
        for path in (work / recording.name).glob("judged-*-of-*.json")
    )
    chance = random.Random(f"{SEED} {recording.name}")
    order = list(range(total))
    chance.shuffle(order)
    wanted = set(order[done:count])
    place = work / recording.name / "booting"

    def look(ordinal: int, crash: Crash, disk: Disk, judge: Judge) -> None:
        if ordinal not in wanted:
            return
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        judged = judge.judge()
        began = time.monotonic()
        wrong = _boot(work, recording, disk, judged, place)
        line = {
            "crash": str(crash),
            "wrong": wrong,
            "runs": judged.well.runs,
            "seconds": round(time.monotonic() - began),
        }
        with (work / recording.name / _KEPT).open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(f"{recording.name}: booted {crash}: {wrong or 'as judged'}", flush=True)

    if wanted:
        visit(recording, look, last=max(wanted))
        shutil.rmtree(place, ignore_errors=True)


def _boot(work: Path, recording: Recording, disk: Disk, judged: Outcome, place: Path) -> str:
    """Boots the disk as it is now. Returns in what it differs from what was judged, or ""."""
    saved = record.factory(work)
    overlay = place / "crashed.qcow2"
    storage.create_overlay(overlay, recording.base)
    base = np.memmap(recording.base, dtype=np.uint8, mode="r")
    with storage.open_disk(overlay, writable=True) as out:
        for at in range(0, base.size, _PIECE):
            content = disk.bytes[at : at + _PIECE]
            if not np.array_equal(content, base[at : at + _PIECE]):
                out.write(at, content.tobytes())
    machine = Machine(
        saved.hardware,
        overlay,
        place,
        variables=saved.variables,
        network=saved.network,
        credentials=saved.credentials,
        extra=saved.extra,
        shell=False,
    )
    machine.has_shell = saved.shell
    try:
        machine.start()
        device = Device(machine)
        status = device.settle(BOOT_SECONDS)
        packages = [f"{name} {item['version']}" for name, item in device.packages().items()]
        runs = " + ".join([status["version"], *sorted(packages)])
        if not status["committed"]:
            return f"runs {runs}, which is not committed"
        return "" if runs == judged.well.runs else f"runs {runs}, not {judged.well.runs}"
    except MachineError as error:
        return f"does not come up: {error.brief}"
    finally:
        machine.kill()
