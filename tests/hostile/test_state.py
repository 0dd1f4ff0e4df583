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
