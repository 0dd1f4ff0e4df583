"""What boots of a slot do with the start record: early boot asks for rescue, health clears it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from recovery import device, early
from recovery.device import RescuePolicy
from recovery.starts import StartFile, Starts, note_healthy
from recovery.value import replace
from tests.recovery.builders import CONFIG

RESCUED = dataclasses.replace(CONFIG, rescue=RescuePolicy(partition="rescue"))
COUNTED = Starts(image="ab" * 16, starts=5, asked=1, rescued=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device with a rescue system; its partition `environment` is a plain file."""
    for folder in ("sys/class/block/vda3", "dev", "usr/lib/orbital"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sys/class/block/vda3/uevent").write_text("PARTNAME=environment\n")
    (tmp_path / "dev/vda3").write_bytes(bytes(1 << 20))
    (tmp_path / "usr/lib/orbital/device.json").write_bytes(device.encode(RESCUED))
    return tmp_path


def record(root: Path) -> StartFile:
    return StartFile(root / "dev/vda3")


def test_a_state_that_cannot_be_used_asks_for_rescue_once(root: Path) -> None:
    assert early.ask_for_rescue(root, ["cannot mount /dev/vda4: bad superblock"])
    asked = record(root).load()
    assert asked.rescue and not asked.by_person
    assert "bad superblock" in asked.reason
    # Rescue has been there, and has started a slot: it is not asked again.
    record(root).save(replace(asked, rescue=False, rescued=1))
    assert not early.ask_for_rescue(root, [])


@pytest.mark.parametrize("asked", [1, 3])
def test_a_rescue_that_does_not_come_is_not_asked_for_again(root: Path, asked: int) -> None:
    record(root).save(Starts(asked=asked))
    assert not early.ask_for_rescue(root, [])
    assert record(root).load() == Starts(asked=asked)


def test_a_rescue_that_may_not_renew_the_state_is_not_asked_for_it(root: Path) -> None:
    keeping = dataclasses.replace(RESCUED, rescue=RescuePolicy(partition="rescue", state="keep"))
    (root / "usr/lib/orbital/device.json").write_bytes(device.encode(keeping))
    assert not early.ask_for_rescue(root, [])


def test_a_device_without_rescue_or_with_a_broken_disk_boots_on(root: Path) -> None:
    (root / "usr/lib/orbital/device.json").write_bytes(device.encode(CONFIG))
    assert not early.ask_for_rescue(root, [])
    (root / "usr/lib/orbital/device.json").write_bytes(device.encode(RESCUED))
    (root / "dev/vda3").write_bytes(b"short")
    assert not early.ask_for_rescue(root, [])
    (root / "sys/class/block/vda3/uevent").write_text("PARTNAME=other\n")
    assert not early.ask_for_rescue(root, [])
    note_healthy(RESCUED, root, volatile=False)


def test_a_healthy_start_clears_the_counts_in_one_write(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(root).save(COUNTED)
    note_healthy(RESCUED, root, volatile=False)
    assert record(root).load() == Starts()

    def write(*_: object) -> None:
        raise AssertionError("a record that is clear is not written")

    monkeypatch.setattr(StartFile, "save", write)
    note_healthy(RESCUED, root, volatile=False)


def test_a_volatile_start_keeps_the_visits_so_that_rescue_is_not_asked_for_ever(root: Path) -> None:
    record(root).save(COUNTED)
    note_healthy(RESCUED, root, volatile=True)
    assert record(root).load() == Starts(asked=1, rescued=2)
    assert not early.ask_for_rescue(root, [])
