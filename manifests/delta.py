"""The delta document: how to make one image from one other. Signed as a TUF target.

It stands beside the index of the image that it makes, as
``os/SYSTEM/BOARD/VERSION/delta-HASH.json`` where HASH is the beginning of the
base image's root hash. Payloads (docs/delta-format.md) lie one after the other
in parts, files ``chunks/XX/SHA256`` like all chunks. Nothing here is trusted to
be right: what a payload makes counts when it has the digests of the index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from manifests.index import OsIndex

FORMAT = 1
LARGEST_PART = 4 << 20
"""Bytes of a part that a device is willing to hold in memory."""
LARGEST_FRAME = 16 << 20
"""Bytes of the image that one payload may make."""

_Item = TypeVar("_Item")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file with payloads. size in bytes, sha256 in hex."""

    size: int
    sha256: str


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Consecutive segments of a stream that one payload makes, from where the one before ended.

    segments: how many. part: number of the part that holds the payload; offset,
    size: where in it, in bytes. Size 0: there is no payload, fetch the segments.
    """

    segments: int
    part: int = 0
    offset: int = 0
    size: int = 0


class Delta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """from_version, from_root_hash: the base image. root, boot: the frames of its streams.

    libzstd: the release that closes clusters of a compressed image as they were, as
    ZSTD_VERSION_NUMBER (10507 is 1.5.7); 0 when none are closed.
    """

    format: int
    from_version: str
    from_root_hash: str
    root: tuple[Frame, ...]
    boot: tuple[Frame, ...]
    parts: tuple[Part, ...]
    libzstd: int = 0


def made_by(
    frames: Sequence[Frame], items: Sequence[_Item]
) -> Iterator[tuple[Frame, Sequence[_Item]]]:
    """Each frame with what it makes. items: one for each segment of the stream."""
    at = 0
    for frame in frames:
        yield frame, items[at : at + frame.segments]
        at += frame.segments


def fetch_bytes(delta: Delta, index: OsIndex) -> int:
    """Bytes to fetch with the delta: its parts, and in full the segments without a payload."""
    total = sum(part.size for part in delta.parts)
    for stream, frames in ((index.root.stream, delta.root), (index.boot.stream, delta.boot)):
        for frame, segments in made_by(frames, stream.segments):
            total += 0 if frame.size else sum(segment.stored_size for segment in segments)
    return total


def delta_target(system: str, board: str, version: str, from_root_hash: str) -> str:
    """The target path of the delta to a version from the image with that root hash."""
    return f"os/{system}/{board}/{version}/delta-{from_root_hash[:16]}.json"
