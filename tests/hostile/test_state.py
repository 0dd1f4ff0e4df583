"""A sample of edited state partitions (the whole: `python -m evidence hostile`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evidence.hostile import state
from recovery import reading, shape
from recovery.layer import prepare_layer

# A prime, so that every place and every damage comes up.
STEP = 43

mounts = pytest.mark.skipif(not state.available(), reason="needs root, namespaces, loop devices")


@mounts
def test_a_sample_of_edited_states_starts_and_stays_usable() -> None:
    cases, _, wrong = state.judge(first=5, step=STEP)
    assert cases == len(range(5, len(list(state.cases())), STEP))
    assert not wrong


@mounts
@pytest.mark.parametrize("place", ["orbital/state.json", "orbital/etc/1/work"])
def test_every_damage_of_what_early_boot_cannot_do_without(place: str) -> None:
    cases, _, wrong = state.judge(place=place, step=3)
    assert cases and not wrong


def test_only_files_are_read_and_only_small_ones(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert reading.read_record(tmp_path / "file") == b"content"
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    for name in ("link", "pipe", "directory", "huge", "absent"):
        with pytest.raises(OSError):
            reading.read_record(tmp_path / name)
    assert reading.read_tail(tmp_path / "huge", 10) == bytes(10)


def test_what_has_the_wrong_kind_goes_aside_and_nothing_else_is_written(tmp_path: Path) -> None:
    state.fill(tmp_path, "committed")
    notes: list[str] = []
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    shape.mend(tmp_path, notes)
    assert not notes and sorted(str(path) for path in tmp_path.rglob("*")) == before
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    own = tmp_path / "orbital"
    (own / "state.json").unlink()
    (own / "state.json").mkdir()
    (own / "etc/1/upper").rmdir()
    (own / "etc/1/upper").symlink_to(outside)
    (own / "lock").unlink()
    os.mkfifo(own / "lock")
    shape.mend(tmp_path, notes)
    assert notes == ["state.json was no file", "lock was no file", "upper was no directory"]
    assert (own / "state.json.damaged").is_dir() and (outside / "kept").exists()
    assert not (own / "lock").exists() and not (own / "etc/1/upper").exists()


def put_aside(tmp_path: Path) -> Path:
    """A state partition with a directory in state.json's place, put aside."""
    state.fill(tmp_path, "committed")
    own = tmp_path / "orbital"
    (own / "state.json").unlink()
    (own / "state.json").mkdir()
    (own / "generations/1.json").unlink()
    (own / "generations/1.json").mkdir()
    shape.mend(tmp_path, [])
    return own


def test_what_went_aside_is_removed_after_a_healthy_start(tmp_path: Path) -> None:
    own = put_aside(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (own / "state.json.damaged/link").symlink_to(outside)
    deep = own / "state.json.damaged"
    for _ in range(300):
        deep = deep / "deeper"
        deep.mkdir()
        (deep / "file").touch()
    before = {path for path in tmp_path.rglob("*") if "damaged" not in str(path)}
    assert sorted(shape.remove_damaged(tmp_path)) == ["1.json.damaged", "state.json.damaged"]
    assert set(tmp_path.rglob("*")) == before
    assert shape.remove_damaged(tmp_path) == []


def test_a_large_tree_is_removed_in_several_starts(tmp_path: Path) -> None:
    own = put_aside(tmp_path)
    for folder in range(9):
        (own / f"state.json.damaged/{folder}/{folder}").mkdir(parents=True)
        for name in range(9):
            (own / f"state.json.damaged/{folder}/{folder}/{name}").touch()
    starts = 0
    while (own / "state.json.damaged").exists():
        assert starts < 12
        shape.remove_damaged(tmp_path, most=20)
        starts += 1
    assert starts > 4


def test_a_tree_that_cannot_be_removed_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = put_aside(tmp_path)

    def refuse(*_args: object) -> None:
        raise PermissionError("immutable")

    monkeypatch.setattr(Path, "rmdir", refuse)
    assert shape.remove_damaged(tmp_path) == []
    assert (own / "state.json.damaged").is_dir()


def test_a_layer_whose_copy_fails_leaves_nothing_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_layer(tmp_path, 1, None)
    (tmp_path / "etc/1/upper/big").write_bytes(b"x" * 100_000)

    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"x" * 1000)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recovery.layer._copy_content", full)
    with pytest.raises(OSError, match="No space"):
        prepare_layer(tmp_path, 2, 1)
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["1"]
