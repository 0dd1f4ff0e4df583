"""The state of crashed disks, read by the kernel of a host on which others do things as well."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from evidence.powercut import state
from evidence.powercut.crashes import epochs
from evidence.powercut.disk import Disk
from evidence.powercut.replay import find_images
from evidence.powercut.sample import expand
from qemu.blocklog import read_log

SAMPLE = Path(__file__).parent / "data/commit.zst"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="the state file system is mounted: needs root and a loop device",
)


@pytest.fixture
def others() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs in mount namespaces of their own; ended afterwards."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def test_a_mount_that_somebody_has_copied_does_not_show_the_state_of_before(
    tmp_path: Path,
    others: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build beside it makes a mount namespace while a state is mounted, and keeps its copy."""
    recording = expand(SAMPLE, tmp_path)
    every = list(epochs(read_log(recording.log)))
    images, table = find_images(recording, every)

    def read(disk: Disk, *, copied: bool) -> list[state.Files]:
        gather = state._gather

        def slowly(root: Path) -> state.Files:
            if copied and not others:
                entered = tmp_path / "entered"
                line = f"touch {entered}; exec sleep 600"
                others.append(subprocess.Popen(["unshare", "--mount", "sh", "-c", line]))
                while not entered.exists():
                    os.sched_yield()
            return gather(root)

        with monkeypatch.context() as patch, state.StateReader(disk) as reader:
            patch.setattr(state, "_gather", slowly)
            found = [reader.read()]
            for write in (write for writes in every for write in writes):
                disk.write(write.offset, write.data)
            return [*found, reader.read()]

    alone = read(Disk(recording.base, images, table), copied=False)
    assert alone[0] != alone[1]
    assert read(Disk(recording.base, images, table), copied=True) == alone
    assert len(others) == 1
