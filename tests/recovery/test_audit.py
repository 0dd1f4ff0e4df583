"""The audit trail: a chain that shows every change, and survives every power cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.audit import GENESIS, Audit, verify
from tests.recovery.powercut import power_cut


def filled(root: Path, count: int, rotate_bytes: int = 1 << 20) -> Audit:
    """A trail with entries "package 1" to "package COUNT"."""
    audit = Audit(root, rotate_bytes=rotate_bytes)
    for number in range(1, count + 1):
        audit.record("package.install", f"package {number}", "done", who="ada")
    return audit


def test_entries_follow_each_other_from_the_first(tmp_path: Path) -> None:
    audit = filled(tmp_path, 3)
    entries = audit.entries()
    assert [(entry.seq, entry.subject) for entry in entries] == [
        (1, "package 1"),
        (2, "package 2"),
        (3, "package 3"),
    ]
    assert entries[0].previous == GENESIS
    assert [entry.previous for entry in entries[1:]] == [entry.hash for entry in entries[:2]]
    found = verify(tmp_path)
    assert (found.intact, found.entries, found.first, found.last) == (True, 3, 1, 3)
    assert found.head == entries[-1].hash


def test_an_absent_trail_is_intact_and_empty(tmp_path: Path) -> None:
    found = verify(tmp_path)
    assert (found.intact, found.entries, found.head) == (True, 0, GENESIS)


def without_line(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], *lines[3:]]


def other_order(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def doubled(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], *lines[2:]]


def changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b"ada", b"eve"), *lines[3:]]


def garbage(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"}" + lines[2][1:], *lines[3:]]


def changed_with_a_new_hash(lines: list[bytes]) -> list[bytes]:
    """Somebody who knows the format makes the line right by itself."""
    from hashlib import sha256

    entry = json.loads(lines[2])
    del entry["hash"]
    entry["who"] = "eve"
    body = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    entry["hash"] = sha256(body).hexdigest()
    line = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return [*lines[:2], line, *lines[3:]]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (without_line, "audit.jsonl:3: entry 4 follows entry 2"),
        (other_order, "audit.jsonl:2: entry 3 follows entry 1"),
        (doubled, "audit.jsonl:4: entry 3 follows entry 3"),
        (changed, "audit.jsonl:3: the line was changed"),
        (garbage, "audit.jsonl:3: the line was changed; entry 3 is expected there"),
        (
            changed_with_a_new_hash,
            "audit.jsonl:4: entry 4 does not follow from the line before it",
        ),
    ],
)
def test_the_first_line_that_breaks_the_chain_is_named(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], where: str
) -> None:
    audit = filled(tmp_path, 5)
    lines = audit.path.read_bytes().splitlines()
    audit.path.write_bytes(b"\n".join(change(lines)) + b"\n")
    assert verify(tmp_path).broken == where


def test_a_changed_last_line_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    audit = filled(tmp_path, 3)
    data = audit.path.read_bytes().replace(b'"package 3"', b'"package 9"')
    audit.path.write_bytes(data)
    assert verify(tmp_path).broken == "audit.jsonl:3: the line was changed"


def test_rotation_bounds_the_size_and_carries_the_chain_on(tmp_path: Path) -> None:
    filled(tmp_path, 60, rotate_bytes=4096)
    size = sum(path.stat().st_size for path in tmp_path.glob("audit*.jsonl"))
    assert size < 2 * 4096 + 2 * 1000
    found = verify(tmp_path)
    assert found.intact and found.last == 60 and found.first > 1
    assert found.entries == 60 - found.first + 1


def test_a_rotated_file_that_was_changed_is_named(tmp_path: Path) -> None:
    audit = filled(tmp_path, 30, rotate_bytes=4096)
    lines = audit.older.read_bytes().splitlines()
    audit.older.write_bytes(b"\n".join([lines[0], *lines[2:]]) + b"\n")
    assert verify(tmp_path).broken.startswith("audit.1.jsonl:2: entry")


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_line_torn_at_any_byte_does_not_break_the_chain(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("audit")
    audit = filled(root, 3)
    whole = audit.path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    cut = data.draw(st.integers(start, len(whole) - 1))
    audit.path.write_bytes(whole[:cut])
    before = verify(root)
    assert before.intact
    # All of the line is there but its newline: it counts.
    assert before.last == (3 if cut == len(whole) - 1 else 2)
    added = audit.record("package.remove", "late", "done", who="ada")
    assert added.seq == before.last + 1
    after = verify(root)
    assert after.intact and after.entries == before.entries + 1


def test_a_power_cut_before_any_step_of_rotation_keeps_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = 0
    for cut in range(10):
        root = tmp_path / str(cut)
        audit = filled(root, 30, rotate_bytes=1 << 20)
        small = Audit(root, rotate_bytes=1000)
        # The append (the second step) is torn in its middle; a rename on ext4 is not.
        with power_cut(monkeypatch, cut, both_names=cut == 1) as operations:
            small.record("package.update", "cut", "done", who="ada")
        if not operations.happened:
            break
        cuts += 1
        assert verify(root).intact, f"cut {cut}"
        audit.record("package.update", "after", "done", who="ada")
        found = verify(root)
        assert found.intact, found.broken
        assert found.last >= 31
    assert cuts == 2
