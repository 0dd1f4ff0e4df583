"""How each part of a stream gets onto the medium: by delta, by slices, or in full. Pure.

A run is what is placed as one: the segments that one payload makes, or a
single segment. The sizes that decide are signed, so the choice is made before
anything is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from delta.clusters import LIBRARY
from manifests.delta import FORMAT, LARGEST_FRAME, LARGEST_PART, Delta, Frame, Part, made_by
from manifests.index import OsIndex, Segment, Stream


@dataclass(frozen=True)
class Piece:
    """A segment and where in the stream it lies."""

    offset: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class Payload:
    """Where the payload of a run is: bytes offset to offset + size of a part."""

    part: Part
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A small part of a stream, of size bytes at offset, that may come from the base.

    probe, digest: see `manifests.slices`. stored: where its compressed form is. local: where
    in the base it is; None: not there, as far as is known.
    """

    offset: int
    size: int
    probe: int
    digest: bytes
    stored: Payload
    local: int | None = None


@dataclass(frozen=True)
class Run:
    """Pieces that are placed together. payload: what makes them from the base; slices: what
    the one piece consists of. With neither, they are fetched."""

    pieces: tuple[Piece, ...]
    payload: Payload | None = None
    slices: tuple[Slice, ...] = ()

    @property
    def offset(self) -> int:
        """Where in the stream it begins."""
        return self.pieces[0].offset

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return sum(piece.segment.size for piece in self.pieces)

    @property
    def full_size(self) -> int:
        """Bytes to fetch without the base."""
        return sum(piece.segment.stored_size for piece in self.pieces)

    @property
    def cost(self) -> int:
        """Bytes to fetch for it alone, when everything works."""
        if self.payload is not None:
            return self.payload.size
        if self.slices:
            missing = {item.digest: item for item in self.slices if item.local is None}
            return sum(item.stored.size for item in missing.values())
        return self.full_size


@dataclass(frozen=True)
class Way:
    """The runs of both streams of an image, and from what they are made.

    from_version: the base, empty when everything is fetched in full.
    """

    root: tuple[Run, ...]
    boot: tuple[Run, ...]
    from_version: str = ""

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch when nothing is in place and everything works."""
        return cost((*self.root, *self.boot))

    @property
    def made_bytes(self) -> int:
        """Bytes that payloads make."""
        return sum(run.size for run in (*self.root, *self.boot) if run.payload is not None)

    @property
    def kind(self) -> Literal["delta", "chunks", "full"]:
        """Its name, for people."""
        if not self.from_version:
            return "full"
        return "chunks" if any(run.slices for run in (*self.root, *self.boot)) else "delta"


def cost(runs: Sequence[Run]) -> int:
    """Bytes to fetch when nothing is in place and every payload makes what it should."""
    with_payload = {run.payload.part for run in runs if run.payload is not None}
    return sum(part.size for part in with_payload) + sum(
        run.cost for run in runs if run.payload is None
    )


def in_full(index: OsIndex) -> Way:
    """Every segment fetched as it is."""
    return Way(single(index.root.stream), single(index.boot.stream))


def cheapest(index: OsIndex, delta: Delta | None) -> Way:
    """The way that fetches least."""
    full = in_full(index)
    if delta is None:
        return full
    way = Way(
        patched(index.root.stream, delta.root, delta.parts),
        patched(index.boot.stream, delta.boot, delta.parts),
        delta.from_version,
    )
    return way if way.fetch_bytes < full.fetch_bytes else full


def single(stream: Stream) -> tuple[Run, ...]:
    """A run of its own for every segment."""
    return tuple(Run((piece,)) for piece in pieces(stream))


def pieces(stream: Stream) -> tuple[Piece, ...]:
    """The segments of the stream with their offsets."""
    return tuple(
        Piece(number * stream.segment_size, segment)
        for number, segment in enumerate(stream.segments)
    )


def delta_problem(delta: Delta, index: OsIndex) -> str:
    """The first thing that is wrong with a delta document, or nothing."""
    if delta.format != FORMAT:
        return f"its format is {delta.format}, expected {FORMAT}"
    if delta.libzstd not in (0, LIBRARY):
        return f"it needs libzstd {delta.libzstd}, this is {LIBRARY}"
    problem = parts_problem(delta.parts)
    if problem:
        return problem
    for name, stream, frames in (
        ("root", index.root.stream, delta.root),
        ("boot", index.boot.stream, delta.boot),
    ):
        problem = frames_problem(stream, frames, delta.parts)
        if problem:
            return f"{name}: {problem}"
    return ""


def parts_problem(parts: Sequence[Part]) -> str:
    """The first thing that is wrong with the parts of a delta, or nothing."""
    for part in parts:
        if not 0 < part.size <= LARGEST_PART:
            return f"a part of {part.size} bytes is not from 1 to {LARGEST_PART}"
        if len(part.sha256) != 64 or not set(part.sha256) <= set("0123456789abcdef"):
            return "the digest of a part is not 64 lowercase hex digits"
    return ""


def frames_problem(stream: Stream, frames: Sequence[Frame], parts: Sequence[Part]) -> str:
    """The first thing that is wrong with the frames of one stream, or nothing."""
    if any(frame.segments < 1 for frame in frames):
        return "a frame has no segments"
    total = sum(frame.segments for frame in frames)
    if total != len(stream.segments):
        return f"its frames have {total} segments, the stream {len(stream.segments)}"
    for frame in frames:
        if not frame.size:
            continue
        if frame.segments * stream.segment_size > LARGEST_FRAME:
            return f"a frame of {frame.segments} segments is longer than {LARGEST_FRAME} bytes"
        if not 0 <= frame.part < len(parts):
            return f"there is no part {frame.part}"
        if frame.offset < 0 or not 0 < frame.size <= parts[frame.part].size - frame.offset:
            return f"a payload lies outside part {frame.part}"
    return ""


def patched(stream: Stream, frames: Sequence[Frame], parts: Sequence[Part]) -> tuple[Run, ...]:
    """The frames as runs; one whose payload saves nothing as single segments."""
    runs: list[Run] = []
    for frame, made in made_by(frames, pieces(stream)):
        if frame.size:
            run = Run(tuple(made), Payload(parts[frame.part], frame.offset, frame.size))
            if frame.size < run.full_size:
                runs.append(run)
                continue
        runs += [Run((piece,)) for piece in made]
    return tuple(runs)
