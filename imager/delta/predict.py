"""Which frames get their inodes predicted, and what is left to code in these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from delta.errors import DeltaError
from delta.head import Copy
from delta.head import Range as Source
from delta.inode_tables import BLOCK, Range
from delta.inodes import fill
from imager.delta.erofs import Layout
from imager.delta.inode_tables import corrections
from imager.delta.inodes import Predictor
from imager.delta.jobs import Mapped
from imager.delta.match import Reason, Span, Unit, merged
from imager.delta.plan import REFERENCES, FramePlan, Pair, Wanted, parts_of, references
from imager.delta.streams import Streams

# Of what is predicted, one byte in so many may be wrong: with more, differences are shorter.
_WRONG = 16


def with_predictions(
    frames: Sequence[FramePlan],
    units: Sequence[Unit],
    layouts: tuple[Layout, Layout],
    streams: Streams,
    *,
    is_code: frozenset[Pair],
) -> Iterator[FramePlan]:
    """The frames, with predictions where these are good. units: those the frames were made of."""
    predictor = Predictor(streams, layouts)
    parts = parts_of(units, [frame.offset for frame in frames])
    for frame, mine in zip(frames, parts, strict=True):
        yield _predicted(frame, mine, predictor, streams, is_code)


def _predicted(
    frame: FramePlan,
    parts: Sequence[tuple[Span, Unit]],
    predictor: Predictor,
    streams: Streams,
    is_code: frozenset[Pair],
) -> FramePlan:
    base = Mapped(streams.old)
    inside = [_is_metadata(unit, predictor) for _, unit in parts]
    ranges = list(
        _ranges(span for (span, _), metadata in zip(parts, inside, strict=True) if metadata)
    )
    end = frame.offset + frame.size
    copies = [Copy(copy.at, Source(copy.offset, copy.size)) for copy in frame.copies]
    if any(copy.at % BLOCK or copy.source.offset % BLOCK for copy in copies):
        return frame
    try:
        prediction = predictor.predict(frame.offset, end, ranges, copies)
        if prediction is None:
            return frame
        made = memoryview(bytearray(frame.size))
        filled, _ = fill(prediction.tables, base, made, copies)
    except DeltaError:
        # An image of another kind: nothing is lost but the prediction.
        return frame
    _, changes = corrections(filled, made, streams.new[frame.offset : end])
    if len(changes) * _WRONG > sum(high - low for low, high in filled):
        return frame
    rest = [part for part, metadata in zip(parts, inside, strict=True) if not metadata]
    wanted = [
        *references(rest, REFERENCES, is_code),
        *(Wanted(span) for span in merged(prediction.references)),
    ]
    if sum(item.span.size for item in wanted) > REFERENCES:
        return frame
    wanted.sort(key=lambda item: (item.span.offset, item.span.size, item.start))
    return replace(frame, references=tuple(wanted), inodes=prediction.tables)


def _is_metadata(unit: Unit, predictor: Predictor) -> bool:
    return unit.reason is Reason.METADATA or (
        unit.reason is not Reason.SAME and predictor.is_directory(unit.span.offset)
    )


def _ranges(spans: Iterable[Span]) -> Iterator[Range]:
    for span in merged(spans):
        yield span.offset, span.end
