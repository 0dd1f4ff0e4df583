"""The start record: what counts, what does not, and what damage means."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery import starts
from recovery.starts import OFFSET, SIZE, StartFile, Starts, healthy, parse, to_bytes, wish
from recovery.value import replace
from tests.recovery.powercut import power_cut

FULL = Starts(
    rescue=True,
    action="reset",
    reason="asked by anna: it smells",
    asked=2,
    image="0123456789abcdef" * 2,
    starts=7,
    rescued=99,
    loads=3,
)


@pytest.fixture
def file(tmp_path: Path) -> StartFile:
    """The partition of a new device."""
    path = tmp_path / "environment"
    path.write_bytes(bytes(1 << 20))
    return StartFile(path)


@pytest.mark.parametrize("record", [Starts(), FULL], ids=["empty", "full"])
def test_a_record_comes_back_as_it_was_written(file: StartFile, record: Starts) -> None:
    file.save(record)
    assert file.load() == record
    data = file.path.read_bytes()
    assert len(to_bytes(record)) == SIZE
    assert data[:OFFSET] == bytes(OFFSET)
    assert data[OFFSET + SIZE :] == bytes((1 << 20) - OFFSET - SIZE)


def test_the_text_is_the_one_that_the_loaders_read() -> None:
    assert to_bytes(FULL).rstrip(b"#") == (
        b"# GRUB Environment Block\n"
        b"orbital_asked=2\n"
        b"orbital_loads=3\n"
        b"orbital_next=rescue\n"
        b"orbital_action=reset\n"
        b"orbital_reason=asked by anna: it smells\n"
        b"orbital_image=0123456789abcdef0123456789abcdef\n"
        b"orbital_starts=7\n"
        b"orbital_rescued=99\n"
        b"orbital_end=1\n"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"# GRUB", b"# GRIB"),
        (b"next=rescue", b"next=else"),
        (b"action=reset", b"action=format"),
        (b"reason=asked", b"reason=a\\ked"),
        (b"reason=asked", b"reason= sked"),
        (b"asked=2", b"asked=10"),
        (b"loads=3", b"loads=x"),
        (b"orbital_loads=3\n", b""),
        (b"starts=7", b"starts=07"),
        (b"starts=7", b"starts=100"),
        (b"image=0123", b"image=012"),
        (b"orbital_end=1\n", b"orbital_end=0\n"),
        (b"orbital_starts=7\n", b""),
        (b"orbital_starts=7\n", b"orbital_starts=7\norbital_starts=7\n"),
    ],
)
def test_what_is_not_exactly_a_record_is_the_empty_one(old: bytes, new: bytes) -> None:
    assert old in to_bytes(FULL)
    assert parse(to_bytes(FULL).replace(old, new)[:SIZE].ljust(SIZE, b"#")) == Starts()


def test_noise_and_absence_are_the_empty_record(tmp_path: Path) -> None:
    for data in (b"", bytes(SIZE), b"\xff" * SIZE, to_bytes(FULL)[:-1], to_bytes(FULL)[:200]):
        assert parse(data) == Starts()
    assert StartFile(tmp_path / "none").load() == Starts()


def test_a_reason_is_made_fit_and_counts_stop() -> None:
    record = replace(
        FULL, reason=" a#b\\c\nd\t\u00e9 " + "x" * 200, asked=12, starts=100, rescued=100
    )
    back = parse(to_bytes(record))
    assert back.reason == ("a?b?c d ? " + "x" * 200)[: starts.LONGEST_REASON]
    assert (back.asked, back.starts, back.rescued) == (9, 99, 99)


def test_a_torn_write_leaves_a_record_that_means_something(
    file: StartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.save(FULL)
    for torn in range(1, SIZE):
        file.save(FULL)
        with power_cut(monkeypatch, 0, torn_bytes=torn):
            file.save(Starts())
        found = file.load()
        # Not a promise of disks, which write a sector whole, and still harmless.
        torn_ones = (replace(FULL, asked=0), replace(FULL, asked=0, loads=0))
        assert found in (FULL, *torn_ones, Starts()) or not found.rescue


def test_a_healthy_start_clears_all_counts_but_a_volatile_one_remembers_rescue() -> None:
    assert healthy(FULL) == replace(FULL, asked=0, image="", starts=0, rescued=0, loads=0)
    assert healthy(FULL, volatile=True) == replace(FULL, image="", starts=0, loads=0)


def test_only_a_wish_is_a_person() -> None:
    assert wish(Starts(), "root", "try it").by_person
    assert not replace(FULL, reason="slot a cannot be opened").by_person
    assert not Starts().by_person


def test_a_healthy_start_ends_a_wish_that_the_loader_never_fulfilled() -> None:
    """Else every start from then on would restart three times before it goes on."""
    asked = replace(FULL, asked=3)
    assert healthy(asked) == Starts()
    assert healthy(replace(FULL, asked=2)).rescue


def test_the_bytes_that_u_boots_script_changes_are_where_the_format_says() -> None:
    data = to_bytes(FULL)
    assert (data[39:40], data[55:56]) == (b"2", b"3")
