"""Whole deltas: made out of two images, applied frame by frame, and the same bytes again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delta.frame import apply
from imager.delta.stream import Frame, Kind, make, prepare
from imager.delta.streams import Streams
from recovery.errors import ToolError
from tests.delta.erofs_image import erofs

PIECE = 65536
LEVEL = 3


@dataclass
class Recorder:
    """A reporter that remembers."""

    stages: list[str] = field(default_factory=list)
    done: list[tuple[str, int, int]] = field(default_factory=list)

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def progress(self, done: int, total: int) -> None:
        self.done.append((self.stages[-1], done, total))

    def message(self, text: str) -> None:
        raise AssertionError(text)


@dataclass
class Memory:
    """A base in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


def frames_of(
    folder: Path,
    old: bytes,
    new: bytes,
    *,
    kind: Kind = "erofs",
    workers: int = 1,
    full_sizes: Sequence[int] = (),
    reporter: Recorder | None = None,
) -> list[Frame]:
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    return make(
        folder / "old", len(old), folder / "new", len(new),
        piece=PIECE, kind=kind, workers=workers, level=LEVEL,
        full_sizes=full_sizes, reporter=reporter,
    )  # fmt: skip


def applied(frames: Sequence[Frame], old: bytes, size: int) -> bytes:
    """The new stream; frames that were left out are zeros."""
    result = bytearray(size)
    at = 0
    for frame in frames:
        length = min(frame.pieces * PIECE, size - at)
        if frame.payload:
            apply(frame.payload, Memory(old), memoryview(result)[at : at + length])
        at += length
    assert at == size
    return bytes(result)


def tree(seed: int, count: int = 60) -> dict[str, bytes]:
    draw = random.Random(seed)
    return {
        f"/folder{number % 3}/file{number}.{number % 7}": draw.randbytes(draw.randrange(20_000))
        for number in range(count)
    }


def updated(files: dict[str, bytes], seed: int) -> dict[str, bytes]:
    """Some files edited, one added, one removed, one moved."""
    draw = random.Random(seed)
    result = dict(files)
    for name in draw.sample(sorted(result), 6):
        at = draw.randrange(len(result[name]) + 1)
        result[name] = result[name][:at] + b"edited here" + result[name][at:]
    moved, gone = draw.sample(sorted(result), 2)
    result["/folder0/a-moved"] = result.pop(moved)
    del result[gone]
    result["/folder1/brand-new"] = draw.randbytes(30_000)
    return result


def test_an_update_is_as_small_as_its_change(tmp_path: Path) -> None:
    files = tree(1)
    old, new = erofs(files), erofs(updated(files, 2))
    frames = frames_of(tmp_path, old, new)
    assert applied(frames, old, len(new)) == new
    # 30,000 random bytes are new, and everything in the image has moved.
    assert 30_000 < sum(len(frame.payload) for frame in frames) < 40_000
    assert len(new) > 500_000


def test_the_same_image_costs_nearly_nothing(tmp_path: Path) -> None:
    old = erofs(tree(1))
    frames = frames_of(tmp_path, old, old)
    assert applied(frames, old, len(old)) == old
    assert sum(len(frame.payload) for frame in frames) < 100 * len(frames)


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    files = tree(3)
    old, new = erofs(files), erofs(updated(files, 4))
    alone, together = Recorder(), Recorder()
    one = frames_of(tmp_path, old, new, workers=1, reporter=alone)
    two = frames_of(tmp_path, old, new, workers=2, reporter=together)
    assert one == two
    assert alone.stages == together.stages
    for recorder in (alone, together):
        _, done, total = recorder.done[-1]
        assert done == total > 0
        assert [step[1] for step in recorder.done] == sorted(step[1] for step in recorder.done)


def test_streams_end_before_their_files(tmp_path: Path) -> None:
    files = tree(5)
    old, new = erofs(files), erofs(updated(files, 6))
    plain = frames_of(tmp_path, old, new)
    (tmp_path / "old").write_bytes(old + b"a verity tree" * 999)
    (tmp_path / "new").write_bytes(new + b"another one" * 999)
    found = make(
        tmp_path / "old", len(old), tmp_path / "new", len(new), piece=PIECE, workers=1, level=LEVEL
    )
    assert found == plain


