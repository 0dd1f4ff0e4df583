"""Matching: which old bytes help to make which new ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from imager.delta import anchors
from imager.delta.erofs import Buffer, read_layout
from imager.delta.match import Digest, Reason, Span, Unit, match, merged, normalised, summary
from tests.delta.erofs_image import BLOCK, erofs

draw = random.Random(7)
FIRST, SECOND, THIRD = (draw.randbytes(3 * BLOCK) for _ in range(3))


def digest_of(image: Buffer) -> Digest:
    return lambda offset, size: hashlib.sha256(image[offset : offset + size]).digest()


def units(old: bytes, new: bytes) -> list[Unit]:
    return match(read_layout(old), read_layout(new), digest_of(old), digest_of(new))


def unit_of(old: Mapping[str, bytes], new: Mapping[str, bytes], path: str) -> tuple[Unit, str]:
    """The unit of a new file's blocks, and the old file that it refers to."""
    before, after = erofs(old), erofs(new)
    start = next(node.data for node in read_layout(after).nodes if node.path == path)
    unit = next(unit for unit in units(before, after) if unit.span.offset == start)
    holders = [
        node.path
        for node in read_layout(before).nodes
        if unit.old and node.data == unit.old[0].offset and node.data_size
    ]
    return unit, "".join(holders)


def test_a_file_that_moved_is_the_same() -> None:
    unit, found = unit_of({"/b": FIRST}, {"/a": SECOND, "/z": FIRST}, "/z")
    assert (unit.reason, found) == (Reason.SAME, "/b")


def test_a_changed_file_refers_to_the_same_path() -> None:
    old = {"/lib/x.so": FIRST, "/lib/y.so": SECOND}
    unit, found = unit_of(old, {"/lib/x.so": THIRD, "/lib/y.so": SECOND}, "/lib/x.so")
    assert (unit.reason, found) == (Reason.PATH, "/lib/x.so")


def test_a_new_version_in_the_path_is_recognised() -> None:
    old = {"/lib/modules/6.12.107/a.ko": FIRST, "/lib/modules/6.12.107/b.ko": SECOND}
    unit, found = unit_of(old, {"/lib/modules/6.12.117/b.ko": THIRD}, "/lib/modules/6.12.117/b.ko")
    assert (unit.reason, found) == (Reason.SIMILAR_PATH, "/lib/modules/6.12.107/b.ko")


def test_of_several_similar_paths_the_one_of_the_nearest_size_is_taken() -> None:
    old = {"/lib/x.so.1": FIRST + SECOND, "/lib/x.so.2": FIRST}
    unit, found = unit_of(old, {"/lib/x.so.3": THIRD}, "/lib/x.so.3")
    assert (unit.reason, found) == (Reason.SIMILAR_PATH, "/lib/x.so.2")


def test_a_changed_file_in_another_folder_is_found_by_its_name_without_compression() -> None:
    unit, found = unit_of(
        {"/lib/a/x.ko": FIRST}, {"/usr/lib/b/x.ko.xz": THIRD}, "/usr/lib/b/x.ko.xz"
    )
    assert (unit.reason, found) == (Reason.NAME, "/lib/a/x.ko")


def test_a_file_like_no_other_has_no_reference() -> None:
    unit, _ = unit_of({"/a": FIRST}, {"/a": FIRST, "/new": THIRD}, "/new")
    assert (unit.reason, unit.old) == (Reason.NONE, ())


def test_a_folder_is_no_reference_for_a_file_of_its_path() -> None:
    old = {f"/x/{'n' * 200}{number:03}": b"" for number in range(15)}
    unit, _ = unit_of(old, {"/x": THIRD}, "/x")
    assert unit.reason is Reason.NONE


def test_pairs_name_both_files() -> None:
    old, new = erofs({"/a": FIRST, "/b": SECOND}), erofs({"/b": THIRD})
    before, after = read_layout(old), read_layout(new)
    (pair,) = (unit.pair for unit in units(old, new) if unit.pair)
    assert after.nodes[pair[0]].path == before.nodes[pair[1]].path == "/b"


