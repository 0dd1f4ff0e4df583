"""GRUB's script run by GRUB itself, on the factory's disk with every state of the record.

Each boot costs about 2 s: the slots hold a boot.cfg that says so in the place of a
kernel. What starts and what is written must be what `tests.recovery.loaders.grub` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from imager.archive import write_cpio
from imager.firmware.grub import Grub, placed_boot_code, placed_core
from imager.firmware.grub_environment import factory_environment
from imager.firmware.kind import Ingredients
from imager.layout import DiskLayout, plan_layout, sfdisk_script
from imager.signing import PeSigner, load_pe_signer
from imager.tools import Tools
from imager.tree import Tree
from manifests.board import Board
from manifests.catalogue import find, load_board
from qemu import emulator
from recovery.bootcontrol import grubenv
from recovery.bootcontrol.recorded import GOOD, Count, Record
from recovery.process import run
from recovery.slots import Slot
from recovery.starts import MOST_LOADS, OFFSET, SIZE, Starts, parse, to_bytes
from recovery.value import replace
from tests.recovery import loaders

pytestmark = pytest.mark.boot

SECONDS = 120
SECOND = 65536
STARTS = "echo BOOT.CFG on $root\nreboot\n"
HANGS = "while true; do true; done\n"
SLOT_OF = {"hd0,gpt3": "rescue", "hd0,gpt4": "a", "hd0,gpt5": "b"}


class Outcome(NamedTuple):
    """started: the slots whose boot.cfg ran, in order. environment: the record afterwards."""

    started: list[str]
    environment: bytes
    console: str


class Bench(NamedTuple):
    """A disk with GRUB and nothing else, and what boots it."""

    board: Board
    layout: DiskLayout
    disk: Path
    signer: PeSigner
    tools: Tools


Boot = Callable[..., Outcome]


def _disk(board: Board, disk: Path, signer: PeSigner, tools: Tools) -> DiskLayout:
    layout = plan_layout(board)
    with disk.open("wb") as out:
        out.truncate(layout.size)
    tools.run("sfdisk", "--quiet", disk, stdin=sfdisk_script(layout))
    loader = disk.with_name(f"{disk.name}.loader")
    loader.mkdir()
    Grub().build_loader(board, loader, signer, tools)
    first = layout.extent("firmware").start // 512
    with disk.open("r+b") as out:
        out.write(placed_boot_code((loader / "boot.img").read_bytes(), first))
        out.seek(first * 512)
        out.write(placed_core((loader / "core.img").read_bytes(), first))
    return layout


@pytest.fixture(scope="module")
def bench(tools: Tools, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Made once; a watchdog that does not make tests wait for a minute."""
    board = load_board(find("board", "qemu-x86_64-bios"))
    assert board.watchdog is not None
    board = msgspec.structs.replace(
        board, watchdog=msgspec.structs.replace(board.watchdog, timeout_seconds=10)
    )
    signer = load_pe_signer(keys, tools, time=0)
    disk = tmp_path_factory.mktemp("grub") / "disk"
    return Bench(board, _disk(board, disk, signer, tools), disk, signer, tools)


@pytest.fixture
def boot(bench: Bench, tmp_path: Path) -> Boot:
    """Boots the disk with a record and boot artifacts until the machine is reset."""

    def start(
        environment: bytes,
        slots: Mapping[Slot, str | bytes] | None = None,
        *,
        read_only: bool = False,
        watchdog_device: bool = True,
        before: int = 0,
        rescue: bool = False,
    ) -> Outcome:
        extents = {label: bench.layout.extent(label) for label in ("environment", "boot-a")}
        contents = {"a": STARTS, "b": STARTS} if slots is None else slots
        with bench.disk.open("r+b") as disk:
            disk.seek(extents["environment"].start)
            disk.write(environment)
            for slot in ("a", "b"):
                content = contents.get(slot, b"")
                disk.seek(bench.layout.extent(f"boot-{slot}").start)
                disk.write(_archive(content, tmp_path) if isinstance(content, str) else content)
                disk.write(bytes(4096))
            disk.seek(bench.layout.extent("rescue").start)
            disk.write(_archive(STARTS, tmp_path) if rescue else bytes(4096))
        done = run(
            [
                *emulator.command("qemu-system-x86_64"),
                *("-machine", "pc", "-accel", "tcg", "-cpu", "max"),
                *("-m", "256", "-nodefaults", "-display", "none", "-no-reboot"),
                *("-serial", "stdio", *_disks(before, tmp_path)),
                *("-blockdev", f"driver=file,node-name=file0,filename={bench.disk}"),
                *("-blockdev", f"driver=raw,node-name=disk0,file=file0,read-only={_on(read_only)}"),
                *("-device", "virtio-blk-pci,drive=disk0,bootindex=1"),
                *(["-device", "i6300esb", "-action", "watchdog=reset"] if watchdog_device else []),
            ],
            timeout=SECONDS,
        )
        started = [
            SLOT_OF[line.split()[-1].replace(f"hd{before}", "hd0")]
            for line in done.stdout.splitlines()
            if line.startswith("BOOT.CFG on ")
        ]
        with bench.disk.open("rb") as disk:
            disk.seek(extents["environment"].start)
            written = disk.read(extents["environment"].size)
        return Outcome(started, written, done.stdout)

    return start


