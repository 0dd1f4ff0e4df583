"""Updates on failing and full disks, and with little memory: a sample (all: evidence hostile)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evidence.hostile import state
from tests.hostile import disk_changes
from tests.hostile.disks import ERRORS, bench, judge_full
from tests.updater.devices import FileDevice
from tests.updater.publisher import Publisher

STEP = 17


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("error", ERRORS)
def test_an_operation_that_fails_leaves_a_device_that_goes_on(error: str, lasting: bool) -> None:
    with bench() as own:
        operations = own.operations()
        assert operations > 50
        start = len(error) % STEP
        for at in range(start, operations, STEP):
            assert own.judge(at, ERRORS[error], lasting=lasting) == "", f"operation {at}"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("change", disk_changes.CHANGES, ids=lambda change: change.name)
def test_a_change_on_a_failing_disk_leaves_a_device_that_goes_on(
    tmp_path: Path, change: disk_changes.Change, lasting: bool
) -> None:
    operations = disk_changes.operations(change, tmp_path / "whole")
    assert operations > 5
    for number, at in enumerate(range(len(change.name) % 5, operations, 5)):
        name, error = list(ERRORS.items())[number % len(ERRORS)]
        problem = disk_changes.judge(change, tmp_path / f"{at}", at, error, lasting=lasting)
        assert problem == "", f"operation {at} of {operations}, {name}"


@pytest.mark.skipif(not state.available(), reason="needs root and loop devices")
@pytest.mark.parametrize("inodes", [False, True], ids=["blocks", "inodes"])
def test_a_full_state_partition_is_a_plain_error(inodes: bool) -> None:
    with bench() as own:
        for left in (0, 3, 9):
            assert judge_full(own, left, inodes=inodes) == "", f"{left} left"


CHILD = """
import resource, sys
from pathlib import Path
from tests.updater.devices import FileDevice
from recovery.errors import OrbitalError
base, anchor, source, room = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
device = FileDevice(base, anchor, source=source)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), -1))
try:
    device.update()
except (OrbitalError, MemoryError, RuntimeError):
    sys.exit(3)
"""


@pytest.mark.parametrize("room", [1, 4, 12, 40, 400])
def test_an_update_without_memory_leaves_a_device_that_goes_on(tmp_path: Path, room: int) -> None:
    """RuntimeError: a thread that cannot be started. The process may die of it, the device not."""
    publisher = Publisher(tmp_path / "publisher")
    image = publisher.release("2.0")
    words = [tmp_path / "device", publisher.anchor, publisher.repository, room]
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, words)], check=False, timeout=120)
    assert done.returncode in (0, 3)
    assert room < 400 or done.returncode == 0

    device = FileDevice(tmp_path / "other", publisher.anchor, source=str(publisher.repository))

    moved = tmp_path / "device"
    (tmp_path / "other").rename(tmp_path / "unused")
    moved.rename(tmp_path / "other")
    if device.boot_control.active_slot() != "b":
        device.assert_unaffected()
        device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")
