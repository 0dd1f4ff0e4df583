"""Chunks: the segments of everything that is published, named by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from imager.builddir import chunk_name
from manifests.index import Segment, Stream
from recovery import durable
from recovery.errors import ManifestError, TrustError
from recovery.reporter import Reporter

_BLOCK = 1 << 20


def store_chunks(
    directory: Path, source: Path, segments: Iterable[Segment], what: str, reporter: Reporter
) -> tuple[int, int]:
    """Copies the chunks that the repository lacks, each verified as it is copied.

    source: a folder with chunks as `imager.segments` leaves it. what: where
    they are from, for errors. Returns how many chunks and bytes were added.
    Raises ManifestError when a chunk is missing or damaged.
    """
    wanted = list({segment.stored_sha256: segment for segment in segments}.values())
    total = sum(segment.stored_size for segment in wanted)
    done = new_chunks = new_bytes = 0
    for segment in wanted:
        destination = _file(directory, segment)
        # Chunks arrive by rename, whole: an existing name has its content.
        if not destination.is_file() or destination.stat().st_size != segment.stored_size:
            durable.make_directory(destination.parent)
            chunk = source / chunk_name(segment.stored_sha256)
            staged = durable.stage_file(destination, _verified(chunk, segment, what))
            durable.publish_file(staged, destination)
            new_chunks += 1
            new_bytes += segment.stored_size
        done += segment.stored_size
        reporter.progress(done, total)
    return new_chunks, new_bytes


def write_stream(directory: Path, stream: Stream, output: Path) -> None:
    """Puts a published stream together again. Raises TrustError when it is not whole."""
    digest = hashlib.sha256()
    try:
        with output.open("wb") as out:
            for segment in stream.segments:
                stored = _file(directory, segment).read_bytes()
                piece = zstandard.decompress(stored, max_output_size=segment.size)
                digest.update(piece)
                out.write(piece)
    except (OSError, zstandard.ZstdError) as error:
        raise _damaged(directory, str(error)) from error
    if digest.hexdigest() != stream.sha256:
        raise _damaged(directory, "a chunk has other contents than were published")


def _file(directory: Path, segment: Segment) -> Path:
    return directory / "chunks" / chunk_name(segment.stored_sha256)


def _verified(source: Path, segment: Segment, what: str) -> Iterator[bytes]:
    """The bytes of a chunk; the last block comes only when all of them are right."""
    digest = hashlib.sha256()
    size = 0
    try:
        with source.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                yield block
    except FileNotFoundError as error:
        raise ManifestError(
            f"cannot publish {what}: chunk {source.name} is missing", resolution="build it again"
        ) from error
    if size != segment.stored_size or digest.hexdigest() != segment.stored_sha256:
        # Raised inside stage_file, which deletes the temporary file.
        raise ManifestError(
            f"cannot publish {what}: chunk {source.name} is damaged",
            details=f"{size} bytes, sha256 {digest.hexdigest()}",
            resolution="build it again",
        )


def _damaged(directory: Path, details: str) -> TrustError:
    return TrustError(
        f"cannot read chunks of the repository {directory}: missing or damaged",
        details=details,
        resolution="restore the repository from a mirror or a backup",
    )
