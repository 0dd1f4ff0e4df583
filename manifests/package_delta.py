"""The delta document of a package: how to make one image from one other. Signed as a TUF target.

It stands beside what is offered of the package, signed by the same publisher, as
``packages/NAME/delta-NEW-OLD.json`` where NEW and OLD are the beginnings of the two
images' fs-verity digests: the base is found by its name in the device's store. Payloads
and parts are those of `manifests.delta`; nothing here is trusted to be right either.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from manifests.delta import Frame, Part, made_by
from manifests.index import Segment, Stream

FORMAT = 1
RISK = 0.02
"""What failed attempts may cost a device, as a share of the full download."""
_LETTERS = 16


class PackageDelta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """digest: of the image that it makes. from_version, from_digest: the base image.
    frames: of the image's stream."""

    format: int
    digest: str
    from_version: str
    from_digest: str
    frames: tuple[Frame, ...]
    parts: tuple[Part, ...]


def package_delta_target(package: str, digest: str, from_digest: str) -> str:
    """The target path of the delta between two images of a package."""
    return f"packages/{package}/delta-{digest[:_LETTERS]}-{from_digest[:_LETTERS]}.json"


def package_deltas(pattern: str) -> str:
    """The pattern of target paths of all deltas of packages with such a name."""
    return f"packages/{pattern}/delta-*.json"


def makes(path: str, digest: str) -> bool:
    """Whether a target path is that of a delta to the image with that digest."""
    return path.rpartition("/")[2].startswith(f"delta-{digest[:_LETTERS]}-")


def fetch_bytes(frames: Sequence[Frame], parts: Sequence[Part], stream: Stream) -> int:
    """Bytes to fetch with the delta: its parts, and in full the segments without a payload."""
    total = sum(part.size for part in parts)
    for frame, segments in made_by(frames, stream.segments):
        total += 0 if frame.size else full_bytes(segments)
    return total


def full_bytes(segments: Sequence[Segment]) -> int:
    """Bytes to fetch for segments in full."""
    return sum(segment.stored_size for segment in segments)


def useful(
    frames: Sequence[Frame], parts: Sequence[Part], stream: Stream
) -> tuple[tuple[Frame, ...], tuple[Part, ...]]:
    """The delta without what no device would try.

    A device takes the parts by size, the smallest first, and each only if all that it has
    fetched of parts could turn out to be of no use within RISK of the full download and what
    the payloads before have saved it (`updater.ledger`).
    """
    allowance = int(stream.stored_size * RISK)
    kept: list[int] = []
    for number in sorted(range(len(parts)), key=lambda at: (parts[at].size, parts[at].sha256)):
        allowance -= parts[number].size
        if allowance < 0:
            break
        kept.append(number)
        for frame, segments in made_by(frames, stream.segments):
            if frame.size and frame.part == number:
                allowance += full_bytes(segments)
    place = {number: new for new, number in enumerate(sorted(kept))}
    return (
        tuple(
            Frame(frame.segments, place[frame.part], frame.offset, frame.size)
            if frame.size and frame.part in place
            else Frame(frame.segments)
            for frame in frames
        ),
        tuple(parts[number] for number in sorted(kept)),
    )