def test_inodes_refer_to_the_inodes_of_the_same_paths() -> None:
    names = [f"/etc/{number:03}" for number in range(50)]
    old = erofs({name: name.encode() * 100 for name in names})
    new = erofs({"/aaa": b"x" * 2000, **{name: name.encode() * 100 for name in names}})
    inodes = {node.path: node.inode for node in read_layout(old).nodes}
    wanted = [unit for unit in units(old, new) if unit.reason is Reason.METADATA]
    spans = [span for unit in wanted for span in unit.old]
    for name in names:
        assert any(span.offset <= inodes[name] < span.end for span in spans)


def test_summary_counts_every_byte_once() -> None:
    old = erofs({"/a": FIRST, "/b": SECOND})
    new = erofs({"/a": FIRST, "/b": THIRD, "/c": THIRD + FIRST})
    found = summary(units(old, new))
    assert sum(found.values()) == read_layout(new).size
    assert found["same content"] == len(FIRST)


contents = st.sampled_from(
    [b"", b"small", FIRST, SECOND, THIRD, FIRST + SECOND, FIRST[:5000], SECOND[:100]]
)
trees = st.dictionaries(st.sampled_from(["/a", "/b1", "/b2", "/d/a", "/d/e/b3"]), contents)


@given(trees, trees, st.booleans())
@settings(max_examples=100, deadline=None)
def test_units_cover_the_new_image_without_gaps_and_tell_the_truth(
    before: dict[str, bytes], after: dict[str, bytes], inline: bool
) -> None:
    old, new = erofs(before), erofs(after, inline=inline)
    at = 0
    for unit in units(old, new):
        assert unit.span.offset == at
        assert unit.span.size > 0
        assert all(span.offset >= 0 and span.size > 0 and span.end <= len(old) for span in unit.old)
        if unit.reason is Reason.SAME:
            (span,) = unit.old
            assert old[span.offset : span.end] == new[at : unit.span.end]
        at = unit.span.end
    assert at == len(new)


def test_normalised_takes_all_digits_out() -> None:
    assert normalised("/lib/modules/6.12.107+deb13/x.ko") == "/lib/modules/#.#.#+deb#/x.ko"


def test_spans_are_merged_across_small_gaps() -> None:
    spans = [Span(10, 5), Span(0, 4), Span(14, 1), Span(4, 2), Span(100, 0)]
    assert merged(spans) == [Span(0, 6), Span(10, 5)]
    assert merged(spans, gap=4) == [Span(0, 15)]


def test_content_is_found_wherever_it_moved() -> None:
    content = draw.randbytes(200_000)
    old = draw.randbytes(50_001) + content + draw.randbytes(70_000)
    new = draw.randbytes(3_333) + content[:90_000] + b"changed" + content[90_000:]
    known = anchors.index(old, [Span(0, len(old))])
    found = list(anchors.equal_ranges(known, old, new))
    assert found == [(3_333, 50_001, 90_000), (3_333 + 90_007, 140_001, 110_000)]


def test_references_by_content_hold_most_of_it_and_not_more_than_allowed() -> None:
    old = draw.randbytes(8 << 20)
    new = bytes(old[3 << 20 : 4 << 20])
    known = anchors.index(old, [Span(0, len(old))])
    spans = anchors.references(known, new, len(old), 2 << 20)
    assert sum(span.size for span in spans) <= 2 << 20
    assert any(span.offset <= 3 << 20 and span.end >= 4 << 20 for span in spans)
    assert anchors.references(known, draw.randbytes(1 << 20), len(old), 2 << 20) == ()


def test_what_repeats_is_no_anchor() -> None:
    block = draw.randbytes(100_000)
    assert len(anchors.index(block, [Span(0, len(block))]).places) > 50
    known = anchors.index(block * 3, [Span(0, 3 * len(block))])
    assert known.find(block) == []
