"""Records in partitions and files: torn, corrupt, old, foreign and random bytes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery import durable
from recovery.bootcontrol import grubenv, ubootenv
from recovery.bootcontrol.recorded import GOOD, Count, Record, Recorded
from recovery.errors import BootControlError
from recovery.slots import SLOTS, Slot, SlotState
from tests.recovery.builders import EXHAUSTED, NO_ENTRY, SUCCESSFUL, counting
from tests.recovery.loaders import (
    FACTORY,
    MEMORY,
    SECOND_COPY,
    GrubBench,
    UbootBench,
    grub,
    grub_can_write,
    uboot,
)
from tests.recovery.redundant import (
    NO_RECORD,
    REDUNDANT,
    RedundantBench,
    both_copies,
    observed,
    put,
)


@pytest.fixture(params=REDUNDANT)
def redundant(request: pytest.FixtureRequest, memory: Path) -> RedundantBench:
    """A factory device whose record has two copies."""
    return REDUNDANT[request.param](memory)


# Damage.


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("damage", [b"\0" * 512, b"\xff" * 512, b"# GRUB Environment Bl\n"])
def test_either_copy_may_be_corrupt(redundant: RedundantBench, copy: int, damage: bytes) -> None:
    both_copies(redundant)
    before = observed(redundant.control)
    put(redundant.path, copy * SECOND_COPY, damage)
    assert observed(redundant.control) == before
    redundant.control.tidy()
    put(redundant.path, (1 - copy) * SECOND_COPY, damage)
    assert observed(redundant.control) == before, "tidy had made the copy again"
    assert redundant.boot() == "b"
    assert redundant.control.slot_state("b") == counting(1)


def test_without_a_valid_copy_both_slots_may_start_and_none_is_known_to_be_good(
    redundant: RedundantBench,
) -> None:
    both_copies(redundant)
    put(redundant.path, 0, bytes(2 * SECOND_COPY))
    assert observed(redundant.control) == NO_RECORD
    # Either loader starts something without a record.
    assert redundant.boot() == "a"


@pytest.mark.parametrize("running", SLOTS)
def test_a_lost_record_is_made_again_from_the_slot_that_runs(
    redundant: RedundantBench, running: Slot
) -> None:
    put(redundant.path, 0, bytes(2 * SECOND_COPY))
    redundant.current = running
    redundant.control.tidy()
    assert observed(redundant.control) == (running, counting(3), counting(3))
    # A slot that cannot start is left again.
    starts = [redundant.boot() for _ in range(6)]
    assert starts == [running] * 3 + ["b" if running == "a" else "a"] * 3


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (lambda c: c.mark_successful("a"), ("a", SUCCESSFUL, counting(3))),
        (lambda c: c.mark_unbootable("a"), ("b", NO_ENTRY, counting(3))),
        (lambda c: c.mark_unbootable("b"), ("a", counting(3), NO_ENTRY)),
        (lambda c: c.set_active("b", 1), ("b", counting(3), counting(1))),
    ],
)
def test_a_change_of_a_lost_record_makes_it_again(
    redundant: RedundantBench,
    change: Callable[[Recorded], None],
    after: tuple[Slot, SlotState, SlotState],
) -> None:
    put(redundant.path, 0, bytes(2 * SECOND_COPY))
    change(redundant.control)
    assert observed(redundant.control) == after


def test_a_partition_that_cannot_be_read_is_an_error(redundant: RedundantBench) -> None:
    redundant.path.unlink()
    with pytest.raises(BootControlError, match="cannot read the boot control's record"):
        redundant.control.active_slot()
    with pytest.raises(BootControlError, match="cannot read the boot control's record"):
        redundant.control.set_active("b", 1)


def test_a_partition_that_is_too_small_is_an_error_and_nothing_grows(memory: Path) -> None:
    bench = GrubBench(memory)
    with bench.path.open("r+b") as out:
        out.truncate(SECOND_COPY)
    with pytest.raises(BootControlError, match="cannot write copy 1"):
        bench.control.set_active("b", 1)
    assert bench.path.stat().st_size == SECOND_COPY


# Torn writes.


def writes_of(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> list[tuple[int, bytes]]:
    """What a change writes, without writing it."""
    found: list[tuple[int, bytes]] = []
    with monkeypatch.context() as patch:
        patch.setattr(durable, "overwrite", lambda _, at, data: found.append((at, data)))
        change()
    return found


@pytest.mark.parametrize("garbage", [False, True])
def test_uboot_torn_at_any_byte_keeps_the_record_before(
    garbage: bool, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = UbootBench(memory)
    both_copies(bench)
    before = observed(bench.control)
    writes = writes_of(monkeypatch, lambda: bench.control.mark_successful("b"))
    assert len(writes) == 1
    offset, new = writes[0]
    old = bytes(range(256)) * 256 if garbage else bench.path.read_bytes()[offset:][: len(new)]
    put(bench.path, offset, old)
    torn = 0
    for done in range(1, len(new)):
        if new[done:] == old[done:]:
            break  # The rest is as it was: the write is whole.
        if new[done - 1] == old[done - 1]:
            continue  # The same bytes as one byte before.
        with pytest.raises(ValueError, match="checksum"):
            ubootenv.decode(new[:done] + old[done:])
        torn += 1
        if done < 300 or done % 1009 == 0:
            put(bench.path, offset, new[:done])
            assert observed(bench.control) == before, f"torn after {done} bytes"
            assert uboot(bench.path.read_bytes()).slots == ("b",)
    assert torn > (60000 if garbage else 5)
    put(bench.path, offset, new)
    assert observed(bench.control) == ("b", SUCCESSFUL, SUCCESSFUL)


def test_uboot_torn_in_any_sectors_keeps_the_record_before(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = UbootBench(memory)
    grown = ubootenv.with_record((b"vendor=" + b"x" * 1500,), Record(("a",), a=GOOD))
    put(bench.path, 0, ubootenv.encode(ubootenv.Environment(7, grown)))
    old = ubootenv.encode(ubootenv.Environment(6, (b"vendor=" + b"y" * 2000,)))
    put(bench.path, SECOND_COPY, old)
    before = observed(bench.control)
    assert before == ("a", SUCCESSFUL, NO_ENTRY)
    [(offset, new)] = writes_of(monkeypatch, lambda: bench.control.set_active("b", 3))
    assert offset == SECOND_COPY
    sectors = [at for at in range(0, len(new), 512) if new[at : at + 512] != old[at : at + 512]]
    assert len(sectors) >= 4
    for count in range(len(sectors)):
        for written in itertools.combinations(sectors, count):
            put(bench.path, offset, old)
            for at in written:
                put(bench.path, offset + at, new[at : at + 512])
            assert observed(bench.control) == before, written


def test_grub_writes_whole_sectors_and_copy_0_first(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = GrubBench(memory)
    writes = writes_of(monkeypatch, lambda: bench.control.set_active("b", 2))
    assert [(at, len(data)) for at, data in writes] == [(0, 512), (SECOND_COPY, 512)]
    # A disk that tears a sector all the same: never another record than before or after.
    before = observed(bench.control)
    after = ("b", SUCCESSFUL, counting(2))
    (_, new), old = writes[0], bench.path.read_bytes()[:512]
    for done in range(512):
        put(bench.path, 0, new[:done] + b"\0" * (512 - done))
        assert observed(bench.control) == before
        put(bench.path, 0, old)
    put(bench.path, 0, new)
    assert observed(bench.control) == after, "copy 0 counts as soon as it is written"
    put(bench.path, 0, bytes(512))
    assert observed(bench.control) == before, "copy 1 has the record before"


def test_both_copies_are_equal_again_after_a_cut_between_them(memory: Path) -> None:
    bench = GrubBench(memory)
    put(bench.path, 0, grubenv.encode(grubenv.Block(Record(("b", "a"), GOOD, Count(2)))))
    bench.control.tidy()
    data = bench.path.read_bytes()
    assert data[:512] == data[SECOND_COPY : SECOND_COPY + 512]
    assert bench.control.slot_state("b") == counting(2)


# Others' and older records.


def test_grub_variables_of_others_stay_byte_by_byte(memory: Path) -> None:
    bench = GrubBench(memory)
    others = (b"saved_entry=a\\\\b\\\nc\n", b"# a comment\n", b"orbital_later=9\n", b"x==#\n")
    for offset in (0, SECOND_COPY):
        put(bench.path, offset, grubenv.encode(grubenv.Block(FACTORY, others)))
    bench.control.set_active("b", 2)
    assert bench.boot() == "b"
    bench.control.mark_successful("b")
    for offset in (0, SECOND_COPY):
        block = grubenv.decode(bench.path.read_bytes()[offset : offset + 512])
        assert block.others == others
        assert block.record == Record(("b", "a"), GOOD, GOOD)


def test_uboot_variables_of_others_stay(memory: Path) -> None:
    bench = UbootBench(memory)
    others = (b"ethaddr=02:00:00:00:00:01", b"BOOT_ORDER_OLD=A", b"odd", b"x=a=b")
    variables = ubootenv.with_record(others, FACTORY)
    put(bench.path, 0, ubootenv.encode(ubootenv.Environment(5, variables)))
    bench.control.set_active("b", 2)
    bench.control.mark_successful("b")
    bench.control.mark_unbootable("a")
    second = ubootenv.decode(bench.path.read_bytes()[SECOND_COPY : 2 * SECOND_COPY])
    assert second.flag == 8
    assert second.variables[: len(others)] == others


def test_variables_of_others_that_leave_no_room_are_an_error(redundant: RedundantBench) -> None:
    if isinstance(redundant, GrubBench):
        room = 512 - len(grubenv.encode(grubenv.Block(FACTORY)).rstrip(b"#"))
        big = b"v=" + b"x" * (room - 3) + b"\n"
        data = grubenv.encode(grubenv.Block(Record(("a",), GOOD), (big,)))
    else:
        kept = ubootenv.with_record((b"v=" + b"x" * 65400,), FACTORY)
        body = sum(len(item) + 1 for item in kept)
        kept = (*kept, b"w=" + b"x" * (65536 - 5 - 2 - body - 3))
        data = ubootenv.encode(ubootenv.Environment(1, kept))
    for offset in (0, SECOND_COPY):
        put(redundant.path, offset, data)
    before = observed(redundant.control)
    assert before == ("a", SUCCESSFUL, NO_ENTRY)
    with pytest.raises(BootControlError, match="no room beside the other variables"):
        redundant.control.set_active("b", 2)
    assert observed(redundant.control) == before


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        # As RAUC marks a slot good: no GOOD, 3 tries.
        ((b"BOOT_ORDER=A B", b"BOOT_A_LEFT=3", b"BOOT_B_LEFT=0"), ("a", counting(3), EXHAUSTED)),
        ((b"BOOT_ORDER=B A", b"BOOT_A_LEFT=3", b"BOOT_B_LEFT=1"), ("b", counting(3), counting(1))),
        ((b"BOOT_ORDER=B R", b"BOOT_B_LEFT=2"), ("b", NO_ENTRY, counting(2))),
        # Nothing yet: as RAUC's script begins.
        ((), ("a", counting(3), counting(3))),
        ((b"BOOT_ORDER=A A B A",), ("a", counting(3), counting(3))),
        # By hand, and wrong: no tries, no slot.
        ((b"BOOT_ORDER=C", b"BOOT_A_LEFT=2"), (None, NO_ENTRY, NO_ENTRY)),
        ((b"BOOT_ORDER=A", b"BOOT_A_LEFT=many"), (None, EXHAUSTED, NO_ENTRY)),
        ((b"BOOT_ORDER=A", b"BOOT_A_LEFT=12"), (None, EXHAUSTED, NO_ENTRY)),
    ],
)
def test_a_uboot_environment_of_an_older_version_is_understood(
    variables: tuple[bytes, ...],
    expected: tuple[Slot | None, SlotState, SlotState],
    memory: Path,
) -> None:
    bench = UbootBench(memory)
    put(bench.path, 0, ubootenv.encode(ubootenv.Environment(9, variables)))
    assert observed(bench.control) == expected
    assert bench.boot() == (expected[0] or "a")


def grub_block(*lines: str) -> bytes:
    return grubenv.SIGNATURE + "".join(f"{line}\n" for line in lines).encode()


FULL = (
    "orbital_env=1",
    "orbital_order=a b",
    "orbital_a_left=3",
    "orbital_b_left=2",
    "orbital_a_good=1",
    "orbital_b_good=0",
)


@pytest.mark.parametrize("absent", range(1, len(FULL)))
def test_a_grub_environment_without_some_of_ours_is_made_again(absent: int, memory: Path) -> None:
    bench = GrubBench(memory)
    lines = [line for line in FULL if line != FULL[absent]]
    old = grub_block(*lines, "vendor=1", "orbital_end=1").ljust(512, b"#")
    for offset in (0, SECOND_COPY):
        put(bench.path, offset, old)
    assert observed(bench.control) == NO_RECORD
    assert bench.boot() == "a"
    bench.control.tidy()
    assert observed(bench.control) == ("a", counting(3), counting(3))


@pytest.mark.parametrize(
    "lines",
    [
        (*FULL,),
        (*FULL[1:], "orbital_end=1"),
        (FULL[0], *FULL[2:], "orbital_end=1"),
        (*FULL[:3], "orbital_b_left=8", *FULL[4:], "orbital_end=1"),
        (*FULL[:3], "orbital_b_left=", *FULL[4:], "orbital_end=1"),
        (*FULL[:5], "orbital_b_good=yes", "orbital_end=1"),
        (*FULL, "orbital_order=b a", "orbital_end=1"),
        (*FULL, "no variable", "orbital_end=1"),
        ("orbital_env=2", *FULL[1:], "orbital_end=1"),
        ("orbital_env=1", "orbital_order=b  a", *FULL[2:], "orbital_end=1"),
    ],
)
def test_a_grub_copy_that_is_not_as_allowed_does_not_count(lines: tuple[str, ...]) -> None:
    grubenv.decode(grub_block(*FULL, "orbital_end=1").ljust(512, b"#"))
    with pytest.raises(ValueError, match=r"allowed|absent|sets no variable"):
        grubenv.decode(grub_block(*lines).ljust(512, b"#"))


def test_an_unpadded_or_torn_grub_copy_does_not_count() -> None:
    whole = grub_block(*FULL, "orbital_end=1")
    for data in (whole, whole.ljust(512, b"\0"), whole[:-1].ljust(512, b"#"), b""):
        with pytest.raises(ValueError, match=r"not a|torn"):
            grubenv.decode(data)


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [(1, 2, 1), (2, 1, 0), (255, 0, 1), (0, 255, 0), (7, 7, 0), (254, 255, 1), (127, 128, 1)],
)
def test_of_two_valid_uboot_copies_the_newer_flag_counts(
    first: int, second: int, counts: int, memory: Path
) -> None:
    bench = UbootBench(memory)
    for copy, flag in enumerate((first, second)):
        variables = ubootenv.with_record((), Record(("a", "b"), Count(copy + 1), Count(1)))
        put(bench.path, copy * SECOND_COPY, ubootenv.encode(ubootenv.Environment(flag, variables)))
    assert bench.control.slot_state("a") == counting(counts + 1)
    assert bench.boot() == "a"
    assert bench.control.slot_state("a") == (counting(counts) if counts else EXHAUSTED)
    flags = [bench.path.read_bytes()[at + 4] for at in (0, SECOND_COPY)]
    assert flags[1 - counts] == (flags[counts] + 1) % 256


def test_the_flag_wraps(memory: Path) -> None:
    bench = UbootBench(memory)
    for tries in range(600):
        bench.control.set_active("b", tries % 7 + 1)
        assert bench.control.slot_state("b") == counting(tries % 7 + 1)
        bench.control.tidy()


# Noise.


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=700), st.integers(0, 3))
def test_noise_never_raises_and_never_changes_what_is_valid(noise: bytes, start: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        for kind, make in REDUNDANT.items():
            place = Path(name) / kind
            place.mkdir()
            bench = make(place)
            both_copies(bench)
            before = observed(bench.control)
            # Over one copy, wherever it begins.
            at = [0, SECOND_COPY, 100, SECOND_COPY + 4][start]
            put(bench.path, at, noise)
            assert observed(bench.control) in (before, NO_RECORD)
            assert observed(bench.control) == before
            bench.control.tidy()
            assert observed(bench.control) == before
            assert bench.boot() == "b"
            # Over everything, GRUB's file system included: Linux can begin again.
            bench.path.write_bytes((noise * 9).ljust(SECOND_COPY * 2, noise[:1] or b"\0"))
            assert observed(bench.control) == NO_RECORD
            bench.control.tidy()
            assert bench.control.active_slot() == "b"
            assert bench.boot() == "b"


# The loaders' models: they can fail, and they say what is written.


def test_grub_counts_in_both_copies_and_keeps_one_that_it_cannot_write(memory: Path) -> None:
    bench = GrubBench(memory)
    bench.control.set_active("b", 2)
    start = grub(bench.path.read_bytes())
    assert [offset for offset, _ in start.writes] == [0, SECOND_COPY]
    put(bench.path, 0, bytes(512))
    start = grub(bench.path.read_bytes())
    assert [offset for offset, _ in start.writes] == [SECOND_COPY]
    assert start.slots == ("b",)


def test_grub_that_cannot_count_starts_what_is_good_until_linux_has_repaired_it(
    memory: Path,
) -> None:
    bench = GrubBench(memory)
    bench.control.set_active("b", 2)
    put(bench.path, 32768 + 4 * 1024, bytes(512))
    assert not grub_can_write(bench.path.read_bytes())
    assert bench.boot() == "a"
    assert bench.control.slot_state("b") == counting(2)
    bench.control.tidy()
    assert bench.path.read_bytes()[: 5 * 2048] != bytes(5 * 2048)
    assert bench.boot() == "b"
    assert bench.control.slot_state("b") == counting(1)


def test_a_wiped_grub_partition_is_made_again_as_the_factory_made_it(memory: Path) -> None:
    bench = GrubBench(memory)
    before = bench.path.read_bytes()
    bench.path.write_bytes(bytes(len(before)))
    bench.control.tidy()
    bench.control.mark_successful("a")
    bench.control.mark_unbootable("b")
    assert bench.path.read_bytes() == before


def test_a_successful_slot_is_started_without_any_write(redundant: RedundantBench) -> None:
    before = redundant.path.read_bytes()
    assert redundant.boot() == "a"
    assert redundant.path.read_bytes() == before
