"""One conformance suite for every boot control, then what is systemd-boot's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.bootcontrol.fake import FakeBootControl
from recovery.bootcontrol.open import BOOT_DIRECTORY, open_boot_control, verified_slot
from recovery.bootcontrol.systemd_boot import SystemdBoot, entry_name, entry_text
from recovery.device import DeviceConfig
from recovery.errors import BootControlError
from recovery.slots import BootControl, Slot, SlotState
from tests.recovery.builders import EXHAUSTED, NO_ENTRY, SUCCESSFUL, counting
from tests.recovery.powercut import power_cut


def make_esp(root: Path) -> Path:
    """A boot partition as the factory leaves it: slot a, successful."""
    entries = root / "loader/entries"
    entries.mkdir(parents=True)
    (root / "EFI/orbital").mkdir(parents=True)
    for name in ("a.efi", "b.efi"):
        (root / "EFI/orbital" / name).write_bytes(b"MZ")
    (entries / entry_name("a", None)).write_text(entry_text("a", 1))
    (entries / "rescue.conf").write_text("title someone else's\nefi /EFI/rescue.efi\n")
    return root


def names(esp: Path) -> list[str]:
    """The files in the directory of entries."""
    return sorted(path.name for path in (esp / "loader/entries").iterdir())


@pytest.fixture(params=["systemd-boot", "fake"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> BootControl:
    """A factory device: slot a runs and is successful, slot b is empty."""
    if request.param == "fake":
        return FakeBootControl("a")
    return SystemdBoot(make_esp(tmp_path), "a")


def test_a_factory_device_starts_its_only_slot(control: BootControl) -> None:
    assert control.current_slot() == "a"
    assert control.active_slot() == "a"
    assert control.slot_state("a") == SUCCESSFUL
    assert control.slot_state("b") == NO_ENTRY


def test_an_activated_slot_is_next_and_has_its_tries(control: BootControl) -> None:
    control.set_active("b", 3)
    assert control.active_slot() == "b"
    assert control.slot_state("b") == counting(3)
    assert control.slot_state("a") == SUCCESSFUL
    assert control.current_slot() == "a"


def test_a_successful_slot_needs_no_tries(control: BootControl) -> None:
    control.set_active("b", 3)
    control.mark_successful("b")
    control.mark_successful("b")
    assert control.slot_state("b") == SUCCESSFUL
    assert control.active_slot() == "b"


def test_an_unbootable_slot_gives_way_to_the_other(control: BootControl) -> None:
    control.set_active("b", 3)
    control.mark_successful("b")
    control.mark_unbootable("b")
    control.mark_unbootable("b")
    assert control.slot_state("b") == NO_ENTRY
    assert control.active_slot() == "a"


def test_activating_again_grants_new_tries_and_goes_first(control: BootControl) -> None:
    control.set_active("b", 2)
    control.mark_successful("b")
    control.set_active("a", 1)
    assert control.active_slot() == "a"
    assert control.slot_state("a") == counting(1)
    assert control.slot_state("b") == SUCCESSFUL
    control.set_active("a", 4)
    assert control.slot_state("a") == counting(4)


def test_without_any_entry_nothing_is_active(control: BootControl) -> None:
    control.mark_unbootable("a")
    assert control.active_slot() is None


def test_a_slot_without_an_entry_cannot_become_successful(control: BootControl) -> None:
    with pytest.raises(BootControlError, match="cannot mark slot b successful"):
        control.mark_successful("b")


def test_zero_tries_are_refused(control: BootControl) -> None:
    with pytest.raises(BootControlError, match="0 tries"):
        control.set_active("b", 0)
    assert control.active_slot() == "a"


def test_tidying_changes_nothing_that_counts(control: BootControl) -> None:
    control.set_active("b", 3)
    control.tidy()
    assert (control.slot_state("a"), control.slot_state("b")) == (SUCCESSFUL, counting(3))
    assert control.active_slot() == "b"


# systemd-boot's own.


def observed(esp: Path) -> tuple[Slot | None, SlotState, SlotState]:
    """Everything a boot control says."""
    control = SystemdBoot(esp, "a")
    return control.active_slot(), control.slot_state("a"), control.slot_state("b")


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("orbital-b.conf", SUCCESSFUL),
        ("orbital-b+3.conf", counting(3)),
        ("orbital-b+2-1.conf", counting(2)),
        ("orbital-b+0-3.conf", EXHAUSTED),
        ("ORBITAL-B+2-1.CONF", counting(2)),
        ("orbital-b+.conf", NO_ENTRY),
        ("orbital-b+2-.conf", NO_ENTRY),
        ("orbital-b+-1.conf", NO_ENTRY),
        ("orbital-b+2-1-1.conf", NO_ENTRY),
        ("orbital-b+2-1.conf.tmp", NO_ENTRY),
        ("orbital-b+x.conf", NO_ENTRY),
        ("orbital-c+3.conf", NO_ENTRY),
        (".orbital-b+3.conf", NO_ENTRY),
    ],
)
def test_names_are_read_as_the_specification_says(
    tmp_path: Path, name: str, state: SlotState
) -> None:
    esp = make_esp(tmp_path)
    (esp / "loader/entries" / name).write_text(entry_text("b", 2))
    assert SystemdBoot(esp, "a").slot_state("b") == state


@pytest.mark.parametrize("content", ["", "version 9\n", "version 9\nefi /EFI/orbital/a.efi\n"])
def test_an_entry_that_cannot_start_its_slot_does_not_count(tmp_path: Path, content: str) -> None:
    esp = make_esp(tmp_path)
    (esp / "loader/entries/orbital-b+3.conf").write_text(content)
    assert observed(esp) == ("a", SUCCESSFUL, NO_ENTRY)


@pytest.mark.parametrize(
    ("left", "right", "state"),
    [
        # The firmware counted, and was cut between the new name and the old one.
        ("orbital-b+3.conf", "orbital-b+2-1.conf", counting(2)),
        # A commit was cut between the new name and the old one.
        ("orbital-b+2-1.conf", "orbital-b.conf", SUCCESSFUL),
    ],
)
def test_both_names_of_a_cut_rename_mean_that_it_happened(
    tmp_path: Path, left: str, right: str, state: SlotState
) -> None:
    esp = make_esp(tmp_path)
    for name in (left, right):
        (esp / "loader/entries" / name).write_text(entry_text("b", 2))
    assert SystemdBoot(esp, "a").slot_state("b") == state
    SystemdBoot(esp, "a").tidy()
    assert names(esp) == ["orbital-a.conf", right, "rescue.conf"]


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    esp = make_esp(tmp_path)
    before = (esp / "loader/entries/rescue.conf").read_bytes()
    control = SystemdBoot(esp, "a")
    control.set_active("b", 3)
    control.mark_successful("b")
    control.mark_unbootable("a")
    control.mark_unbootable("b")
    assert names(esp) == ["rescue.conf"]
    assert (esp / "loader/entries/rescue.conf").read_bytes() == before


def test_a_slot_without_a_boot_artifact_is_not_activated(tmp_path: Path) -> None:
    esp = make_esp(tmp_path)
    (esp / "EFI/orbital/b.efi").unlink()
    with pytest.raises(BootControlError, match="no boot artifact"):
        SystemdBoot(esp, "a").set_active("b", 3)


def test_the_loader_counting_in_between_is_understood(tmp_path: Path) -> None:
    esp = make_esp(tmp_path)
    SystemdBoot(esp, "a").set_active("b", 2)
    entries = esp / "loader/entries"
    (entries / "orbital-b+2.conf").rename(entries / "orbital-b+1-1.conf")
    control = SystemdBoot(esp, "b")
    assert control.slot_state("b") == counting(1)
    control.mark_successful("b")
    assert names(esp) == ["orbital-a.conf", "orbital-b.conf", "rescue.conf"]


OPERATIONS = {
    "set_active b": lambda control: control.set_active("b", 3),
    "set_active a": lambda control: control.set_active("a", 3),
    "mark_successful b": lambda control: control.mark_successful("b"),
    "mark_unbootable b": lambda control: control.mark_unbootable("b"),
}
STARTS: dict[str, list[tuple[str, Slot, int]]] = {
    "counting": [("orbital-b+2-1.conf", "b", 2)],
    "cut by the loader": [("orbital-b+3.conf", "b", 2), ("orbital-b+2-1.conf", "b", 2)],
    "cut commit": [("orbital-b+2-1.conf", "b", 2), ("orbital-b.conf", "b", 2)],
    "older entry left": [("orbital-b.conf", "b", 2), ("orbital-b+3.conf", "b", 3)],
    "successful": [("orbital-b.conf", "b", 2)],
}


@pytest.mark.parametrize("both_names", [False, True])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_power_cut_leaves_the_state_before_or_the_state_after(
    operation: str,
    start: str,
    both_names: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepared(name: str) -> Path:
        esp = make_esp(tmp_path / name)
        for file, slot, activation in STARTS[start]:
            (esp / "loader/entries" / file).write_text(entry_text(slot, activation))
        return esp

    esp = prepared("whole")
    before = observed(esp)
    OPERATIONS[operation](SystemdBoot(esp, "a"))
    after = observed(esp)
    cuts = 0
    while True:
        esp = prepared(f"cut{cuts}")
        with power_cut(monkeypatch, cuts, both_names=both_names) as operations:
            OPERATIONS[operation](SystemdBoot(esp, "a"))
        assert observed(esp) in (before, after), f"cut before operation {cuts}: {names(esp)}"
        SystemdBoot(esp, "a").tidy()
        assert observed(esp) in (before, after)
        # The same operation, repeated after the cut, gets there.
        OPERATIONS[operation](SystemdBoot(esp, "a"))
        assert observed(esp) == after
        if not operations.happened:
            break
        cuts += 1
    if before != after:
        assert cuts >= 1


CONFIG = DeviceConfig(
    system="gateway",
    version="1.0",
    board="qemu-x86_64",
    architecture="x86-64",
    built=0,
    boot_control="systemd-boot",
    boot_partition="esp",
    state="state",
    slots={"a": "root-a", "b": "root-b"},
)


def fake_root(root: Path, slot: str, label: str) -> Path:
    """Enough of /proc, /sys and /run to tell which slot runs."""
    for folder in ("run/orbital", "proc/self", "sys/dev/block/253:0/slaves/vda3"):
        (root / folder).mkdir(parents=True)
    (root / "run/orbital/slot").write_text(f"{slot}\n")
    (root / "proc/cmdline").write_text("orbital.roothash=abcd quiet\n")
    (root / "proc/self/mountinfo").write_text(
        "20 1 253:0 / / ro - erofs /dev/mapper/root ro\n21 20 0:5 / /proc rw - proc proc rw\n"
    )
    (root / "sys/dev/block/253:0/slaves/vda3/uevent").write_text(f"PARTNAME={label}\n")
    make_esp(root / BOOT_DIRECTORY)
    return root


def test_the_running_slot_is_checked_against_the_disk(tmp_path: Path) -> None:
    root = fake_root(tmp_path, "b", "root-b")
    assert open_boot_control(CONFIG, root).current_slot() == "b"


def test_nothing_is_written_when_the_running_slot_is_in_doubt(tmp_path: Path) -> None:
    root = fake_root(tmp_path, "a", "root-b")
    with pytest.raises(BootControlError, match="cannot trust the running slot"):
        verified_slot(CONFIG, root)


def test_an_unknown_loader_is_refused(tmp_path: Path) -> None:
    import dataclasses

    config = dataclasses.replace(CONFIG, boot_control="lilo")
    with pytest.raises(BootControlError, match="lilo"):
        open_boot_control(config, tmp_path)
