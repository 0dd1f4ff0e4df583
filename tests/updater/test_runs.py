"""Which way each part of an image comes, by signed sizes; documents that make no sense."""

from __future__ import annotations

import json

import msgspec
import pytest

from manifests.delta import Delta, Frame, Part
from tests.updater.images import BuiltImage, build_image
from updater.runs import cheapest, delta_problem, in_full


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """An image."""
    return build_image(tmp_path_factory.mktemp("build"), "2.0")


def test_the_way_is_chosen_by_signed_sizes(new: BuiltImage) -> None:
    index = new.index
    pieces, boot = len(index.root.stream.segments), len(index.boot.stream.segments)
    part = Part(1000, "ab" * 32)

    def delta(*root: Frame, size: int = 1000) -> Delta:
        return Delta(1, "1.0", "00", root, (Frame(boot),), (Part(size, part.sha256),))

    useful = delta(Frame(2, 0, 0, 1000), Frame(pieces - 2))
    assert delta_problem(useful, index) == ""
    way = cheapest(index, useful)
    assert way.from_version == "1.0"
    saved = sum(segment.stored_size for segment in index.root.stream.segments[:2]) - 1000
    assert way.fetch_bytes == in_full(index).fetch_bytes - saved
    assert len(way.root) == pieces - 1
    # More than what it makes: not used. Nothing saved at all: in full.
    useless = delta(Frame(1, 0, 0, 99_999), Frame(pieces - 1), size=99_999)
    assert cheapest(index, useless) == in_full(index)
    assert cheapest(index, None) == in_full(index)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 2}, "its format is 2"),
        ({"libzstd": 10407}, "it needs libzstd 10407, this is"),
        ({"root": [{"segments": 0}]}, "a frame has no segments"),
        ({"root": [{"segments": 3}]}, "its frames have 3 segments"),
        ({"parts": [{"size": 0, "sha256": "00" * 32}]}, "a part of 0 bytes"),
        ({"parts": [{"size": 1 << 30, "sha256": "00" * 32}]}, "a part of"),
        ({"parts": [{"size": 5, "sha256": "../x"}]}, "the digest of a part"),
        ({"boot": [{"segments": 2, "part": 9, "size": 1}]}, "boot: there is no part 9"),
        ({"boot": [{"segments": 2, "part": -1, "size": 1}]}, "boot: there is no part -1"),
        ({"boot": [{"segments": 2, "offset": -1, "size": 1}]}, "boot: a payload lies outside"),
        ({"boot": [{"segments": 2, "offset": 1, "size": 1 << 20}]}, "boot: a payload lies outside"),
    ],
)
def test_a_delta_document_with_wrong_numbers_is_not_used(
    new: BuiltImage, change: dict[str, object], expected: str
) -> None:
    pieces, boot = len(new.index.root.stream.segments), len(new.index.boot.stream.segments)
    frames = Frame(pieces), Frame(boot, 0, 0, 10)
    delta = Delta(1, "1.0", "00" * 32, frames[:1], frames[1:], (Part(10, "ab" * 32),))
    assert delta_problem(delta, new.index) == ""
    good = json.loads(msgspec.json.encode(delta))
    wrong = msgspec.json.decode(json.dumps({**good, **change}).encode(), type=Delta)
    assert expected in delta_problem(wrong, new.index)
