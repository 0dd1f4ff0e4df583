"""A commit and a factory reset as a real device wrote them: every power cut in them.

And the same on a disk that lies.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evidence.powercut.crashes import Bounds
from evidence.powercut.replay import Recording, replay
from evidence.powercut.sample import expand, without_flushes

DATA = Path(__file__).parent / "data"
FEW = Bounds(singles=4, torn=4, subsets=2, all_of=4, sectors=2)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="the state file system is mounted: needs root and a loop device",
)


@pytest.fixture
def commit(tmp_path: Path) -> Recording:
    """From the reboot into the trial of version 2.5 until its probation was over."""
    return expand(DATA / "commit.zst", tmp_path)


def test_no_power_cut_in_a_trial_and_its_commit_bricks_the_device_or_loses_the_commit(
    commit: Recording,
) -> None:
    found = replay(commit, bounds=FEW)
    assert found.wrong == []
    assert found.counts["crash states judged"] > 800
    # The cut comes before, in and after the commit, and none goes back to the old version.
    assert found.counts["on trial"] > 200
    assert found.counts["as afterwards"] > 200
    assert found.counts["as before"] == found.counts["trials over because of the cut"] == 0


@pytest.mark.parametrize("name", ["commit", "reset"])
def test_a_disk_that_ignores_flushes_is_found_out(tmp_path: Path, name: str) -> None:
    """What the judge is for: the same writes in any order do lose the device."""
    bounds = Bounds(singles=8, torn=0, subsets=0, sectors=0)
    recording = expand(DATA / f"{name}.zst", tmp_path)
    found = replay(without_flushes(recording), bounds=bounds)
    assert any(text.startswith(("BRICKED", "STATE LOST", "WRONG")) for text in found.wrong)


def test_a_factory_reset_that_was_asked_for_ends_as_delivered_wherever_the_power_is_cut(
    tmp_path: Path,
) -> None:
    """From `orbital system reset` until the device that was reset was healthy."""
    found = replay(expand(DATA / "reset.zst", tmp_path), bounds=FEW)
    assert found.wrong == []
    # The first write is the wish, one sector: before it nothing, after it all of the reset.
    assert found.counts["as before"] > 0
    assert found.counts["on trial"] == 0
    assert found.counts["as afterwards"] > 400
    # Rescue has to do it, or do it again, until the wish is taken back.
    assert found.counts["resets that rescue carried out after the cut"] > 200
    assert (
        found.counts["as afterwards"] > found.counts["resets that rescue carried out after the cut"]
    )