def _archive(text: str, directory: Path) -> bytes:
    tree = Tree()
    tree.file("boot.cfg", text)
    write_cpio(tree, directory / "artifact", 0, sealed=True)
    return (directory / "artifact").read_bytes()


def _disks(count: int, directory: Path) -> list[str]:
    """Other disks, which the firmware lists after the one it boots, whatever their order."""
    options = []
    for number in range(count):
        disk = directory / f"other{number}"
        disk.write_bytes(bytes(1 << 20))
        options += ["-drive", f"if=virtio,format=raw,file={disk}"]
    return options


def _on(value: bool) -> str:
    return "on" if value else "off"


def _copies(first: bytes, second: bytes | None = None) -> bytes:
    """The factory's partition `environment` with these records."""
    image = bytearray(factory_environment().ljust(loaders.ENVIRONMENT_SIZE, b"\0"))
    image[:512] = first
    image[SECOND : SECOND + 512] = first if second is None else second
    return bytes(image)


def _sector(record: Record, *others: bytes) -> bytes:
    return grubenv.encode(grubenv.Block(record, others))


def _trial(left: int) -> Record:
    return Record(("b", "a"), a=GOOD, b=Count(left))


def _changed(sector: bytes, old: bytes, new: bytes) -> bytes:
    assert old in sector
    return sector.replace(old, new).rstrip(b"#").ljust(512, b"#")


