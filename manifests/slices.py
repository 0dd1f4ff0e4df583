"""The slice map: an image in small slices, for devices that have no delta to it. A TUF target.

It stands beside the index as ``os/SYSTEM/BOARD/VERSION/slices.msgpack``, in MessagePack
(docs/slices.md). A device looks for each slice in its running image, wherever it lies there at a
multiple of BLOCK, and fetches what it does not find out of packs: files ``chunks/XX/SHA256``
with slices, each one zstd frame, one after the other. How a publisher cuts is its own affair.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

FORMAT = 1
BLOCK = 4096
LARGEST_SLICE = 256 << 10
LARGEST_PACK = 1 << 20
PROBE_SIZE = 4
DIGEST_SIZE = 8


class Slices(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The slices of a stream in order; each begins where the one before ends, none reaches
    over the end of a segment.

    blocks: of BLOCK bytes; the stream's last slice may have less. stored: bytes in its pack.
    skips: its place in all packs, one after the other, minus the end of the slice before it.
    probes, digests: of each slice, by `probe_of` and `digest_of`.
    """

    blocks: tuple[int, ...]
    stored: tuple[int, ...]
    skips: tuple[int, ...]
    probes: bytes
    digests: bytes


class Pack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file with slices. size in bytes, sha256: 32 bytes."""

    size: int
    sha256: bytes


class SliceMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The slices of an image's streams, and the packs that hold them."""

    format: int
    root: Slices
    boot: Slices
    packs: tuple[Pack, ...]


def probe_of(data: bytes | memoryview) -> int:
    """What tells quickly where a slice could be: the CRC-32 of its first block."""
    return zlib.crc32(data[:BLOCK])


def digest_of(data: bytes | memoryview) -> bytes:
    """What tells slices apart: the beginning of SHA-256. The segments' digests still decide."""
    return hashlib.sha256(data).digest()[:DIGEST_SIZE]


def slices_target(system: str, board: str, version: str) -> str:
    """The target path of an image's map."""
    return f"os/{system}/{board}/{version}/slices.msgpack"


class StoredSlice(NamedTuple):
    """A slice as the map has it. It is stored in bytes offset to offset + size of a pack."""

    blocks: int
    probe: int
    digest: bytes
    pack: int
    offset: int
    size: int


def stored_slices(slices: Slices, packs: Sequence[Pack]) -> Iterator[StoredSlice]:
    """The slices of a stream in order. Raises ValueError when the map makes no sense."""
    count = len(slices.blocks)
    if not (
        count == len(slices.stored) == len(slices.skips)
        and len(slices.probes) == count * PROBE_SIZE
        and len(slices.digests) == count * DIGEST_SIZE
    ):
        raise ValueError("its lists do not have the same length")
    ends = list(accumulate(pack.size for pack in packs))
    place = 0
    for number, (blocks, size, skip) in enumerate(
        zip(slices.blocks, slices.stored, slices.skips, strict=True)
    ):
        place += skip
        pack = bisect_right(ends, place)
        if place < 0 or size < 1 or pack == len(ends) or place + size > ends[pack]:
            raise ValueError(f"slice {number} lies in no pack")
        probe = slices.probes[number * PROBE_SIZE : (number + 1) * PROBE_SIZE]
        yield StoredSlice(
            blocks,
            int.from_bytes(probe, "big"),
            slices.digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE],
            pack,
            place - ends[pack] + packs[pack].size,
            size,
        )
        place += size
