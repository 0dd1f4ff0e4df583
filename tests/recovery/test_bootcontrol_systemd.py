"""What is systemd-boot's own: names of entries, FAT's renames, files of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.bootcontrol.systemd_boot import SystemdBoot, entry_text
from recovery.errors import BootControlError
from recovery.slots import Slot, SlotState
from tests.recovery.builders import EXHAUSTED, NO_ENTRY, SUCCESSFUL, counting
from tests.recovery.loaders import SystemdBootBench, make_esp
from tests.recovery.powercut import power_cut


def names(esp: Path) -> list[str]:
    """The files in the directory of entries."""
    return sorted(path.name for path in (esp / "loader/entries").iterdir())


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


def test_a_name_that_a_cut_left_is_not_started_when_all_tries_are_used_up(tmp_path: Path) -> None:
    """Found by the model: slot a was activated again, and its older entry was not removed."""
    bench = SystemdBootBench(tmp_path)
    entries = bench.esp / "loader/entries"
    (entries / "orbital-a.conf").write_text(entry_text("a", 1))
    (entries / "orbital-a+0-2.conf").write_text(entry_text("a", 3))
    (entries / "orbital-b.conf").write_text(entry_text("b", 2))
    SystemdBoot(bench.esp, None).set_active("b", 1)
    assert bench.boot() == "b"
    assert observed(bench.esp) == (None, EXHAUSTED, EXHAUSTED)
    # The loader's own order puts exhausted entries last, and rescue's before them.
    assert names(bench.esp) == ["orbital-a+0-2.conf", "orbital-b+0-1.conf", "rescue.conf"]


@pytest.mark.parametrize("both_names", [False, True])
def test_a_cut_activation_leaves_no_name_that_is_started_and_not_counted(
    both_names: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the model: slot a, once committed, was activated again; its older entry was left."""
    for cut in range(20):
        bench = SystemdBootBench(tmp_path / str(cut))
        (bench.esp / "loader/entries/orbital-b+0-2.conf").write_text(entry_text("b", 2))
        with power_cut(monkeypatch, cut, both_names=both_names) as operations:
            bench.control.set_active("a", 2)
        if bench.control.slot_state("a") == SUCCESSFUL:
            continue
        for left in (1, 0):
            assert bench.boot() == "a"
            assert bench.control.slot_state("a").tries_left == left
        assert all("+0" in name for name in names(bench.esp) if name.startswith("orbital"))
        if not operations.happened:
            return
    raise AssertionError("it does not end")


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
STARTS: dict[str, dict[str, str]] = {
    "counting": {"orbital-b+2-1.conf": entry_text("b", 2)},
    "cut by the loader": {f"orbital-b{n}.conf": entry_text("b", 2) for n in ("+3", "+2-1")},
    "cut commit": {f"orbital-b{n}.conf": entry_text("b", 2) for n in ("+2-1", "")},
    "older entry left": {
        "orbital-b.conf": entry_text("b", 2),
        "orbital-b+3.conf": entry_text("b", 3),
    },
    "successful": {"orbital-b.conf": entry_text("b", 2)},
    "successful, activated again": {"orbital-b+3.conf": entry_text("b", 2, successful=True)},
    "the same with other tries": {"orbital-b+5.conf": entry_text("b", 2, successful=True)},
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
        for file, text in STARTS[start].items():
            (esp / "loader/entries" / file).write_text(text)
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
