"""What is the Raspberry Pi's own: one try, a file of one sector, a reboot that asks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.bootcontrol import autoboot
from recovery.bootcontrol.recorded import Recorded
from recovery.bootcontrol.tryboot import REBOOT_PARAMETER, SIZE, TrybootFile
from recovery.errors import BootControlError
from tests.recovery.builders import EXHAUSTED, SUCCESSFUL, counting
from tests.recovery.loaders import (
    MEMORY,
    PARTITIONS,
    RESCUE_PARTITION,
    TrybootBench,
    tryboot,
)
from tests.recovery.redundant import (
    NO_RECORD,
    observed,
)


def test_a_power_cut_before_the_reboot_uses_the_try_up(memory: Path) -> None:
    bench = TrybootBench(memory)
    bench.control.set_active("b", 3)
    assert bench.control.slot_state("b") == counting(1)
    assert bench.lose_power() == "a"
    assert observed(bench.control) == ("a", SUCCESSFUL, EXHAUSTED)
    assert bench.boot() == "a"


def test_the_reboot_is_asked_for_only_while_a_try_waits(memory: Path) -> None:
    bench = TrybootBench(memory)
    parameter = bench.root / REBOOT_PARAMETER
    bench.control.set_active("b", 1)
    assert parameter.read_text() == "0 tryboot"
    parameter.unlink()
    bench.control.tidy()
    assert parameter.read_text() == "0 tryboot"
    bench.control.mark_unbootable("b")
    assert not parameter.exists()
    parameter.write_text("3")  # Somebody else's wish.
    bench.control.mark_successful("a")
    bench.control.tidy()
    assert parameter.read_text() == "3"


def test_the_other_slot_loses_its_try(memory: Path) -> None:
    bench = TrybootBench(memory)
    bench.control.set_active("b", 1)
    bench.control.set_active("a", 1)
    assert observed(bench.control) == ("a", counting(1), EXHAUSTED)


RAUC = "[all]\ntryboot_a_b=1\nboot_partition=5\n[tryboot]\nboot_partition=3\n"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_an_autoboot_file_of_others_is_understood_and_grows_in_place(
    ending: str, memory: Path
) -> None:
    bench = TrybootBench(memory)
    bench.path.write_bytes(RAUC.replace("\n", ending).encode())
    inode = bench.path.stat().st_ino
    assert observed(bench.control) == ("b", SUCCESSFUL, SUCCESSFUL)
    bench.current = "b"
    bench.control.set_active("a", 1)
    assert bench.path.stat().st_ino == inode
    assert SIZE <= bench.path.stat().st_size <= autoboot.LIMIT
    assert observed(bench.control) == ("a", counting(1), SUCCESSFUL)
    assert bench.boot() == "a"


def test_what_the_firmware_reads_counts_when_our_line_says_otherwise(memory: Path) -> None:
    bench = TrybootBench(memory)
    text = bench.path.read_bytes()
    bench.path.write_bytes(text.replace(b"boot_partition=3\n[try", b"boot_partition=5\n[try"))
    assert observed(bench.control) == ("b", SUCCESSFUL, SUCCESSFUL)


@pytest.mark.parametrize("asked", [False, True])
def test_a_lost_autoboot_file_is_made_again_from_what_runs(asked: bool, memory: Path) -> None:
    bench = TrybootBench(memory)
    if asked:
        bench.control.set_active("b", 1)
        assert bench.boot() == "b"
    bench.path.unlink()
    assert observed(bench.control) == NO_RECORD
    bench.control.tidy()
    if asked:  # The slot that is tried now is not what a power cut should lead to.
        assert observed(bench.control) == ("a", SUCCESSFUL, EXHAUSTED)
        assert bench.lose_power() == "a"
    else:
        assert observed(bench.control) == ("a", SUCCESSFUL, SUCCESSFUL)


def test_lines_of_others_in_autoboot_txt_stay(memory: Path) -> None:
    bench = TrybootBench(memory)
    bench.path.write_text(f"# kept\nx=1\n{RAUC}y=2\n[none]\nz=3\n")
    bench.control.set_active("a", 1)
    bench.control.mark_successful("a")
    read = autoboot.decode(bench.path.read_bytes(), PARTITIONS)
    assert read.others == (
        (b"[all]", b"# kept"),
        (b"[all]", b"x=1"),
        (b"[tryboot]", b"y=2"),
        (b"[none]", b"z=3"),
    )
    bench.path.write_text(RAUC + "x" * 420 + "\n")
    with pytest.raises(BootControlError, match="no room beside the other lines"):
        bench.control.set_active("a", 1)


def with_rescue(bench: TrybootBench) -> Recorded:
    """Boot control in the rescue system of such a device."""
    file = TrybootFile(bench.path.parent, PARTITIONS, bench.root, rescue=RESCUE_PARTITION)
    return Recorded(file, None)


def test_where_no_slot_is_good_the_firmware_starts_rescue(memory: Path) -> None:
    """What rescue starts has one try; when it is used, by a panic or a cut, rescue comes again."""
    bench = TrybootBench(memory)
    control = with_rescue(bench)
    control.mark_unbootable("b")
    control.set_active("a", 2)
    data = bench.path.read_bytes()
    assert tryboot(data, asked=False).rescue
    assert (tryboot(data, asked=True).slots, tryboot(data, asked=True).rescue) == (("a",), False)
    assert control.slot_state("a") == counting(1)
    bench.boot()
    control = with_rescue(bench)
    assert control.slot_state("a") == EXHAUSTED
    control.mark_successful("a")
    assert not tryboot(bench.path.read_bytes(), asked=False).rescue


def test_a_lost_file_is_made_again_in_rescue_with_nothing_in_it_that_starts(memory: Path) -> None:
    bench = TrybootBench(memory)
    bench.path.unlink()
    assert tryboot(b"", asked=False).rescue  # The first partition that can be started.
    control = with_rescue(bench)
    control.tidy()
    assert tryboot(bench.path.read_bytes(), asked=False).rescue
    assert control.active_slot() is None
    assert with_rescue(bench).active_slot() is None
    # Without our line nobody knows why it names rescue: the record is lost.
    bench.path.write_bytes(b"\n".join(bench.path.read_bytes().split(b"\n")[:5]) + b"\n")
    assert observed(with_rescue(bench)) == NO_RECORD


def test_a_record_of_before_the_device_had_a_rescue_system_is_understood(memory: Path) -> None:
    bench = TrybootBench(memory)
    bench.control.set_active("b", 1)
    bench.control.mark_unbootable("a")
    before = observed(bench.control)
    control = with_rescue(bench)
    assert observed(control) == before
    control.set_active("b", 1)
    assert tryboot(bench.path.read_bytes(), asked=False).rescue


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_noise_in_autoboot_txt_is_a_lost_record(noise: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        bench = TrybootBench(Path(name))
        bench.path.write_bytes(noise)
        bench.control.active_slot()
        bench.control.tidy()
        assert bench.control.active_slot() == "a"
        assert bench.boot() == "a"
