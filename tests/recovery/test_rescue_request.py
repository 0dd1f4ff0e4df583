"""A person asks for rescue: the record, and what each loader has to be told besides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from recovery.device import RescuePolicy
from recovery.errors import RefusedError
from recovery.rescue.request import ENTRY, ONE_SHOT, ask
from recovery.rescue.visit import FILE, begin
from recovery.starts import StartFile, Starts
from tests.recovery.builders import CONFIG
from tests.recovery.powercut import power_cut

RESCUED = dataclasses.replace(CONFIG, rescue=RescuePolicy(partition="rescue"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A running system on UEFI, its partitions plain files."""
    for number, label in enumerate(("esp", "environment", "rescue"), start=1):
        folder = tmp_path / f"sys/class/block/vda{number}"
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"PARTNAME={label}\nPARTN={number}\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vda2").write_bytes(bytes(1 << 20))
    (tmp_path / ONE_SHOT).parent.mkdir(parents=True)
    return tmp_path


def record(root: Path) -> Starts:
    return StartFile(root / "dev/vda2").load()


def test_systemd_boot_is_told_to_start_the_rescue_entry_once(root: Path) -> None:
    ask(RESCUED, "anna", "it smells", root=root)
    assert record(root) == Starts(rescue=True, reason="asked by anna: it smells")
    # Attributes, then UTF-16 with its end: the Boot Loader Interface of systemd-boot.
    wanted = b"\x07\0\0\0" + "orbital-rescue.conf\0".encode("utf-16-le")
    assert (root / ONE_SHOT).read_bytes() == wanted
    assert ENTRY == "orbital-rescue.conf"


def test_the_pi_is_told_which_partition_to_boot(root: Path) -> None:
    config = dataclasses.replace(RESCUED, boot_control="tryboot")
    ask(config, "anna", root=root)
    assert (root / "run/systemd/reboot-param").read_text() == "3"


def test_loaders_that_read_the_record_need_nothing_else(root: Path) -> None:
    ask(dataclasses.replace(RESCUED, boot_control="grub"), "anna", action="erase", root=root)
    assert record(root).action == "erase"
    assert not (root / ONE_SHOT).exists()
    assert not (root / "run/systemd").exists()


def test_a_firmware_without_variables_does_not_stop_the_wish(root: Path) -> None:
    (root / ONE_SHOT).parent.rmdir()
    ask(RESCUED, "anna", root=root)
    assert record(root).by_person


def test_a_device_without_rescue_says_so(root: Path) -> None:
    with pytest.raises(RefusedError, match="has none"):
        ask(CONFIG, "anna", root=root)
    assert record(root) == Starts()


def test_a_cut_before_the_record_asks_for_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with power_cut(monkeypatch, 0):
        ask(RESCUED, "anna", root=root)
    assert record(root) == Starts()
    assert not (root / ONE_SHOT).exists()


def test_a_visit_takes_the_wish_back_and_remembers_it(root: Path) -> None:
    ask(RESCUED, "anna", action="reset", root=root)
    visit = begin(RESCUED, root)
    assert (visit.person, visit.action, visit.rescued) == (True, "reset", 0)
    # The next start is an ordinary one, but for what has still to be done.
    assert record(root) == Starts(action="reset", reason="asked by anna")
    # The program was started again by init: it is the same visit.
    assert begin(RESCUED, root) == visit


def test_a_reason_is_not_kept_for_a_later_visit(root: Path) -> None:
    """Else one by the boot menu would be taken for one by itself."""
    StartFile(root / "dev/vda2").save(Starts(rescue=True, reason="slot a cannot be opened"))
    assert begin(RESCUED, root).reason == "slot a cannot be opened"
    assert record(root) == Starts()


@pytest.mark.parametrize(("loads", "told"), [(4, False), (5, True)])
def test_rescue_that_came_because_no_kernel_did_does_not_wait_for_a_person(
    root: Path, loads: int, told: bool
) -> None:
    """The loader's script can count, not write a reason: without one it looks like a button."""
    StartFile(root / "dev/vda2").save(Starts(loads=loads, rescued=1))
    assert bool(begin(RESCUED, root).reason) == told
    assert not begin(RESCUED, root).person
    # Whatever becomes of this visit, the next start is an ordinary one.
    assert record(root) == Starts(rescued=1)


@pytest.mark.parametrize("data", [b"", b"[]", json.dumps({"person": 1}).encode()])
def test_a_damaged_note_of_the_visit_is_made_again(root: Path, data: bytes) -> None:
    (root / FILE).parent.mkdir(parents=True)
    (root / FILE).write_bytes(data)
    StartFile(root / "dev/vda2").save(Starts(rescued=3))
    assert begin(RESCUED, root).rescued == 3
