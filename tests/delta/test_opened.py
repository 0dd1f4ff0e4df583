"""Codec 4: clusters that are opened, changed and closed again, and payloads made to harm."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from delta.clusters import LIBRARY, Opened, Part, open_cluster
from delta.codecs.opened import PARTS
from delta.errors import DeltaError
from delta.frame import OPENED, VERSION
from delta.head import Head, Range
from delta.varint import write
from imager.delta.frame import Reference, encode
from imager.delta.head import written
from imager.delta.sections import section
from tests.delta.frames import MemoryBase, decoded
from tests.delta.golden_opened import FOLDER, RELEASE
from tests.delta.opened import EFFORT, closed, pair, payload


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2000, 30_000), st.integers(2000, 90_000), st.data())
def test_clusters_come_back_as_they_were(
    seed: int, cut: int, size: int, data: st.DataObject
) -> None:
    old, new = pair(seed, size, cut)
    skip = data.draw(st.integers(0, new.parts[0].closed))
    end = len(new.image) - data.draw(st.integers(0, new.parts[-1].closed - 1))
    if skip < end:
        made = decoded(payload(old, new, skip=skip), old.image, end - skip)
        assert made == new.image[skip:end]


def test_the_golden_payload_gives_its_result_with_the_library_of_its_day() -> None:
    base, golden, result = ((FOLDER / name).read_bytes() for name in ("base", "payload", "result"))
    if LIBRARY == RELEASE:
        assert decoded(golden, base, len(result)) == result
    else:
        with pytest.raises(DeltaError, match="libzstd"):
            decoded(golden, base, len(result))


def test_a_small_change_costs_little() -> None:
    old, new = pair(size=400_000, cut=100_000)
    assert len(payload(old, new)) < 0.02 * len(new.image)


def test_another_release_of_the_library_is_refused() -> None:
    old, new = pair()
    with pytest.raises(DeltaError, match="libzstd"):
        decoded(payload(old, new, library=LIBRARY + 1), old.image, len(new.image))
    with pytest.raises(DeltaError, match="libzstd"):
        decoded(payload(old, new, library=0), old.image, len(new.image))


def test_other_settings_make_other_bytes_or_none() -> None:
    old, new = pair()
    try:
        made = decoded(payload(old, new, level=1), old.image, len(new.image))
    except DeltaError:
        return
    assert made != new.image


def _lying(**lies: object) -> bytes:
    """A payload whose tables have other numbers in some places."""
    given_ = {
        "library": LIBRARY, "level": 3, "window": 0, "skip": 0,
        "old": [1, 100, 100 << 1], "new": [1, 100, 100 << 1], **lies,
    }  # fmt: skip
    tables: list[int] = []
    for value in given_.values():
        tables += value if isinstance(value, list) else [int(str(value))]
    head = written(Head((), (Range(0, 100),), {}), EFFORT)
    inside = encode(bytes(100), MemoryBase(bytes(100)), [], [Reference(0, 100)], level=3)
    return bytes([VERSION, OPENED]) + head + section(b"".join(map(write, tables)), EFFORT) + inside


LIES: dict[str, dict[str, object]] = {
    "a level that takes gigabytes": {"level": 23},
    "a window of 2^30": {"window": 30},
    "a window of 2^3": {"window": 3},
    "more to skip than a cluster": {"skip": 2 << 20},
    "more parts than there may be": {"new": [PARTS + 1] + [1] * (2 * PARTS + 2)},
    "an old part of a terabyte": {"old": [1, 1 << 40, 200]},
    "a new part of a terabyte": {"new": [1, 1 << 40, 200]},
    "a cluster that opens to 16 MiB": {"new": [1, 100, 16 << 21 | 1]},
    "a part with more in it than it has": {"new": [1, 100, 101 << 1]},
    "old parts that are longer than the references": {"old": [1, 101, 100 << 1]},
    "old parts that are shorter than the references": {"old": [1, 99, 99 << 1]},
    "an old cluster that is none": {"old": [1, 100, 100 << 1 | 1]},
    "clusters that open to 80 MiB": {"new": [20, *([100] * 20), *([8 << 20 | 1] * 20)]},
    "less than the frame": {"new": [1, 99, 99 << 1]},
    "numbers behind the parts": {"new": [1, 100, 100 << 1, 7]},
}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES)
def test_a_lie_is_an_error(lies: dict[str, object]) -> None:
    assert decoded(_lying(), bytes(100), 100) == bytes(100)
    with pytest.raises(DeltaError):
        decoded(_lying(**lies), bytes(100), 100)


def test_a_payload_like_it_inside_is_refused() -> None:
    good = _lying()
    tables = section(b"".join(map(write, [0, 3, 0, 0, 1, 100, 200, 1, 100, 200])), EFFORT)
    head = written(Head((), (Range(0, 100),), {}), EFFORT)
    with pytest.raises(DeltaError, match="expected one of the codecs"):
        decoded(bytes([VERSION, OPENED]) + head + tables + good, bytes(100), 100)


def test_a_cluster_that_is_a_bomb_is_an_error() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))
    for stored in (bomb, hidden):
        with pytest.raises(DeltaError):
            open_cluster(bytes(100) + stored, 5000)


def test_opening_the_same_cluster_for_ever_ends() -> None:
    stored = closed(bytes(4 << 20))
    parts = [Part(len(stored), 4 << 20, True)] * 2
    base = Opened(parts, lambda: stored * 2)
    with pytest.raises(DeltaError, match="at most"):
        for _ in range(100):
            base.read(0, 1)
            base.read(4 << 20, 1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 6)),
        min_size=1,
        max_size=5,
    )
)
def test_any_damage_is_an_error_or_bytes(changes: list[tuple[int, bytes, int]]) -> None:
    damaged = bytearray(_DAMAGED_PAYLOAD)
    for at, inserted, removed in changes:
        place = at % (len(damaged) + 1)
        damaged[place : place + removed] = inserted
    try:
        made = decoded(bytes(damaged), _DAMAGED[0].image, len(_DAMAGED[1].image))
    except DeltaError:
        return
    assert len(made) == len(_DAMAGED[1].image)


_DAMAGED = pair(3, 8000, 3000)
_DAMAGED_PAYLOAD = payload(*_DAMAGED)