def test_padding_behind_the_file_system_is_made_as_well(tmp_path: Path) -> None:
    old, new = erofs(tree(7, 10)), erofs(tree(7, 10)) + bytes(100_000) + b"end"
    frames = frames_of(tmp_path, old, new)
    assert applied(frames, old, len(new)) == new


def test_a_frame_that_saves_too_little_is_left_out(tmp_path: Path) -> None:
    draw = random.Random(8)
    old = erofs({"/same": draw.randbytes(2 * PIECE)})
    new = erofs({"/same": b"", "/unlike": draw.randbytes(8 * PIECE)})
    count = -(-len(new) // PIECE)
    frames = frames_of(tmp_path, old, new, full_sizes=[PIECE] * count)
    assert sum(frame.pieces for frame in frames) == count
    assert b"" in {frame.payload for frame in frames}
    kept = frames_of(tmp_path, old, new, full_sizes=[10 * PIECE] * count)
    assert all(frame.payload for frame in kept)
    assert applied(kept, old, len(new)) == new


def test_streams_of_unknown_kind_are_compared_by_content(tmp_path: Path) -> None:
    draw = random.Random(9)
    parts = [draw.randbytes(150_000) for _ in range(4)]
    old = b"".join(parts)
    new = parts[2] + b"inserted" * 9 + parts[0] + draw.randbytes(5000) + parts[1]
    frames = frames_of(tmp_path, old, new, kind="plain")
    assert applied(frames, old, len(new)) == new
    assert sum(len(frame.payload) for frame in frames) < 6000


def test_small_edits_in_an_unknown_kind_are_small(tmp_path: Path) -> None:
    draw = random.Random(10)
    old = draw.randbytes(700_000)
    new = bytearray(old)
    for at in range(0, len(new), 1000):
        new[at] ^= 0xFF
    frames = frames_of(tmp_path, old, bytes(new), kind="plain")
    assert applied(frames, old, len(new)) == new
    assert sum(len(frame.payload) for frame in frames) < 20_000


@pytest.mark.parametrize(("old", "new"), [(b"", b"new" * 1000), (b"old", b""), (b"", b"")])
def test_empty_streams(tmp_path: Path, old: bytes, new: bytes) -> None:
    frames = frames_of(tmp_path, old, new, kind="plain")
    assert applied(frames, old, len(new)) == new


def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="cannot read the erofs image"):
        frames_of(tmp_path, b"not an image" * 1000, erofs({}))


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"short")
    with pytest.raises(ToolError, match="old is too short"):
        make(tmp_path / "old", 6, tmp_path / "old", 5, piece=PIECE, kind="plain", workers=1)


def test_an_error_in_a_worker_reaches_the_caller(tmp_path: Path) -> None:
    size = 17 << 20
    (tmp_path / "old").write_bytes(bytes(size))
    with pytest.raises(ValueError, match="a frame has at most 16777216 bytes"):
        make(
            tmp_path / "old", size, tmp_path / "old", size,
            piece=size, pieces=1, kind="plain", workers=2,
        )  # fmt: skip


def test_executables_that_changed_are_paired(tmp_path: Path) -> None:
    elf = b"\x7fELF" + random.Random(11).randbytes(9000)
    old = erofs({"/bin/tool": elf, "/bin/same": elf + b"x", "/etc/text": b"t" * 5000})
    new = erofs(
        {"/bin/tool": elf[::1] + b"more", "/bin/same": elf + b"x", "/etc/text": b"u" * 5000}
    )
    new = erofs(
        {"/bin/tool": elf[:4] + b"1" + elf[5:], "/bin/same": elf + b"x", "/etc/text": b"u" * 5000}
    )
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    with Streams.open(tmp_path / "old", len(old), tmp_path / "new", len(new)) as streams:
        plan = prepare(streams, piece=PIECE)
    assert [(pair.old.path, pair.new.path) for pair in plan.code] == [("/bin/tool", "/bin/tool")]


@given(st.integers(0, 2**32), st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_update_round_trips(tmp_path: Path, seed: int, inline: bool) -> None:
    draw = random.Random(seed)
    files = tree(seed, draw.randrange(1, 25))
    after = updated(files, seed) if len(files) > 8 else tree(seed + 1, 3)
    old, new = erofs(files), erofs(after, inline=inline)
    frames = frames_of(tmp_path, old, new)
    assert applied(frames, old, len(new)) == new
