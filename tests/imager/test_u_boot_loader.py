"""U-Boot's script run by Debian's U-Boot, on the factory's disk with every state of the record.

Each boot costs about 3 s: the slots hold a FIT whose script says so in the place of a
kernel. What starts and what is written must be what `tests.recovery.loaders.uboot` says.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from imager.firmware.kind import Factory
from imager.firmware.u_boot import UBootFirmware, fit_source
from imager.layout import DiskLayout, plan_layout, sfdisk_script
from imager.signing import PeSigner, load_pe_signer
from imager.tools import Tools
from manifests.board import Board, Layout
from manifests.catalogue import find, load_board
from qemu import emulator
from qemu.hardware import of_board
from recovery.bootcontrol import ubootenv
from recovery.bootcontrol.recorded import GOOD, Count, Record
from recovery.device import DeviceConfig
from recovery.process import run
from recovery.slots import SLOTS, Slot
from recovery.starts import MOST_LOADS, OFFSET, SIZE, Starts, parse, to_bytes
from recovery.value import replace
from tests.recovery import loaders

pytestmark = pytest.mark.boot

BOARDS = ("qemu-aarch64-uboot", "qemu-riscv64", "qemu-armhf")
SECONDS = 180
RECORD = 2 * ubootenv.SIZE
# Half of the watchdog's time in a test, and in the board files: milliseconds, hexadecimal.
SHORT, USUAL = "1400", "7800"


class Outcome(NamedTuple):
    """started: slots whose FIT ran. tried: slots that the script tried, in order."""

    started: list[str]
    tried: list[str]
    environment: bytes
    console: str
    wish: Starts


class Bench(NamedTuple):
    """A disk with the loader and nothing else, and what boots it."""

    board: Board
    layout: DiskLayout
    disk: Path
    tools: Tools


Boot = Callable[..., Outcome]


def small(board: Board) -> Board:
    """The board with a disk that is quick to copy, and a watchdog that is quick to watch."""
    assert board.u_boot is not None
    parts = tuple(
        msgspec.structs.replace(part, size=min(part.size, 16 << 20))
        for part in board.layout.partitions
    )
    commands = tuple(line.replace(USUAL, SHORT) for line in board.u_boot.watchdog_commands)
    return msgspec.structs.replace(
        board,
        layout=Layout(parts),
        u_boot=msgspec.structs.replace(board.u_boot, watchdog_commands=commands),
    )


def loader_disk(board: Board, disk: Path, signer: PeSigner, tools: Tools) -> DiskLayout:
    layout = plan_layout(board)
    with disk.open("wb") as out:
        out.truncate(layout.size)
    tools.run("sfdisk", "--quiet", disk, stdin=sfdisk_script(layout))
    build = disk.with_name(f"{disk.name}.build")
    (build / "loader").mkdir(parents=True)
    (build / "boot.img").write_bytes(b"no FIT")
    UBootFirmware().build_loader(board, build / "loader", signer, tools)
    config = DeviceConfig(
        system="s", version="1", board=board.board, architecture=board.architecture, built=0,
        boot_control="u-boot", boot_partition="firmware", state="state", slots={},
    )  # fmt: skip
    factory = Factory(build, board, layout, config, build)
    with disk.open("r+b") as out:
        for label, image in UBootFirmware().boot_partitions(factory, tools).items():
            out.seek(layout.extent(label).start)
            out.write(image.read_bytes())
    return layout


@pytest.fixture(scope="module")
def benches(
    tools: Tools, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bench]:
    made: dict[str, Bench] = {}
    signer = load_pe_signer(keys, tools, time=0)

    def bench(name: str) -> Bench:
        if name not in made:
            board = small(load_board(find("board", name)))
            disk = tmp_path_factory.mktemp(name) / "disk"
            made[name] = Bench(board, loader_disk(board, disk, signer, tools), disk, tools)
        return made[name]

    return bench


@pytest.fixture
def boot(benches: Callable[[str], Bench], tmp_path: Path) -> Boot:
    """Boots the disk once, with that record and these commands in the FIT of each slot."""

    def once(
        name: str,
        environment: bytes | None = None,
        slots: Mapping[Slot, str | bytes] | None = None,
        *,
        read_only: bool = False,
        rescue: bool = False,
        wish: Starts | None = None,
    ) -> Outcome:
        bench = benches(name)
        disk = tmp_path / "disk"
        disk.write_bytes(bench.disk.read_bytes())
        at = bench.layout.extent("environment").start
        both: Mapping[Slot, str | bytes] = dict.fromkeys(SLOTS, "")
        with disk.open("r+b") as out:
            if environment is not None:
                out.seek(at)
                out.write(environment)
            for slot, content in (both if slots is None else slots).items():
                fit = content if isinstance(content, bytes) else fit_of(bench, slot, content)
                out.seek(bench.layout.extent(f"boot-{slot}").start)
                out.write(fit)
            if rescue:
                out.seek(bench.layout.extent("rescue").start)
                out.write(fit_of(bench, "rescue", ""))
            if wish:
                out.seek(at + OFFSET)
                out.write(to_bytes(wish))
        console = _qemu(bench, disk, read_only=read_only)
        lines = [line.strip() for line in console.splitlines()]
        with disk.open("rb") as found:
            found.seek(at)
            after = found.read(RECORD)
            found.seek(at + OFFSET)
            starts = parse(found.read(SIZE))
        return Outcome(
            [line.split()[-1] for line in lines if "FIT of slot " in line],
            [
                line.split()[-1]
                for line in lines
                if line.startswith("orbital: firmware: starting slot ")
            ],
            after,
            console,
            starts,
        )

    return once


def fit_of(bench: Bench, slot: str, commands: str) -> bytes:
    """A FIT that says whose it is, runs the commands, and resets."""
    work = bench.disk.with_name("fit")
    work.mkdir(exist_ok=True)
    (work / "kernel").write_bytes(b"no kernel")
    (work / "ramdisk").write_bytes(b"no ramdisk")
    (work / "arguments").write_text(f"echo FIT of slot {slot}\n{commands}\nreset\n")
    (work / "fit.its").write_text(fit_source(bench.board))
    bench.tools.run("mkimage", "-q", "-f", "fit.its", "fit", cwd=work)
    return (work / "fit").read_bytes()


def _qemu(bench: Bench, disk: Path, *, read_only: bool) -> str:
    """The console until the first reset."""
    hardware = of_board(bench.board, bench.tools.file("."))
    access = "on" if read_only else "off"
    return run(
        [
            *emulator.command(hardware.binary),
            *("-machine", hardware.machine, "-cpu", hardware.cpu),
            *("-m", str(hardware.memory), "-nodefaults", "-display", "none", "-nic", "none"),
            *(f"-{hardware.firmware_option}", str(hardware.firmware_code)),
            *("-blockdev", f"driver=file,node-name=disk,read-only={access},filename={disk}"),
            *("-device", f"{hardware.disk},drive=disk"),
            *(["-device", hardware.watchdog] if hardware.watchdog else []),
            *("-serial", "stdio", "-action", "reboot=shutdown,watchdog=reset"),
        ],
        timeout=SECONDS,
    ).stdout


def copy(flag: int, *variables: str, valid: bool = True) -> bytes:
    """One copy of the record."""
    data = b"".join(item.encode("latin-1") + b"\0" for item in variables).ljust(65531, b"\0")
    checksum = zlib.crc32(data) if valid else zlib.crc32(data) ^ 1
    return checksum.to_bytes(4, "little") + bytes([flag]) + data


NOTHING = bytes(ubootenv.SIZE)
GOOD_A = ("BOOT_A_GOOD=1", "BOOT_A_LEFT=3")
STRANGERS = ("bootcmd=false", "stdout=nulldev", "x.y=$z ${w} ; reset \"q\" 'r'", "verify=no")
STATES = {
    "the factory's": copy(1, "BOOT_ORDER=A", *GOOD_A) + NOTHING,
    "trial": copy(7, "BOOT_ORDER=B A", *GOOD_A, "BOOT_B_LEFT=2") + copy(6, "BOOT_ORDER=A"),
    "variables of others": copy(1, "BOOT_ORDER=B A", *GOOD_A, "BOOT_B_LEFT=7", *STRANGERS)
    + NOTHING,
    "trial exhausted": copy(1, "BOOT_ORDER=B A", *GOOD_A, "BOOT_B_LEFT=0") + NOTHING,
    "all exhausted": copy(1, "BOOT_ORDER=B A", "BOOT_A_LEFT=0", "BOOT_B_LEFT=0") + NOTHING,
    "no slot in the order": copy(1, "BOOT_ORDER=", "BOOT_A_LEFT=2", "BOOT_B_LEFT=2") + NOTHING,
    "copy 0 torn": copy(9, "BOOT_ORDER=A", valid=False)
    + copy(8, "BOOT_ORDER=B A", "BOOT_B_LEFT=3"),
    "copy 1 torn": copy(8, "BOOT_ORDER=B A", "BOOT_B_LEFT=1")
    + copy(9, "BOOT_ORDER=A", valid=False),
    "copy 1 newer": copy(3, "BOOT_ORDER=A") + copy(4, "BOOT_ORDER=B", "BOOT_B_LEFT=1"),
    "flag wraps to copy 1": copy(255, "BOOT_ORDER=B A", "BOOT_B_LEFT=1")
    + copy(0, "BOOT_ORDER=A B", "BOOT_A_LEFT=7"),
    "flag wraps to copy 0": copy(0, "BOOT_ORDER=B A", "BOOT_B_LEFT=1")
    + copy(255, "BOOT_ORDER=A B", "BOOT_A_LEFT=7"),
    "next flag wraps": copy(254, "BOOT_ORDER=B", "BOOT_B_LEFT=1")
    + copy(255, "BOOT_ORDER=B", "BOOT_B_LEFT=2"),
    "equal flags": copy(3, "BOOT_ORDER=A", "BOOT_A_LEFT=1")
    + copy(3, "BOOT_ORDER=B", "BOOT_B_LEFT=1"),
    "lost": NOTHING + NOTHING,
    "written by RAUC": copy(1, "BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3") + NOTHING,
    "without our variables": copy(1) + NOTHING,
    "values without meaning": copy(1, "BOOT_ORDER=C B X A", "BOOT_A_LEFT=9", "BOOT_B_LEFT=0x2")
    + NOTHING,
}
# On every board; the others on one.
EVERYWHERE = ("variables of others", "all exhausted", "copy 0 torn", "next flag wraps")


@pytest.mark.parametrize(
    ("name", "state"),
    [(BOARDS[0], state) for state in STATES]
    + [(name, state) for name in BOARDS[1:] for state in EVERYWHERE],
)
def test_what_starts_and_what_is_written_are_the_models(name: str, state: str, boot: Boot) -> None:
    expected = loaders.uboot(STATES[state], rescue=True)
    outcome = boot(name, STATES[state])
    after = bytearray(STATES[state])
    for offset, data in expected.writes:
        after[offset : offset + len(data)] = data
    assert outcome.started == [expected.first], outcome.console
    assert outcome.environment == bytes(after)


def test_the_factorys_record_starts_slot_a(boot: Boot) -> None:
    """With nothing written: a device that is not on trial writes no boot record."""
    outcome = boot(BOARDS[0])
    assert outcome.started == ["a"]
    for start in (0, ubootenv.SIZE):
        found = ubootenv.decode(outcome.environment[start : start + ubootenv.SIZE])
        assert ubootenv.record_of(found) == Record(("a",), a=GOOD)


def _record(record: Record) -> bytes:
    variables = ubootenv.with_record((), record)
    return ubootenv.encode(ubootenv.Environment(1, variables)) + NOTHING


def test_a_trial_that_cannot_be_loaded_is_a_failed_try(boot: Boot) -> None:
    """Reset, with the try used; the slot that is good is not started behind its back."""
    trial = _record(Record(("b", "a"), a=GOOD, b=Count(left=2)))
    outcome = boot(BOARDS[0], trial, {"a": ""})
    assert (outcome.started, outcome.tried) == ([], ["b"])
    written = ubootenv.decode(outcome.environment[ubootenv.SIZE :])
    assert ubootenv.record_of(written).b == Count(left=1)


def test_a_good_slot_that_cannot_be_loaded_gives_way_to_the_other(boot: Boot) -> None:
    outcome = boot(BOARDS[0], _record(Record(("a", "b"), a=GOOD, b=GOOD)), {"b": ""})
    assert outcome.tried == ["a", "b"]
    assert outcome.started == ["b"]


def test_after_the_good_slots_comes_rescue_and_not_one_that_was_given_up(boot: Boot) -> None:
    """A cut between the two writes of a fallback leaves the slot in the order."""
    given_up = _record(Record(("b", "a"), a=GOOD, b=Count(left=0)))
    outcome = boot(BOARDS[0], given_up, {"b": ""}, rescue=True)
    assert (outcome.tried, outcome.started) == (["a", "rescue"], ["rescue"])
    # Rescue is destroyed, too.
    outcome = boot(BOARDS[0], given_up, {"b": ""})
    assert (outcome.tried, outcome.started) == (["a", "rescue", "b"], ["b"])


def test_no_slot_that_can_be_loaded_is_tried_in_vain_and_reset(boot: Boot) -> None:
    outcome = boot(BOARDS[0], _record(Record(("b", "a"))), {})
    assert (outcome.started, outcome.tried) == ([], ["rescue", "b", "a"])
    assert "resetting" in outcome.console


def test_a_changed_byte_of_the_artifact_is_found(
    boot: Boot, benches: Callable[[str], Bench]
) -> None:
    fit = fit_of(benches(BOARDS[0]), "b", "")
    changed = fit.replace(b"echo FIT of slot b", b"echo FIT of slot c")
    assert changed != fit
    outcome = boot(BOARDS[0], _record(Record(("b",), b=GOOD)), {"b": changed})
    assert outcome.started == []
    assert "Bad Data Hash" in outcome.console


def test_an_artifact_that_says_it_is_larger_than_its_partition_is_not_loaded(
    boot: Boot, benches: Callable[[str], Bench]
) -> None:
    fit = fit_of(benches(BOARDS[0]), "b", "")
    lying = fit[:4] + (0x7FFFFFFF).to_bytes(4, "big") + fit[8:]
    outcome = boot(BOARDS[0], _record(Record(("b",), b=GOOD)), {"b": lying})
    assert (outcome.started, set(outcome.tried)) == ([], {"b", "rescue"})
    assert outcome.console.count("block # ") <= 2 + 2 * len(outcome.tried)


def test_a_trial_that_cannot_be_counted_is_not_started(boot: Boot) -> None:
    """A disk that refuses writes: what is good starts, since it needs no count."""
    trial = _record(Record(("b", "a"), a=GOOD, b=Count(left=2)))
    assert boot(BOARDS[0], trial, read_only=True).started == ["a"]


def test_a_hang_before_the_kernel_is_ended_by_the_watchdog(boot: Boot) -> None:
    """Without the watchdog this boot does not end, and the test fails after its deadline."""
    hangs = {"a": "while true; do true; done"}
    assert boot(BOARDS[0], _record(Record(("a",), a=GOOD)), hangs).started == ["a"]


NONE_LIVE = _record(Record(("b", "a")))


@pytest.mark.parametrize("wish", [Starts(rescue=True, reason="asked by x"), Starts(action="erase")])
def test_a_wish_in_the_start_record_starts_rescue_and_is_counted(boot: Boot, wish: Starts) -> None:
    trial = _record(Record(("b", "a"), a=GOOD, b=Count(left=2)))
    outcome = boot(BOARDS[0], trial, rescue=True, wish=wish)
    assert outcome.started == ["rescue"], outcome.console
    assert outcome.wish == replace(wish, asked=1)
    # No try of the trial was used for it.
    assert outcome.environment == trial


def test_a_wish_that_was_counted_three_times_is_none(boot: Boot) -> None:
    wish = Starts(rescue=True, asked=3)
    outcome = boot(BOARDS[0], rescue=True, wish=wish)
    assert (outcome.started, outcome.wish) == (["a"], replace(wish, loads=1))


def test_a_wish_for_a_rescue_system_that_is_destroyed_starts_a_slot(boot: Boot) -> None:
    outcome = boot(BOARDS[0], wish=Starts(rescue=True, asked=2))
    assert (outcome.started, outcome.wish.asked) == (["a"], 3)


def test_a_wish_that_cannot_be_counted_is_none(boot: Boot) -> None:
    wish = Starts(rescue=True)
    assert boot(BOARDS[0], read_only=True, rescue=True, wish=wish).started == ["a"]


def test_rescue_starts_when_no_slot_is_live(boot: Boot) -> None:
    assert boot(BOARDS[0], NONE_LIVE, rescue=True).started == ["rescue"]
    lost = NOTHING + NOTHING
    outcome = boot(BOARDS[0], lost, rescue=True)
    assert (outcome.started, outcome.environment) == (["rescue"], lost)


def test_rescue_starts_when_the_good_slot_cannot_be_loaded_nor_the_other(boot: Boot) -> None:
    outcome = boot(BOARDS[0], _record(Record(("a",), a=GOOD)), {}, rescue=True)
    assert (outcome.started, outcome.tried) == (["rescue"], ["a", "rescue"])


ONE = _record(Record(("a",), a=GOOD))


def test_loads_of_a_good_slot_are_counted_and_the_sixth_is_rescues(boot: Boot) -> None:
    starts = Starts(image="ab" * 16, starts=2)
    for loads in range(1, MOST_LOADS + 1):
        outcome = boot(BOARDS[0], ONE, rescue=True, wish=starts)
        assert (outcome.started, outcome.environment) == (["a"], ONE)
        assert outcome.wish == replace(starts, loads=loads)
        starts = outcome.wish
    outcome = boot(BOARDS[0], ONE, rescue=True, wish=starts)
    assert (outcome.started, outcome.wish) == (["rescue"], starts)
    # Rescue is destroyed, too.
    assert boot(BOARDS[0], ONE, wish=starts).tried == ["rescue", "a"]


@pytest.mark.parametrize("name", BOARDS[1:])
def test_loads_are_counted_on_every_board(boot: Boot, name: str) -> None:
    starts = Starts(rescued=2, loads=MOST_LOADS - 1)
    counted = boot(name, ONE, rescue=True, wish=starts).wish
    assert counted == replace(starts, loads=MOST_LOADS)
    assert boot(name, ONE, rescue=True, wish=counted).started == ["rescue"]


def test_a_trial_takes_a_try_and_counts_no_load(boot: Boot) -> None:
    trial = _record(Record(("b", "a"), a=GOOD, b=Count(left=2)))
    outcome = boot(BOARDS[0], trial, rescue=True, wish=Starts(loads=5))
    assert (outcome.started, outcome.wish) == (["b"], Starts(loads=5))


def test_a_disk_that_cannot_count_loads_starts_the_slot(boot: Boot) -> None:
    outcome = boot(BOARDS[0], ONE, read_only=True, rescue=True, wish=Starts(loads=3))
    assert (outcome.started, outcome.wish.loads) == (["a"], 3)
