"""Boots of crash states: what is chosen, the disks that are made, what is read of a guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evidence.powercut import real
from evidence.powercut.crashes import Crash
from evidence.powercut.disk import Disk
from evidence.powercut.judge import Judge
from evidence.powercut.replay import Recording, visit
from evidence.powercut.sample import expand
from qemu import storage
from qemu.alone import alone
from qemu.deadline import Deadline

STATES = 90

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="the state file system is mounted: needs root and a loop device",
)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """A factory reset, of which few states have been judged."""
    folder = tmp_path / "reset"
    folder.mkdir()
    counts = {"crash states judged": STATES}
    (folder / "judged-1-of-1.json").write_text(json.dumps({"counts": counts}))
    return expand(Path(__file__).parent / "data/reset.zst", folder, "reset")


def prepared(work: Path) -> dict[str, int]:
    """The disks that wait to be booted, and which states they are."""
    found = sorted((work / "reset/to-boot").glob("*.json"))
    assert all(path.with_suffix(".qcow2").exists() for path in found)
    return {path.stem: json.loads(path.read_text())["number"] for path in found}


@needs_root
def test_every_state_is_booted_once_wherever_the_campaign_stopped(
    tmp_path: Path, recording: Recording
) -> None:
    real.prepare(tmp_path, recording, 3)
    first = prepared(tmp_path)
    assert len(set(first.values())) == 3
    # One has been booted, one is cut off in the middle.
    done, cut, _ = sorted(first)
    folder = tmp_path / "reset/to-boot"
    (tmp_path / "reset/booted.jsonl").write_text((folder / f"{done}.json").read_text() + "\n")
    for path in (folder / f"{done}.json", folder / f"{cut}.json", folder / f"{done}.qcow2"):
        path.unlink()
    real.prepare(tmp_path, recording, 4)
    again = prepared(tmp_path)
    assert {name: number for name, number in again.items() if name in first} == {
        name: number for name, number in first.items() if name != done
    }
    assert len(set(again.values()) | {first[done]}) == 4


@needs_root
def test_processes_that_share_the_boots_leave_each_other_what_they_have_begun(
    tmp_path: Path, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.prepare(tmp_path, recording, 4)
    held, mine, done, last = sorted((tmp_path / "reset/to-boot").glob("*.json"))
    begun = []

    def boot(_work: Path, path: Path) -> None:
        begun.append(path)
        # Meanwhile the other is through with this one.
        done.unlink(missing_ok=True)

    monkeypatch.setattr(real, "_boot_prepared", boot)
    with alone(held):
        real.boot_sample(tmp_path, [recording], 4)
    assert begun == [mine, last]


@needs_root
def test_the_disk_that_is_booted_is_the_one_that_was_judged(
    tmp_path: Path, recording: Recording
) -> None:
    real.prepare(tmp_path, recording, 2)
    wanted = {number: name for name, number in prepared(tmp_path).items()}
    compared = []

    def look(ordinal: int, _crash: Crash, disk: Disk, _judge: Judge) -> None:
        if ordinal in wanted:
            path = tmp_path / f"reset/to-boot/{wanted[ordinal]}.qcow2"
            with storage.open_disk(path) as found:
                for part in disk.partitions.values():
                    size = min(part.size, 24 << 20)
                    content = disk.bytes[part.offset : part.offset + size].tobytes()
                    assert found.read(part.offset, size) == content, part.label
            compared.append(ordinal)

    visit(recording, look, last=max(wanted))
    assert sorted(compared) == sorted(wanted)


def test_what_the_guest_shows_becomes_files(tmp_path: Path) -> None:
    said = real.unpack(
        "active\norbital.counter.count.service loaded failed failed x\n"
        "\n== /run/orbital/boot.json\n"
        '{"a": "== b"}\n== /state/orbital/etc/1/upper/owner\n',
        tmp_path / "seen",
    )
    assert said[:2] == ["active", "orbital.counter.count.service"]
    assert json.loads((tmp_path / "seen/run/orbital/boot.json").read_text()) == {"a": "== b"}
    assert (tmp_path / "seen/state/orbital/etc/1/upper/owner").read_text() == ""


def test_what_a_process_waits_for_a_processor_is_told() -> None:
    """Four that want one processor wait three quarters of their time."""
    one = min(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, [{one}])"
    busy = [sys.executable, "-S", "-c", f"{pin}\nwhile True: pass"]
    children = [subprocess.Popen(busy) for _ in range(4)]
    try:
        deadline = Deadline(60)
        while not all(real.waited(child.pid) > 0.5 for child in children):
            assert not deadline.expired
            deadline.pause(0.2)
    finally:
        for child in children:
            child.kill()
            child.wait()
