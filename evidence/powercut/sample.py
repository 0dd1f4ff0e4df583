"""A recording made small enough to be kept in the repository: expand, and the tool that shrinks.

The content of images is left out: of each root one block stays, of each boot artifact the first,
and they are marked by their root hash; of the rescue system, which nothing writes, nothing stays.
Everything else (partition table, FAT, small files, the state file system, the writes) is as it was
recorded.

    python -m evidence.powercut.sample WORK/NAME FIRST OUTPUT     from flush FIRST to the end
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from evidence.powercut.crashes import Write, epochs
from evidence.powercut.disk import BLOCK, Disk
from evidence.powercut.fat import Bytes, Fat, FatError
from evidence.powercut.image import Image
from evidence.powercut.record import find
from evidence.powercut.replay import Recording, find_images
from qemu.blocklog import Request, read_log, write_log
from recovery import device as device_file


class Sample(msgspec.Struct, frozen=True):
    """A small recording.

    size: bytes of the disk. blocks: those that are not zero, by number. table: where FATs lie
    (offset and size in bytes), which are stored as differences of their numbers. images: root
    hash and size of the boot artifact. writes: offset and data, by flush. config: device.json.
    """

    size: int
    blocks: dict[int, bytes]
    table: tuple[int, int]
    fat: bytes
    images: dict[str, int]
    writes: list[list[tuple[int, bytes]]]
    config: bytes


def expand(path: Path, folder: Path, name: str = "sample") -> Recording:
    """The recording, written into folder."""
    data = zstandard.decompress(path.read_bytes())
    sample = msgspec.msgpack.decode(data, type=Sample)
    base, log = folder / f"{name}.raw", folder / f"{name}.log"
    with base.open("wb") as out:
        out.truncate(sample.size)
        for number, content in sample.blocks.items():
            out.seek(number * BLOCK)
            out.write(content)
        out.seek(sample.table[0])
        out.write(np.cumsum(np.frombuffer(sample.fat, dtype="<u4"), dtype="<u4").tobytes())
    write_log(log, _requests(sample.writes))
    images = {
        root_hash: Image("", root_hash, _artifact(root_hash, size), _mark(root_hash))
        for root_hash, size in sample.images.items()
    }
    return Recording(name, base, log, device_file.decode(sample.config), images)


def shrink(recording: Recording, config: bytes, first: int) -> bytes:
    """The recording from flush `first` on, as `expand` reads it."""
    every = list(epochs(read_log(recording.log)))
    images, table = find_images(recording, every)
    disk = Disk(recording.base, images, table)
    for write in (write for writes in every[:first] for write in writes):
        disk.write(write.offset, write.data)
    esp = disk.partitions["esp"]
    for slot in "ab":
        part = disk.partitions[f"root-{slot}"]
        held = disk.holds(part.label)
        disk.bytes[part.offset : part.offset + part.size] = 0
        if held:
            disk.bytes[part.offset : part.offset + BLOCK] = _mark(held)
        _empty_artifact(disk.partition("esp"), slot, images)
    if "rescue" in disk.partitions:
        disk.partition("rescue")[:] = 0
    reserved = int.from_bytes(disk.partition("esp")[14:16].tobytes(), "little") * 512
    tables = 2 * int.from_bytes(disk.partition("esp")[36:40].tobytes(), "little") * 512
    where = (esp.offset + reserved, tables)
    fat = disk.bytes[where[0] : sum(where)].view("<u4")
    differences = np.diff(fat, prepend=np.zeros(1, dtype="<u4")).astype("<u4").tobytes()
    disk.bytes[where[0] : sum(where)] = 0
    whole = disk.bytes[: disk.bytes.size // BLOCK * BLOCK].reshape(-1, BLOCK)
    used = [int(number) for number in np.flatnonzero(whole.any(axis=1))]
    sample = Sample(
        disk.bytes.size,
        {number: whole[number].tobytes() for number in used},
        where,
        differences,
        {image.root_hash: image.artifact.size for image in images.values()},
        [[(write.offset, write.data) for write in writes] for writes in every[first:]],
        config,
    )
    return zstandard.ZstdCompressor(level=19).compress(msgspec.msgpack.encode(sample))


def _empty_artifact(esp: Bytes, slot: str, images: dict[str, Image]) -> None:
    """Leaves of a slot's boot artifact only the mark of its image."""
    try:
        fat = Fat(esp)
        content = fat.read(f"EFI/orbital/{slot}.efi")
        runs = fat.where(f"EFI/orbital/{slot}.efi")
    except FatError:
        return
    found = [i.root_hash for i in images.values() if np.array_equal(i.artifact, content)]
    left = _artifact(found[0], content.size) if found else np.zeros(content.size, dtype=np.uint8)
    at = 0
    for start, end in runs:
        piece = left[at : at + end - start]
        esp[start : start + piece.size] = piece
        at += piece.size


def _mark(root_hash: str) -> Bytes:
    return np.frombuffer(root_hash.encode().ljust(BLOCK, b"\1"), dtype=np.uint8)


def _artifact(root_hash: str, size: int) -> Bytes:
    content = np.zeros(size, dtype=np.uint8)
    content[:BLOCK] = _mark(root_hash)
    return content


def _requests(writes: list[list[tuple[int, bytes]]]) -> Iterator[Request]:
    for between in writes:
        for offset, data in between:
            yield Request(offset, len(data), data)
        yield Request(0, 0, b"", flush=True)


def without_flushes(recording: Recording) -> Recording:
    """The same recording on a disk that ignores flushes: for tests of the judge."""
    log = recording.log.with_suffix(".unflushed")
    every = list(epochs(read_log(recording.log)))
    write_log(log, (_request(write) for writes in every for write in writes))
    return dataclasses.replace(recording, log=log)


def _request(write: Write) -> Request:
    return Request(write.offset, len(write.data), write.data)


if __name__ == "__main__":
    _place, _first, _output = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    _found = find(_place.parent, _place.name)
    assert _found is not None
    _output.write_bytes(shrink(_found, (_place / "device.json").read_bytes(), _first))
