"""Slice maps: wrong ones are refused, and looking for slices has bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from imager.cache import Cache
from imager.repository.deltas import DeltaMaker
from manifests.index import OsIndex
from manifests.slices import LARGEST_SLICE, Pack, SliceMap, Slices, digest_of
from recovery.errors import ManifestError
from tests.updater import images
from tests.updater.images import BuiltImage, build_image, content
from tests.updater.publisher import Publisher
from updater.runs import Slice
from updater.scan import find
from updater.slices import decode_slices


@dataclass(frozen=True)
class Published:
    """An image and its map."""

    image: BuiltImage
    map: SliceMap

    @property
    def index(self) -> OsIndex:
        """Of the image."""
        return self.image.index


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """An image of 2 MiB in segments of 512 KiB, as published."""
    base = tmp_path_factory.mktemp("published")
    publisher = Publisher(base / "publisher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "SEGMENT", 512 << 10)
        image = build_image(base / "build", "1.0", data=content("root", 2 << 20))
    publisher.publish(image, deltas=DeltaMaker(Cache(base / "cache"), last=0))
    (path,) = publisher.repository.glob("targets/**/*.slices.msgpack")
    return Published(image, msgspec.msgpack.decode(path.read_bytes(), type=SliceMap))


def change_root(found: SliceMap, **changes: object) -> SliceMap:
    """The map with other lists for the root."""
    return msgspec.structs.replace(found, root=msgspec.structs.replace(found.root, **changes))


def without_last(found: SliceMap) -> SliceMap:
    """The map without the root's last slice."""
    root = found.root
    return change_root(
        found,
        blocks=root.blocks[:-1],
        stored=root.stored[:-1],
        skips=root.skips[:-1],
        probes=root.probes[:-4],
        digests=root.digests[:-8],
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: msgspec.structs.replace(m, format=2), "its format is 2"),
        (lambda m: change_root(m, blocks=m.root.blocks[:-1]), "do not have the same length"),
        (lambda m: change_root(m, probes=m.root.probes[:-1]), "do not have the same length"),
        (lambda m: change_root(m, digests=b""), "do not have the same length"),
        (lambda m: change_root(m, blocks=(0, *m.root.blocks[1:])), "slice 0 of 0 bytes"),
        (lambda m: change_root(m, blocks=(-1, *m.root.blocks[1:])), "slice 0 of -4096 bytes"),
        (lambda m: change_root(m, blocks=(65, *m.root.blocks[1:])), "slice 0 of 266240 bytes"),
        (lambda m: change_root(m, blocks=(64,) * len(m.root.blocks)), "longer than the stream"),
        (without_last, "its slices have"),
        (lambda m: change_root(m, blocks=(15, *m.root.blocks[1:])), "reaches over the end"),
        (lambda m: change_root(m, stored=(0, *m.root.stored[1:])), "slice 0 lies in no pack"),
        (lambda m: change_root(m, stored=(1 << 40, *m.root.stored[1:])), "slice 0 lies in no pack"),
        (lambda m: change_root(m, stored=(90_000, *m.root.stored[1:])), "90000 stored bytes"),
        (lambda m: change_root(m, skips=(-1, *m.root.skips[1:])), "slice 0 lies in no pack"),
        (lambda m: change_root(m, skips=(1 << 50, *m.root.skips[1:])), "slice 0 lies in no pack"),
        (lambda m: msgspec.structs.replace(m, packs=()), "slice 0 lies in no pack"),
        (lambda m: msgspec.structs.replace(m, packs=(Pack(0, bytes(32)),)), "a pack of 0 bytes"),
        (lambda m: msgspec.structs.replace(m, packs=(Pack(9, b"x"),)), "a pack of 9 bytes"),
        (lambda m: msgspec.structs.replace(m, boot=Slices((), (), (), b"", b"")), "have 0 bytes"),
    ],
)
def test_a_map_with_wrong_numbers_is_not_used(
    published: Published,
    change: Callable[[SliceMap], SliceMap],
    expected: str,
) -> None:
    data = msgspec.msgpack.encode(change(published.map))
    with pytest.raises(ManifestError) as caught:
        decode_slices(data, published.index)
    assert expected in caught.value.details


def test_a_map_that_is_cut_short_is_not_used(published: Published) -> None:
    data = msgspec.msgpack.encode(published.map)
    decode_slices(data, published.index)
    for size in range(0, len(data), 97):
        with pytest.raises(ManifestError):
            decode_slices(data[:size], published.index)


class Memory:
    """A base in memory that counts what is read."""

    def __init__(self, data: bytes) -> None:
        """data: all of it."""
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at offset."""
        return self.data[offset : offset + size]


def test_many_slices_that_begin_alike_do_not_cost_without_end(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = decode_slices(msgspec.msgpack.encode(published.map), published.index)
    zero = [
        replace(item, probe=0xC71C0011, digest=bytes([number % 256] * 8), size=LARGEST_SLICE)
        for number, item in enumerate(root)
    ]
    hashed = 0

    def counted(data: memoryview) -> bytes:
        nonlocal hashed
        hashed += len(data)
        return digest_of(data)

    monkeypatch.setattr("updater.scan.digest_of", counted)
    assert find(Memory(bytes(16 << 20)), zero, lambda _done, _total: None) == {}
    assert 0 < hashed <= 16 * 16 * LARGEST_SLICE


def test_a_slice_is_found_across_windows(published: Published) -> None:
    root, _ = decode_slices(msgspec.msgpack.encode(published.map), published.index)
    item: Slice = root[3]
    data = published.image.root[item.offset : item.offset + item.size]
    at = (4 << 20) - 4096
    found = find(Memory(bytes(at) + data), root, lambda _done, _total: None)
    assert found == {item.digest: at}
