"""The soak's sample for every run, and that it notices what is wrong."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from evidence.soak.campaign import Soak, soak
from evidence.soak.device import SoakDevice, Wrong
from evidence.soak.power import Meter
from recovery import durable


def test_a_short_life_with_power_cuts_has_no_wrong_outcome(tmp_path: Path) -> None:
    life, _, _ = soak(tmp_path, cycles=36, seed=3)
    assert life.wrong == []
    assert life.meter.cuts > 8
    assert sum(n for name, n in life.counts.items() if name.startswith("cycles, ")) == 36


def test_a_bad_version_that_is_committed_is_a_wrong_outcome(tmp_path: Path) -> None:
    life = Soak(tmp_path, seed=1)
    device = life.devices[0]
    with mock.patch.object(SoakDevice, "boot", _blind(SoakDevice.boot)):
        armed = life.release("ill", device)
        device.update(life.publisher.repository, life.now)
        before = device.store.generations.load(1)
        life.come_to_rest(device)
    after = device.store.generations.load(device.store.load().committed)
    assert before is not None and after is not None
    with pytest.raises(Wrong, match="is committed"):
        life.judge(device, "ill", before, after, armed, undisturbed=True)


def _blind(boot: object) -> object:
    """A device that finds everything healthy."""

    def patched(self: SoakDevice) -> bool:
        self.health.clear()
        return boot(self)  # type: ignore[operator, no-any-return]

    return patched


def test_after_a_cut_nothing_more_is_written(tmp_path: Path) -> None:
    meter = Meter()
    path = tmp_path / "record"
    with meter.installed(), meter.off_after(3):
        durable.replace_file(path, b"one")
        durable.replace_file(path, b"two")
    assert meter.cuts == 1
    assert path.read_bytes() in (b"one", b"two")
    with meter.installed(), meter.off_after(0):
        durable.replace_file(path, b"three")
    assert path.read_bytes() in (b"one", b"two")
    assert meter.written > 0
