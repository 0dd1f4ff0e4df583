"""Chunks: the segments of everything that is published, named by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import zstandard

from manifests.index import Segment, Stream, chunk_name, chunk_path
from recovery import durable
from recovery.errors import ManifestError, TrustError
from recovery.reporter import Reporter

_BLOCK = 1 << 20


def store_chunks(
    directory: Path, source: Path, wanted: Mapping[str, int], what: str, reporter: Reporter
) -> tuple[int, int]:
    """Copies the chunks that the repository lacks, each verified as it is copied.

    source: a folder with chunks as `imager.segments` leaves it. wanted: their sizes
    by digest. what: where they are from, for errors. Returns how many chunks and bytes were added.
    Raises ManifestError when a chunk is missing or damaged.
    """
    total = sum(wanted.values())
    done = new_chunks = new_bytes = 0
    for sha256, size in wanted.items():
        destination = directory / chunk_path(sha256)
        # Chunks arrive by rename, whole: an existing name has its content.
        if not destination.is_file() or destination.stat().st_size != size:
            durable.make_directory(destination.parent)
            staged = durable.stage_file(destination, _verified(source, sha256, size, what))
            durable.publish_file(staged, destination)
            new_chunks += 1
            new_bytes += size
        done += size
        reporter.progress(done, total)
    return new_chunks, new_bytes


def stored_sizes(segments: Iterable[Segment]) -> dict[str, int]:
    """The sizes of the segments' chunks by digest."""
    return {segment.stored_sha256: segment.stored_size for segment in segments}


def write_stream(directory: Path, stream: Stream, output: Path) -> None:
    """Puts a published stream together again. Raises TrustError when it is not whole."""
    digest = hashlib.sha256()
    try:
        with output.open("wb") as out:
            for segment in stream.segments:
                stored = (directory / chunk_path(segment.stored_sha256)).read_bytes()
                piece = zstandard.decompress(stored, max_output_size=segment.size)
                digest.update(piece)
                out.write(piece)
    except (OSError, zstandard.ZstdError) as error:
        raise _damaged(directory, str(error)) from error
    if digest.hexdigest() != stream.sha256:
        raise _damaged(directory, "a chunk has other contents than were published")


def _verified(source: Path, sha256: str, size: int, what: str) -> Iterator[bytes]:
    """The bytes of a chunk; the last block comes only when all of them are right."""
    digest = hashlib.sha256()
    found = 0
    try:
        with (source / chunk_name(sha256)).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                found += len(block)
                yield block
    except FileNotFoundError as error:
        raise ManifestError(
            f"cannot publish {what}: chunk {sha256} is missing", resolution="build it again"
        ) from error
    if found != size or digest.hexdigest() != sha256:
        # Raised inside stage_file, which deletes the temporary file.
        raise ManifestError(
            f"cannot publish {what}: chunk {sha256} is damaged",
            details=f"{found} bytes, sha256 {digest.hexdigest()}",
            resolution="build it again",
        )


def _damaged(directory: Path, details: str) -> TrustError:
    return TrustError(
        f"cannot read chunks of the repository {directory}: missing or damaged",
        details=details,
        resolution="restore the repository from a mirror or a backup",
    )
