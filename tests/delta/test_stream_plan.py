"""Planning frames: what each copies, and which old ranges it may look at."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from imager.delta.frame import Copy
from imager.delta.match import Reason, Span, Unit
from imager.delta.plan import REFERENCES, FramePlan, plan

MIB = 1 << 20
PIECE = 4 * MIB


def planned(*units: Unit, code: frozenset[tuple[int, int]] = frozenset()) -> list[FramePlan]:
    return plan(units, units[-1].span.end, piece=PIECE, pieces=2, is_code=code, little=-1)


def test_frames_have_whole_pieces_and_the_last_has_the_rest() -> None:
    frames = planned(Unit(Span(0, 21 * MIB), Reason.NONE))
    assert [(frame.offset, frame.size, frame.pieces) for frame in frames] == [
        (0, 8 * MIB, 2),
        (8 * MIB, 8 * MIB, 2),
        (16 * MIB, 5 * MIB, 2),
    ]


def test_two_frames_with_little_to_code_are_made_one() -> None:
    same = [Unit(Span(at * MIB, 7 * MIB), Reason.SAME, (Span(0, 7 * MIB),)) for at in (0, 8, 16)]
    rest = [Unit(Span((at + 7) * MIB, MIB), Reason.NONE) for at in (0, 8, 16)]
    units = [unit for pair in zip(same, rest, strict=True) for unit in pair]
    frames = plan(units, 24 * MIB, piece=PIECE, pieces=2)
    assert [(frame.size, frame.pieces, frame.coded) for frame in frames] == [
        (16 * MIB, 4, 2 * MIB),
        (8 * MIB, 2, MIB),
    ]


def test_frames_with_more_to_code_stay_two() -> None:
    frames = plan([Unit(Span(0, 16 * MIB), Reason.NONE)], 16 * MIB, piece=PIECE, pieces=2)
    assert [frame.pieces for frame in frames] == [2, 2]


def test_a_copy_is_cut_at_the_border_of_frames() -> None:
    first, second = planned(Unit(Span(0, 10 * MIB), Reason.SAME, (Span(MIB, 10 * MIB),)))
    assert first.copies == (Copy(0, MIB, 8 * MIB),)
    assert second.copies == (Copy(0, 9 * MIB, 2 * MIB),)
    assert first.coded == second.coded == 0


def test_neighbours_in_both_streams_are_one_copy() -> None:
    (frame,) = planned(
        Unit(Span(0, 4096), Reason.SAME, (Span(8192, 4096),)),
        Unit(Span(4096, 4096), Reason.SAME, (Span(12288, 4096),)),
        Unit(Span(8192, 4096), Reason.SAME, (Span(0, 4096),)),
    )
    assert frame.copies == (Copy(0, 8192, 8192), Copy(8192, 0, 4096))


def test_a_changed_file_brings_all_of_its_old_version() -> None:
    (frame,) = planned(Unit(Span(0, 2 * MIB), Reason.PATH, (Span(5 * MIB, 3 * MIB),)))
    assert [wanted.span for wanted in frame.references] == [Span(5 * MIB, 3 * MIB)]


def test_a_large_file_brings_what_lies_where_the_frame_lies() -> None:
    frames = planned(Unit(Span(0, 80 * MIB), Reason.PATH, (Span(7 * MIB, 40 * MIB),), (3, 4)),
                     code=frozenset([(3, 4)]))  # fmt: skip
    for number, frame in enumerate(frames):
        (wanted,) = frame.references
        start, end = 7 * MIB + 4 * MIB * number, 7 * MIB + 4 * MIB * (number + 1)
        assert wanted.span.offset <= start
        assert wanted.span.end >= end
        assert wanted.span.size <= 6 * MIB
        assert wanted.span.end <= 47 * MIB
        assert wanted.start == wanted.span.offset - 7 * MIB
        assert wanted.pair == (3, 4)


def test_only_code_keeps_its_pair() -> None:
    units = [
        Unit(Span(0, MIB), Reason.PATH, (Span(0, MIB),), (1, 1)),
        Unit(Span(MIB, MIB), Reason.PATH, (Span(2 * MIB, MIB),), (2, 2)),
    ]
    (frame,) = planned(*units, code=frozenset([(2, 2)]))
    assert [wanted.pair for wanted in frame.references] == [None, (2, 2)]


def test_one_old_file_for_two_new_ones_is_read_once() -> None:
    units = [
        Unit(Span(0, MIB), Reason.NAME, (Span(0, MIB),)),
        Unit(Span(MIB, MIB), Reason.NAME, (Span(0, MIB),)),
    ]
    (frame,) = planned(*units)
    assert [wanted.span for wanted in frame.references] == [Span(0, MIB)]


def test_what_is_the_same_is_no_reference() -> None:
    (frame,) = planned(
        Unit(Span(0, MIB), Reason.SAME, (Span(0, MIB),)), Unit(Span(MIB, 10), Reason.NONE)
    )
    assert frame.references == ()


def test_too_many_references_give_up_their_ends() -> None:
    small = Unit(Span(0, MIB), Reason.PATH, (Span(0, MIB),))
    large = [
        Unit(Span(MIB * number, MIB), Reason.PATH, (Span(20 * MIB * number, 12 * MIB),))
        for number in (1, 2)
    ]
    (frame,) = planned(small, *large)
    sizes = [wanted.span.size for wanted in frame.references]
    assert sizes == [MIB, 15 * MIB // 2, 15 * MIB // 2]
    assert frame.references[1].span.offset == 20 * MIB + (12 * MIB - 15 * MIB // 2) // 2
    assert frame.references[1].start == 0 or frame.references[1].pair is None


@st.composite
def some_units(draw: st.DrawFn) -> list[Unit]:
    units, at = [], 0
    for number in range(draw(st.integers(1, 12))):
        size = draw(st.integers(1, 200_000))
        reason = draw(st.sampled_from(list(Reason)))
        old: tuple[Span, ...] = ()
        if reason is Reason.SAME:
            old = (Span(draw(st.integers(0, 10**6)), size),)
        elif reason in (Reason.METADATA, Reason.CONTENT):
            spans = st.builds(Span, st.integers(0, 10**6), st.integers(1, 300_000))
            old = tuple(draw(st.lists(spans, max_size=4)))
        elif reason is not Reason.NONE:
            old = (Span(draw(st.integers(0, 10**6)), draw(st.integers(1, 500_000))),)
        units.append(Unit(Span(at, size), reason, old, (number, number) if old else None))
        at += size
    return units


@given(some_units(), st.integers(1, 4), st.sampled_from([100_000, 1 << 19, REFERENCES]))
@settings(max_examples=200, deadline=None)
def test_frames_cover_everything_within_the_limit(
    units: list[Unit], pieces: int, limit: int
) -> None:
    size = units[-1].span.end
    code = frozenset((number, number) for number in range(0, 12, 2))
    frames = plan(units, size, piece=65536, pieces=pieces, limit=limit, is_code=code)
    assert sum(frame.size for frame in frames) == size
    assert sum(frame.pieces for frame in frames) == -(-size // 65536)
    for frame in frames:
        assert sum(wanted.span.size for wanted in frame.references) <= limit
        assert all(wanted.start >= 0 and wanted.span.size > 0 for wanted in frame.references)
        at = 0
        for copy in frame.copies:
            assert at <= copy.at
            at = copy.at + copy.size
        assert at <= frame.size
        same = (unit for unit in units if unit.reason is Reason.SAME)
        places = [(unit.span, unit.old[0].offset - unit.span.offset) for unit in same]
        for copy in frame.copies:
            start = frame.offset + copy.at
            assert any(
                span.offset <= start < span.end and copy.offset - start == shift
                for span, shift in places
            )
