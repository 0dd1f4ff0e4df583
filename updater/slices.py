"""The slice map of an image, checked; and the way to the image by slices. Pure.

The signature says who made the map, not that it makes sense: every number is compared with the
signed index before anything relies on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from manifests.decoding import decode_msgpack
from manifests.delta import Part
from manifests.index import OsIndex, Stream
from manifests.slices import (
    BLOCK,
    FORMAT,
    LARGEST_PACK,
    LARGEST_SLICE,
    Pack,
    SliceMap,
    Slices,
    stored_slices,
)
from updater.index import invalid
from updater.runs import Payload, Piece, Run, Slice, Way, pieces


def decode_slices(data: bytes, index: OsIndex) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """The slices of root and boot. Raises ManifestError when the map is not valid."""
    try:
        found = decode_msgpack(data, SliceMap)
        if found.format != FORMAT:
            raise ValueError(f"its format is {found.format}, expected {FORMAT}")
        parts = [_part(pack) for pack in found.packs]
        return (
            tuple(_slices(index.root.stream, found.root, found.packs, parts)),
            tuple(_slices(index.boot.stream, found.boot, found.packs, parts)),
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise invalid("the slice map", str(error)) from error


def by_slices(
    index: OsIndex,
    root: Sequence[Slice],
    boot: Sequence[Slice],
    *,
    places: tuple[Mapping[bytes, int], Mapping[bytes, int]],
    from_version: str,
) -> Way:
    """The way that takes from the running image what it has.

    places: of slices found in the running root and boot artifact, by digest. A segment whose
    slices cost as much as itself is fetched as it is.
    """
    return Way(
        # What costs least first: it saves what a failed attempt may then cost.
        tuple(sorted(_runs(index.root.stream, root, places[0]), key=_cost)),
        tuple(sorted(_runs(index.boot.stream, boot, places[1]), key=_cost)),
        from_version,
    )


def _cost(run: Run) -> int:
    return run.cost


def _runs(stream: Stream, slices: Sequence[Slice], places: Mapping[bytes, int]) -> Iterator[Run]:
    at = 0
    for piece in pieces(stream):
        end = piece.offset + piece.segment.size
        mine: list[Slice] = []
        while at < len(slices) and slices[at].offset < end:
            place = places.get(slices[at].digest)
            mine.append(slices[at] if place is None else replace(slices[at], local=place))
            at += 1
        run = Run((piece,), slices=tuple(mine))
        local = any(item.local is not None for item in mine)
        yield run if local and run.cost < run.full_size else Run((piece,))


def _part(pack: Pack) -> Part:
    if not 0 < pack.size <= LARGEST_PACK or len(pack.sha256) != 32:
        raise ValueError(f"a pack of {pack.size} bytes is not from 1 to {LARGEST_PACK}")
    return Part(pack.size, pack.sha256.hex())


def _slices(
    stream: Stream, slices: Slices, packs: Sequence[Pack], parts: Sequence[Part]
) -> Iterator[Slice]:
    segments: Iterator[Piece] = iter(pieces(stream))
    at = end = 0
    for number, item in enumerate(stored_slices(slices, packs)):
        if at == end:
            piece = next(segments, None)
            if piece is None:
                raise ValueError("its slices are longer than the stream")
            end = at + piece.segment.size
        size = item.blocks * BLOCK
        if not 0 < size <= LARGEST_SLICE:
            raise ValueError(f"slice {number} of {size} bytes is not from 1 to {LARGEST_SLICE}")
        size = min(size, stream.size - at)
        if at + size > end:
            raise ValueError(f"slice {number} reaches over the end of a segment")
        # zstd never makes data longer than this (ZSTD_compressBound).
        if item.size > size + size // 128 + 1024:
            raise ValueError(f"slice {number} cannot have {item.size} stored bytes")
        payload = Payload(parts[item.pack], item.offset, item.size)
        yield Slice(at, size, item.probe, item.digest, payload)
        at += size
    if at != stream.size:
        raise ValueError(f"its slices have {at} bytes, the stream {stream.size}")
