"""One conformance suite for every boot control, with its loader, and the fake as the oracle."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from recovery.bootcontrol.open import BOOT_DIRECTORY, open_boot_control, verified_slot
from recovery.device import DeviceConfig, decode, encode
from recovery.early import loader_is_counting
from recovery.errors import BootControlError
from recovery.slots import SLOTS, BootControl, Slot, SlotState, other_slot
from tests.recovery.builders import EXHAUSTED, NO_ENTRY, SUCCESSFUL, counting
from tests.recovery.loaders import BENCHES, MEMORY, Bench, FakeBench, make_esp
from tests.recovery.powercut import power_cut


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory for many small devices."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, memory: Path) -> Bench:
    """A factory device: slot a runs and is successful, slot b is empty."""
    return BENCHES[request.param](memory)


def granted(bench: Bench, tries: int) -> SlotState:
    """A slot with as many of the tries as the loader can count."""
    return counting(min(tries, bench.most_tries))


def observed(control: BootControl) -> tuple[Slot | None, SlotState, SlotState]:
    """Everything a boot control says."""
    return control.active_slot(), control.slot_state("a"), control.slot_state("b")


def test_a_factory_device_starts_its_only_slot(bench: Bench) -> None:
    assert bench.control.current_slot() == "a"
    assert bench.control.active_slot() == "a"
    assert bench.control.slot_state("a") == SUCCESSFUL
    assert bench.control.slot_state("b") == NO_ENTRY


def test_an_activated_slot_is_next_and_has_its_tries(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    assert bench.control.active_slot() == "b"
    assert bench.control.slot_state("b") == granted(bench, 3)
    assert bench.control.slot_state("a") == SUCCESSFUL
    assert bench.control.current_slot() == "a"


def test_a_successful_slot_needs_no_tries(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.mark_successful("b")
    bench.control.mark_successful("b")
    assert bench.control.slot_state("b") == SUCCESSFUL
    assert bench.control.active_slot() == "b"


def test_an_unbootable_slot_gives_way_to_the_other(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.mark_successful("b")
    bench.control.mark_unbootable("b")
    bench.control.mark_unbootable("b")
    assert bench.control.slot_state("b") == NO_ENTRY
    assert bench.control.active_slot() == "a"


def test_activating_again_grants_new_tries_and_goes_first(bench: Bench) -> None:
    bench.control.set_active("b", 2)
    bench.control.mark_successful("b")
    bench.control.set_active("a", 1)
    assert bench.control.active_slot() == "a"
    assert bench.control.slot_state("a") == granted(bench, 1)
    assert bench.control.slot_state("b") == SUCCESSFUL
    bench.control.set_active("a", 4)
    assert bench.control.slot_state("a") == granted(bench, 4)


def test_without_any_entry_nothing_is_active(bench: Bench) -> None:
    bench.control.mark_unbootable("a")
    assert bench.control.active_slot() is None


def test_a_slot_without_an_entry_cannot_become_successful(bench: Bench) -> None:
    with pytest.raises(BootControlError, match="cannot mark slot b successful"):
        bench.control.mark_successful("b")


def test_zero_tries_are_refused(bench: Bench) -> None:
    with pytest.raises(BootControlError, match="0 tries"):
        bench.control.set_active("b", 0)
    assert bench.control.active_slot() == "a"


def test_tidying_changes_nothing_that_counts(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.tidy()
    assert (bench.control.slot_state("a"), bench.control.slot_state("b")) == (
        SUCCESSFUL,
        granted(bench, 3),
    )
    assert bench.control.active_slot() == "b"


def test_the_loader_takes_a_try_before_each_start_and_gives_up_in_the_end(bench: Bench) -> None:
    bench.control.set_active("b", 2)
    tries = min(2, bench.most_tries)
    for left in reversed(range(tries)):
        assert bench.boot() == "b"
        assert bench.control.current_slot() == "b"
        assert bench.control.slot_state("b") == (counting(left) if left else EXHAUSTED)
    assert bench.control.active_slot() == "a"
    assert bench.boot() == "a"
    assert bench.control.slot_state("b") == EXHAUSTED
    assert bench.control.slot_state("a") == SUCCESSFUL


def test_a_commit_in_the_last_try_lasts(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    assert bench.boot() == "b"
    bench.control.mark_successful("b")
    assert [bench.boot() for _ in range(3)] == ["b", "b", "b"]
    assert bench.control.slot_state("b") == SUCCESSFUL
    assert bench.control.slot_state("a") == SUCCESSFUL


def test_a_committed_slot_that_gives_itself_up_leads_back(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    bench.boot()
    bench.control.mark_successful("b")
    bench.control.mark_unbootable("b")
    assert bench.boot() == "a"
    assert bench.control.slot_state("b") == NO_ENTRY


def test_a_cancelled_trial_does_not_start(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.control.mark_unbootable("b")
    assert bench.boot() == "a"


def test_the_loader_never_gives_up_by_itself(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    bench.control.mark_unbootable("a")
    assert [bench.boot() for _ in range(4)] == ["b"] * 4
    assert bench.control.slot_state("b") == EXHAUSTED
    assert bench.control.active_slot() is None


def test_tidying_again_and_again_changes_nothing_for_the_loader(bench: Bench) -> None:
    bench.control.set_active("b", 2)
    for _ in range(3):
        bench.control.tidy()
    assert bench.boot() == "b"
    bench.control.tidy()
    bench.control.tidy()
    assert bench.control.slot_state("a") == SUCCESSFUL
    assert bench.control.slot_state("b").tries_left == min(2, bench.most_tries) - 1


# Power cuts: before every durable operation, and inside every write of a record.

OPERATIONS: dict[str, Callable[[BootControl], None]] = {
    "set_active b": lambda control: control.set_active("b", 3),
    "set_active a": lambda control: control.set_active("a", 3),
    "mark_successful b": lambda control: control.mark_successful("b"),
    "mark_unbootable b": lambda control: control.mark_unbootable("b"),
    "mark_unbootable a": lambda control: control.mark_unbootable("a"),
    "tidy": lambda control: control.tidy(),
}


def armed(bench: Bench) -> None:
    bench.control.set_active("b", 3)


def tried(bench: Bench) -> None:
    bench.control.set_active("b", 3)
    bench.boot()


def exhausted(bench: Bench) -> None:
    bench.control.set_active("b", 1)
    bench.boot()
    bench.boot()


def committed(bench: Bench) -> None:
    tried(bench)
    bench.control.mark_successful("b")


# U-Boot's record survives being torn at any byte; the others are one sector, or files.
TEARS = {"u-boot": (0, 1, 5, 40, 512, 4096, 65535), "grub": (0,), "tryboot": (0,)}


@pytest.mark.parametrize("start", [armed, tried, exhausted, committed])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", [kind for kind in BENCHES if kind != "fake"])
def test_a_power_cut_leaves_the_state_before_or_the_state_after(
    kind: str,
    operation: str,
    start: Callable[[Bench], None],
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    act = OPERATIONS[operation]

    def prepared(name: str) -> Bench:
        (memory / name).mkdir()
        bench = BENCHES[kind](memory / name)
        start(bench)
        return bench

    bench = prepared("whole")
    before = observed(bench.control)
    act(bench.control)
    after = observed(bench.control)
    next_after = bench.boot()
    most = 0
    for torn_bytes in TEARS.get(kind, (0,)):
        cuts = 0
        while True:
            bench = prepared(f"cut{cuts}-{torn_bytes}")
            with power_cut(monkeypatch, cuts, torn_bytes=torn_bytes) as operations:
                act(bench.control)
            found = observed(bench.control)
            assert found in (before, after), f"cut before operation {cuts}"
            bench.control.tidy()
            assert observed(bench.control) == found
            # The same operation, repeated after the cut, gets there.
            act(bench.control)
            assert observed(bench.control) == after
            assert bench.boot() == next_after
            if not operations.happened:
                break
            cuts += 1
        most = max(most, cuts)
    if before != after:
        assert most >= 1


# The fake as the oracle.


class Alternation(RuleBasedStateMachine):
    """The loader and Linux take turns; every boot control does what the fake does."""

    kind = ""

    @initialize()
    def factory(self) -> None:
        self.place = tempfile.TemporaryDirectory(dir=MEMORY)
        root = Path(self.place.name)
        self.bench = BENCHES[self.kind](root)
        self.oracle = FakeBench(root)

    def teardown(self) -> None:
        self.place.cleanup()

    @rule(slot=st.sampled_from(SLOTS), tries=st.integers(1, 7))
    def set_active(self, slot: Slot, tries: int) -> None:
        fake = self.oracle.control
        if self.bench.most_tries == 1 and fake.slot_state(other_slot(slot)).tries_left:
            return  # The Pi's firmware has one try for both slots.
        self.bench.control.set_active(slot, tries)
        fake.set_active(slot, min(tries, self.bench.most_tries))

    @rule(slot=st.sampled_from(SLOTS))
    def mark_successful(self, slot: Slot) -> None:
        def outcome(control: BootControl) -> str:
            try:
                control.mark_successful(slot)
            except BootControlError as error:
                return error.brief
            return "done"

        assert outcome(self.bench.control) == outcome(self.oracle.control)

    @precondition(lambda self: len(self.oracle.control.entries) == 2)
    @rule(slot=st.sampled_from(SLOTS))
    def mark_unbootable(self, slot: Slot) -> None:
        self.bench.control.mark_unbootable(slot)
        self.oracle.control.mark_unbootable(slot)

    @rule()
    def tidy(self) -> None:
        self.bench.control.tidy()

    @rule()
    def boot(self) -> None:
        assert self.bench.boot() == self.oracle.boot()

    @invariant()
    def says_what_the_fake_says(self) -> None:
        assert self.bench.control.current_slot() == self.oracle.control.current_slot()
        assert observed(self.bench.control) == observed(self.oracle.control)


@pytest.mark.parametrize("kind", [kind for kind in BENCHES if kind != "fake"])
def test_loader_and_linux_in_alternation_are_the_fake(kind: str) -> None:
    machine = type("Alternation", (Alternation,), {"kind": kind})
    effort = settings(max_examples=100, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(machine, settings=effort)


# Opening.

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


def with_partitions(root: Path) -> Path:
    """The running slot b, and a disk with every partition that a board may have."""
    fake_root(root, "b", "root-b")
    (root / "dev").mkdir()
    for number, label in enumerate(("firmware", "boot-a", "boot-b", "environment"), 1):
        block = root / f"sys/class/block/mmcblk0p{number}"
        block.mkdir(parents=True)
        (block / "uevent").write_text(f"PARTN={number}\nPARTNAME={label}\n")
    return root


@pytest.mark.parametrize("kind", ["grub", "u-boot"])
def test_a_record_in_a_partition_is_found_by_its_label(kind: str, tmp_path: Path) -> None:
    root = with_partitions(tmp_path)
    environment = root / "dev/mmcblk0p4"
    (root / "bench").mkdir()
    BENCHES[kind](root / "bench")
    (root / "bench/environment").rename(environment)
    config = dataclasses.replace(CONFIG, boot_control=kind, environment="environment")
    control = open_boot_control(config, root)
    control.set_active("b", 2)
    assert open_boot_control(config, root).slot_state("b") == counting(2)
    assert control.current_slot() == "b"


def test_tryboot_is_opened_with_the_numbers_of_its_boot_partitions(tmp_path: Path) -> None:
    root = with_partitions(tmp_path)
    config = dataclasses.replace(
        CONFIG,
        boot_control="tryboot",
        boot_partition="firmware",
        boot_slots={"a": "boot-a", "b": "boot-b"},
    )
    file = root / BOOT_DIRECTORY / "autoboot.txt"
    file.write_text("[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n")
    control = open_boot_control(config, root)
    assert control.active_slot() == "a"
    control.mark_successful("b")
    control.mark_unbootable("a")
    assert "[all]\ntryboot_a_b=1\nboot_partition=3\n" in file.read_text()


@pytest.mark.parametrize("kind", ["grub", "u-boot", "tryboot"])
def test_a_record_that_cannot_be_found_is_an_error(kind: str, tmp_path: Path) -> None:
    root = fake_root(tmp_path, "b", "root-b")
    (root / "sys/class/block").mkdir(parents=True)
    config = dataclasses.replace(CONFIG, boot_control=kind, environment="environment")
    with pytest.raises(BootControlError, match="cannot find the boot control's record"):
        open_boot_control(config, root)


def test_the_device_s_document_says_where_the_record_is() -> None:
    config = dataclasses.replace(
        CONFIG, environment="environment", boot_slots={"a": "boot-a", "b": "boot-b"}
    )
    assert decode(encode(config)) == config
    older = json.loads(encode(CONFIG))
    del older["environment"], older["boot_slots"]
    read = decode(json.dumps(older).encode())
    assert (read.environment, read.boot_slots) == ("", {})


@pytest.mark.parametrize(
    ("prepare", "counting_with_a_way_back"),
    [
        (lambda c: c.tidy(), False),
        (lambda c: c.set_active("b", 2), True),
        (lambda c: (c.set_active("b", 2), c.mark_unbootable("a")), False),
        (lambda c: (c.set_active("b", 2), c.mark_successful("b")), False),
    ],
)
def test_without_its_state_only_a_try_that_leads_back_ends(
    prepare: Callable[[BootControl], object], counting_with_a_way_back: bool, tmp_path: Path
) -> None:
    """Early boot ends such a boot, so one that leads nowhere else would end for ever."""
    root = with_partitions(tmp_path)
    (root / "bench").mkdir()
    BENCHES["grub"](root / "bench")
    (root / "bench/environment").rename(root / "dev/mmcblk0p4")
    config = dataclasses.replace(CONFIG, boot_control="grub", environment="environment")
    (root / "usr/lib/orbital").mkdir(parents=True)
    (root / "usr/lib/orbital/device.json").write_bytes(encode(config))
    prepare(open_boot_control(config, root))
    assert loader_is_counting(root) is counting_with_a_way_back


def test_an_unknown_loader_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, boot_control="lilo")
    with pytest.raises(BootControlError, match="lilo"):
        open_boot_control(config, tmp_path)
