"""A commit as a real device wrote it: every power cut in it, and the same on a disk that lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evidence.powercut.crashes import Bounds
from evidence.powercut.replay import Recording, replay
from evidence.powercut.sample import expand, without_flushes

SAMPLE = Path(__file__).parent / "data" / "commit.zst"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="the state file system is mounted: needs root and a loop device",
)


@pytest.fixture
def commit(tmp_path: Path) -> Recording:
    """From the reboot into the trial of version 2.5 until its probation was over."""
    return expand(SAMPLE, tmp_path)


def test_no_power_cut_in_a_trial_and_its_commit_bricks_the_device_or_loses_the_commit(
    commit: Recording,
) -> None:
    found = replay(commit, bounds=Bounds(singles=4, torn=4, subsets=2, all_of=4, sectors=2))
    assert found.wrong == []
    assert found.counts["crash states judged"] > 800
    # The cut comes before, in and after the commit, and none goes back to the old version.
    assert found.counts["on trial"] > 200
    assert found.counts["as afterwards"] > 200
    assert found.counts["as before"] == found.counts["trials over because of the cut"] == 0


def test_a_disk_that_ignores_flushes_is_found_out(commit: Recording) -> None:
    """What the judge is for: the same writes in any order do lose the device."""
    bounds = Bounds(singles=8, torn=0, subsets=0, sectors=0)
    found = replay(without_flushes(commit), bounds=bounds)
    assert any(text.startswith(("BRICKED", "STATE LOST", "WRONG")) for text in found.wrong)
