"""Slice maps of images, and the packs with their slices.

A slice that another version of the image has already stays in that version's pack. So a
publication adds about what changed, and the newest packs are what an older device lacks.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zstandard

from imager.cache import Cache
from imager.cutting import cut
from imager.repository.chunks import write_stream
from imager.repository.images import Build, read_releases
from imager.repository.targets import Targets, add_target, read_target
from manifests.index import OsIndex, Stream, chunk_path
from manifests.slices import (
    BLOCK,
    FORMAT,
    PROBE_SIZE,
    Pack,
    SliceMap,
    Slices,
    digest_of,
    probe_of,
    slices_target,
    stored_slices,
)
from recovery import durable
from recovery.reporter import Reporter

LEVEL = 19
_PACK = 512 << 10
_BATCH = 256

_Key = tuple[bytes, int]
"""Digest and size of a slice."""


@dataclass(frozen=True)
class _Place:
    """Where a stored slice is: bytes offset to offset + size of a pack."""

    pack: Pack
    offset: int
    size: int


@dataclass
class _Packs:
    """The packs of a repository. places: of slices that are in them; open: of the pack that is
    being filled, each with its offset and size."""

    directory: Path
    places: dict[_Key, _Place] = field(default_factory=dict)
    open: dict[_Key, tuple[int, int]] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)

    def add(self, key: _Key, stored: bytes) -> None:
        self.open[key] = (len(self.content), len(stored))
        self.content += stored
        if len(self.content) >= _PACK:
            self.flush()

    def flush(self) -> None:
        """Writes the pack that is being filled."""
        if not self.content:
            return
        pack = Pack(len(self.content), hashlib.sha256(self.content).digest())
        destination = self.directory / chunk_path(pack.sha256.hex())
        durable.make_directory(destination.parent)
        durable.publish_file(durable.stage_file(destination, [bytes(self.content)]), destination)
        for key, (offset, size) in self.open.items():
            self.places[key] = _Place(pack, offset, size)
        self.open.clear()
        self.content.clear()


def add_slices(
    directory: Path, targets: Targets, build: Build, *, cache: Cache, reporter: Reporter
) -> None:
    """Adds the slice map of a build whose chunks are in the repository to targets.

    An image whose segments are not whole blocks has none. Raises TrustError for damaged chunks
    or maps.
    """
    index = build.index
    streams = (index.root.stream, index.boot.stream)
    if any(stream.segment_size % BLOCK for stream in streams):
        return
    reporter.stage(f"slices of {build.name}")
    packs = _Packs(directory, dict(_published(directory, targets, build)))
    with tempfile.TemporaryDirectory(dir=cache.shared("slices")) as work:
        found = [
            list(_slices(directory, stream, Path(work) / "stream", packs, reporter))
            for stream in streams
        ]
    packs.flush()
    root, boot = ([packs.places[key] for key, _ in slices] for slices in found)
    used = list(dict.fromkeys(place.pack for place in (*root, *boot)))
    document = SliceMap(
        FORMAT,
        _encoded(found[0], root, used),
        _encoded(found[1], boot, used),
        tuple(used),
    )
    path = slices_target(index.system, index.board, index.version)
    add_target(directory, targets, path, msgspec.msgpack.encode(document))


def _slices(
    directory: Path, stream: Stream, file: Path, packs: _Packs, reporter: Reporter
) -> Iterator[tuple[_Key, int]]:
    """Key and probe of each slice of a stream; those that no pack has are added to one."""
    write_stream(directory, stream, file)
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as image,
    ):
        spans = cut(image, stream.size, stream.segment_size)
        with ThreadPoolExecutor() as pool:
            for at in range(0, len(spans), _BATCH):
                # A batch at a time: what is in memory does not grow with the image.
                batch = [bytes(image[start:end]) for start, end in spans[at : at + _BATCH]]
                keys = [(digest_of(data), len(data)) for data in batch]
                missing = {
                    key: data
                    for key, data in zip(keys, batch, strict=True)
                    if key not in packs.places and key not in packs.open
                }
                for key, stored in zip(missing, pool.map(_compressed, missing.values())):  # noqa: B905
                    packs.add(key, stored)
                for key, data in zip(keys, batch, strict=True):
                    yield key, probe_of(data)
                reporter.progress(spans[min(at + _BATCH, len(spans)) - 1][1], stream.size)
    file.unlink()


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def _encoded(
    slices: Sequence[tuple[_Key, int]], places: Sequence[_Place], packs: Sequence[Pack]
) -> Slices:
    starts: dict[Pack, int] = {}
    total = 0
    for pack in packs:
        starts[pack] = total
        total += pack.size
    skips = []
    end = 0
    for place in places:
        start = starts[place.pack] + place.offset
        skips.append(start - end)
        end = start + place.size
    return Slices(
        tuple(-(-size // BLOCK) for (_, size), _ in slices),
        tuple(place.size for place in places),
        tuple(skips),
        b"".join(probe.to_bytes(PROBE_SIZE, "big") for _, probe in slices),
        b"".join(digest for (digest, _), _ in slices),
    )


def _published(directory: Path, targets: Targets, build: Build) -> Iterator[tuple[_Key, _Place]]:
    """Slices that versions on offer have, the newest last; of packs that are there."""
    for release in read_releases(directory, targets, build.base):
        index = build.index
        target = targets.get(slices_target(index.system, index.board, release.version))
        if target is None:
            continue
        known = msgspec.msgpack.decode(read_target(directory, target), type=SliceMap)
        if known.format != FORMAT:
            continue
        image = targets[f"{build.base}/{release.version}/index.json"]
        old = msgspec.json.decode(read_target(directory, image), type=OsIndex)
        files = [directory / chunk_path(pack.sha256.hex()) for pack in known.packs]
        there = [
            file.is_file() and file.stat().st_size == pack.size
            for file, pack in zip(files, known.packs, strict=True)
        ]
        for slices, stream in ((known.root, old.root.stream), (known.boot, old.boot.stream)):
            left = stream.size
            for item in stored_slices(slices, known.packs):
                size = min(item.blocks * BLOCK, left)
                left -= size
                if there[item.pack]:
                    place = _Place(known.packs[item.pack], item.offset, item.size)
                    yield (item.digest, size), place
