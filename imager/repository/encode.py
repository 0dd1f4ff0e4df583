"""Deltas between two published streams: made from the repository's own chunks, in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from imager.repository.chunks import write_stream
from manifests.delta import Frame, Part
from manifests.index import Stream, chunk_path
from recovery.reporter import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from imager.delta.parts import Packer

_HEAD = 4096


def encode(
    directory: Path,
    before: Stream,
    after: Stream,
    packer: Packer,
    scratch: Path,
    *,
    pieces: int,
    workers: int | None,
    reporter: Reporter,
) -> tuple[Frame, ...]:
    """Adds the payloads that make one stream out of the other to packer; where they are.

    scratch: a folder for both images. pieces: segments of a frame. Raises TrustError for
    damaged chunks, ToolError.
    """
    # What makes deltas is large, and most publications need none anew.
    from imager.delta.erofs import is_erofs
    from imager.delta.stream import make

    first, second = scratch / "old", scratch / "new"
    write_stream(directory, before, first)
    write_stream(directory, after, second)
    made = make(
        first,
        before.size,
        second,
        after.size,
        piece=after.segment_size,
        full_sizes=[segment.stored_size for segment in after.segments],
        kind="erofs" if is_erofs(_head(first)) and is_erofs(_head(second)) else "plain",
        pieces=pieces,
        workers=workers,
        reporter=reporter,
    )
    first.unlink()
    second.unlink()
    return packer.add(made)


def write_parts(packer: Packer, result: Path) -> tuple[Part, ...]:
    """Puts the parts among the chunks of result."""
    parts = []
    for content in packer.parts:
        part = Part(len(content), hashlib.sha256(content).hexdigest())
        chunk = result / chunk_path(part.sha256)
        chunk.parent.mkdir(parents=True, exist_ok=True)
        chunk.write_bytes(content)
        parts.append(part)
    return tuple(parts)


def identity(stream: Stream) -> str:
    """What of a stream decides what a delta looks like."""
    return f"{stream.sha256} {stream.segment_size}"


def code() -> Iterator[Path]:
    """Code that decides what a delta looks like."""
    here = Path(__file__).resolve()
    yield here
    for folder in (here.parents[1] / "delta", here.parents[2] / "delta"):
        yield from sorted(folder.rglob("*.py"))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)