NEW, OLD = _sector(_trial(3)), _sector(Record(("a",), a=GOOD))
RECORDS: Mapping[str, bytes] = {
    "factory": _copies(OLD),
    "trial-of-b": _copies(NEW),
    "most-tries": _copies(_sector(_trial(7))),
    "last-try": _copies(_sector(_trial(1))),
    "exhausted": _copies(_sector(_trial(0))),
    "trial-of-a": _copies(_sector(Record(("a", "b"), a=Count(2), b=GOOD))),
    "both-counted": _copies(_sector(Record(("b", "a"), a=Count(2), b=Count(0)))),
    "none-left": _copies(_sector(Record(("b", "a")))),
    "no-slot": _copies(_sector(Record(()))),
    "cut-between-copies": _copies(NEW, OLD),
    "first-copy-torn": _copies(bytes(512), NEW),
    "first-copy-not-allowed": _copies(_changed(NEW, b"b_left=3", b"b_left=9"), NEW),
    "first-copy-without-end": _copies(_changed(OLD, b"orbital_end=1\n", b""), NEW),
    "second-copy-torn": _copies(NEW, bytes(512)),
    "lost": _copies(bytes(512)),
    "others": _copies(_sector(_trial(2), b"timeout=5\n", b"orbital_disk=hd7\n", b"root=hd9\n")),
    "without-counts": _copies(
        _changed(OLD, b"orbital_b_left=0\norbital_a_good=1\norbital_b_good=0\n", b"")
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_what_starts_and_what_is_written_is_what_the_model_says(boot: Boot, name: str) -> None:
    before = RECORDS[name]
    expected = loaders.grub(before)
    outcome = boot(before)
    after = bytearray(before)
    for offset, data in expected.writes:
        after[offset : offset + len(data)] = data
    assert outcome.started == [expected.first], outcome.console
    assert outcome.environment == after
    assert "watchdog armed" in outcome.console


def test_a_slot_on_trial_that_cannot_be_loaded_has_failed_this_try(boot: Boot) -> None:
    outcome = boot(RECORDS["trial-of-b"], {"a": STARTS})
    assert outcome.started == []
    assert "cannot start slot b" in outcome.console
    assert outcome.environment[:512] == _sector(_trial(2))


@pytest.mark.parametrize(
    ("name", "only"), [("exhausted", "b"), ("none-left", "a"), ("lost", "b"), ("no-slot", "b")]
)
def test_when_nothing_is_counted_the_next_slot_starts_instead(
    boot: Boot, name: str, only: Slot
) -> None:
    outcome = boot(RECORDS[name], {only: STARTS})
    assert outcome.started == [only]
    assert outcome.environment == RECORDS[name]


def test_with_no_slot_to_load_the_machine_is_reset(boot: Boot) -> None:
    outcome = boot(RECORDS["exhausted"], {})
    assert outcome.started == []
    assert "cannot start slot a" in outcome.console
    assert "cannot start slot b" in outcome.console
    assert "grub>" not in outcome.console


def test_an_artifact_whose_kernel_is_damaged_comes_back(
    bench: Bench, boot: Boot, tmp_path: Path
) -> None:
    linux, initramfs = tmp_path / "linux", tmp_path / "initramfs"
    linux.write_bytes(b"not a kernel" * 1000)
    initramfs.write_bytes(b"files")
    ingredients = Ingredients(bench.board, linux, initramfs, "ro", b"", "6.12", 0)
    Grub().build_artifact(ingredients, tmp_path / "bad", bench.signer, bench.tools)
    outcome = boot(RECORDS["factory"], {"a": (tmp_path / "bad").read_bytes(), "b": STARTS})
    assert "invalid magic number" in outcome.console
    assert "cannot start slot a" in outcome.console
    # The order does not name b, so nobody promised that it starts.
    assert outcome.started == []


@pytest.mark.parametrize("good", [True, False])
def test_where_tries_cannot_be_counted_a_good_slot_is_preferred(boot: Boot, good: bool) -> None:
    record = _trial(3) if good else Record(("b", "a"), a=Count(1), b=Count(3))
    outcome = boot(_copies(_sector(record)), read_only=True)
    assert outcome.started == ["a" if good else "b"]
    assert "cannot count tries" in outcome.console


def test_a_record_that_is_no_file_any_more_is_still_read(boot: Boot) -> None:
    environment = RECORDS["cut-between-copies"]
    outcome = boot(environment[: 16 * 2048] + bytes(2048) + environment[17 * 2048 :])
    # b is on trial, which only copy 0 says; a is good.
    assert "slot b is on trial" in outcome.console
    assert outcome.started == ["a"]


def test_a_hang_before_the_kernel_ends_in_a_reset(boot: Boot) -> None:
    outcome = boot(RECORDS["trial-of-b"], {"a": STARTS, "b": HANGS})
    # `boot` returns only when the machine was reset, within SECONDS.
    assert "starting slot b" in outcome.console
    assert outcome.started == []


def test_a_machine_without_its_watchdog_boots_and_says_so(boot: Boot) -> None:
    outcome = boot(RECORDS["factory"], watchdog_device=False)
    assert outcome.started == ["a"]
    assert "watchdog NOT armed" in outcome.console


def test_grub_uses_the_disk_that_the_firmware_started(boot: Boot) -> None:
    assert boot(RECORDS["trial-of-b"], before=1).started == ["b"]


def _wished(record: Record, wish: Starts) -> bytes:
    image = bytearray(_copies(_sector(record)))
    image[OFFSET : OFFSET + SIZE] = to_bytes(wish)
    return bytes(image)


@pytest.mark.parametrize("wish", [Starts(rescue=True, reason="asked by x"), Starts(action="erase")])
def test_a_wish_in_the_start_record_starts_rescue_and_is_counted(boot: Boot, wish: Starts) -> None:
    before = _wished(_trial(2), wish)
    outcome = boot(before, rescue=True)
    assert outcome.started == ["rescue"]
    assert parse(outcome.environment[OFFSET : OFFSET + SIZE]) == replace(wish, asked=1)
    # No try of the trial was used for it.
    assert outcome.environment[:OFFSET] == before[:OFFSET]


def test_a_wish_that_was_counted_three_times_is_none(boot: Boot) -> None:
    wish = Starts(rescue=True, asked=3)
    outcome = boot(_wished(Record(("a",), a=GOOD), wish), rescue=True)
    assert (outcome.started, _starts(outcome)) == (["a"], replace(wish, loads=1))


def test_a_wish_for_a_rescue_system_that_is_destroyed_starts_a_slot(boot: Boot) -> None:
    outcome = boot(_wished(Record(("a",), a=GOOD), Starts(rescue=True, asked=2)))
    assert outcome.started == ["a"]
    assert parse(outcome.environment[OFFSET : OFFSET + SIZE]).asked == 3


def test_a_wish_that_cannot_be_counted_is_none(boot: Boot) -> None:
    before = _wished(Record(("a",), a=GOOD), Starts(rescue=True))
    assert boot(before, rescue=True, read_only=True).started == ["a"]


@pytest.mark.parametrize("name", ["none-left", "no-slot", "lost"])
def test_rescue_starts_when_no_slot_is_live(boot: Boot, name: str) -> None:
    assert boot(RECORDS[name], rescue=True).started == ["rescue"]


def test_after_the_good_slots_comes_rescue_and_not_one_that_was_given_up(boot: Boot) -> None:
    """A cut between the two writes of a fallback leaves the slot in the order."""
    assert boot(RECORDS["exhausted"], {"b": STARTS}, rescue=True).started == ["rescue"]
    both = _copies(_sector(Record(("a", "b"), a=GOOD, b=GOOD)))
    assert boot(both, {"b": STARTS}, rescue=True).started == ["b"]
    assert boot(both, {}, rescue=True).started == ["rescue"]


def test_where_tries_cannot_be_counted_rescue_comes_after_the_good_slots(boot: Boot) -> None:
    trial = _copies(_sector(_trial(3)))
    assert boot(trial, rescue=True, read_only=True).started == ["a"]
    assert boot(trial, {"b": STARTS}, rescue=True, read_only=True).started == ["rescue"]


ONE = Record(("a",), a=GOOD)


def _starts(outcome: Outcome) -> Starts:
    return parse(outcome.environment[OFFSET : OFFSET + SIZE])


def test_loads_of_a_good_slot_are_counted_and_the_sixth_is_rescues(boot: Boot) -> None:
    environment = _wished(ONE, Starts(image="ab" * 16, starts=2))
    for loads in range(1, MOST_LOADS + 1):
        outcome = boot(environment, rescue=True)
        assert outcome.started == ["a"]
        assert _starts(outcome) == Starts(image="ab" * 16, starts=2, loads=loads)
        assert outcome.environment[:OFFSET] == environment[:OFFSET]
        environment = outcome.environment
    outcome = boot(environment, rescue=True)
    assert (outcome.started, outcome.environment) == (["rescue"], environment)
    assert boot(environment).started == ["a"]  # Rescue is destroyed, too.


def test_a_trial_takes_a_try_and_counts_no_load(boot: Boot) -> None:
    outcome = boot(_wished(_trial(2), Starts(loads=5)), rescue=True)
    assert (outcome.started, _starts(outcome)) == (["b"], Starts(loads=5))


@pytest.mark.parametrize("loads", [b"x", b"10", b""])
def test_loads_in_a_record_that_is_not_valid_are_not_counted(boot: Boot, loads: bytes) -> None:
    line = b"orbital_loads=" + loads + b"\n" if loads else b""
    before = bytearray(_wished(ONE, Starts()))
    before[OFFSET : OFFSET + SIZE] = _changed(to_bytes(Starts()), b"orbital_loads=0\n", line)
    outcome = boot(bytes(before), rescue=True)
    assert (outcome.started, outcome.environment) == (["a"], bytes(before))


def test_a_disk_that_cannot_count_loads_starts_the_slot(boot: Boot) -> None:
    before = _wished(ONE, Starts(loads=4))
    assert boot(before, rescue=True, read_only=True).started == ["a"]
