"""Starts that the firmware counts: taken back by early boot and rescue, made by healthy starts."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import early, efivars, mounts, upkeep
from recovery.bootcontrol import loads
from recovery.bootcontrol.loads import ASKED, Loads, decode, encode
from recovery.device import DeviceConfig, RescuePolicy, TrialPolicy
from recovery.rescue.visit import begin
from recovery.starts import MOST_LOADS

CONFIG = DeviceConfig(
    system="s", version="1", board="b", architecture="x86_64", built=0,
    boot_control="systemd-boot", boot_partition="esp", state="state", slots={},
    trial=TrialPolicy(tries=3), rescue=RescuePolicy(partition="rescue"),
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with the variables of its firmware."""
    (tmp_path / efivars.DIRECTORY).mkdir(parents=True)
    (tmp_path / "sys/class/block").mkdir(parents=True)
    return tmp_path


def put(root: Path, value: bytes) -> None:
    (root / loads.VARIABLE).write_bytes(efivars.ATTRIBUTES + value)


def kept(root: Path) -> bytes:
    return efivars.read(root / loads.VARIABLE)


@given(st.binary(max_size=5))
def test_only_two_bytes_are_a_count(value: bytes) -> None:
    found = decode(value)
    assert (found is None) == (len(value) != 2)
    assert found is None or encode(found) == value


def test_a_healthy_start_makes_the_count(root: Path) -> None:
    upkeep.keep_up(CONFIG, root, root / "state", volatile=False, say=print)
    assert kept(root) == encode(Loads(0, MOST_LOADS))
    # It says, too, that this start came as far as here.
    put(root, encode(Loads(4, 9)))
    upkeep.keep_up(CONFIG, root, root / "state", volatile=False, say=print)
    assert kept(root) == encode(Loads(0, MOST_LOADS))


@pytest.mark.parametrize("tries", [1, 3, 4, 7, 252, 253, 9999])
def test_a_trial_ends_before_rescue_comes(tries: int) -> None:
    assert MOST_LOADS <= loads.limit(tries) < ASKED
    assert loads.limit(tries) > tries or tries >= ASKED - 1


def test_nothing_is_written_where_nobody_would_read_it(root: Path, tmp_path: Path) -> None:
    without = dataclasses.replace(CONFIG, rescue=RescuePolicy())
    upkeep.keep_up(without, root, root / "state", volatile=False, say=print)
    assert not (root / loads.VARIABLE).exists()
    # A board without UEFI.
    other = tmp_path / "other"
    other.mkdir()
    loads.ensure(CONFIG, other)
    assert list(other.iterdir()) == []
    assert loads.take_back(other) is None


def test_early_boot_takes_the_count_back_and_makes_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = []
    monkeypatch.setattr(mounts, "mount", lambda *args: mounted.append(args[1]))
    early.take_loads_back(root)
    assert mounted == [root / efivars.DIRECTORY]
    assert not (root / loads.VARIABLE).exists()
    put(root, encode(Loads(3, 6)))
    early.take_loads_back(root)
    assert kept(root) == encode(Loads(0, 6))


def test_variables_that_cannot_be_mounted_or_written_end_no_boot(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EINVAL, "no")

    put(root, encode(Loads(3, 6)))
    monkeypatch.setattr(mounts, "mount", refused)
    monkeypatch.setattr(efivars, "write", refused)
    early.take_loads_back(root)
    loads.ensure(CONFIG, root)
    assert kept(root) == encode(Loads(3, 6))


def test_rescue_knows_that_it_came_by_counting_and_takes_the_count_back(root: Path) -> None:
    put(root, encode(Loads(ASKED, 6)))
    assert begin(CONFIG, root).reason == "6 starts in a row did not reach early boot"
    assert kept(root) == encode(Loads(0, 6))


def test_rescue_that_came_another_way_takes_the_count_back_as_well(root: Path) -> None:
    put(root, encode(Loads(2, 6)))
    assert begin(CONFIG, root).reason == ""
    assert kept(root) == encode(Loads(0, 6))
