"""The parts of the power-cut campaign: the log, the orders of writes, the disk, the FAT."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from evidence.powercut.crashes import Bounds, Write, crashes, epochs
from evidence.powercut.disk import Disk
from evidence.powercut.fat import Fat, FatError
from evidence.powercut.image import Image
from evidence.powercut.table import find_table
from qemu import gpt
from qemu.blocklog import Request, read_log, write_log
from qemu.errors import MachineError
from tests.qemu.test_protocols import table

MIB = 1 << 20


def _table() -> tuple[gpt.Partition, ...]:
    labels = ("esp", "root-a", "state")
    return tuple(gpt.Partition(n, label, "", "", n * MIB, MIB) for n, label in enumerate(labels, 1))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Three partitions of a MiB; an image of two blocks."""
    (tmp_path / "base").write_bytes(bytes(4 * MIB))
    root = np.frombuffer(b"\1" * 4096 + b"\2" * 4096, dtype=np.uint8)
    return Disk(tmp_path / "base", {"one": Image("1.0", "one", root, root)}, _table())


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    requests = [
        Request(512, 1024, b"x" * 1024),
        Request(0, 0, b"", flush=True),
        Request(4096, 512, b"y" * 512, fua=True),
        Request(8192, 4096, b"", discard=True),
    ]
    write_log(tmp_path / "log", requests)
    assert list(read_log(tmp_path / "log")) == requests
    (tmp_path / "log").write_bytes(b"no log" * 100)
    with pytest.raises(MachineError, match="no log of writes"):
        list(read_log(tmp_path / "log"))


def test_a_flush_ends_an_epoch_and_a_discard_changes_nothing() -> None:
    write = Request(0, 512, b"1" * 512)
    flush = Request(0, 0, b"", flush=True)
    discard = Request(0, 512, b"", discard=True)
    found = list(epochs([flush, write, discard, write, flush, flush, write]))
    assert [[w.number for w in writes] for writes in found] == [[0, 1], [2]]


def test_every_subset_of_few_writes_and_every_place_to_tear_one_is_tried(disk: Disk) -> None:
    """Writes of one sector or two: what a disk may do with them is little, and all of it comes."""
    writes = [
        Write(0, MIB, b"a" * 512),
        Write(1, 3 * MIB, b"b" * 1024),
        Write(2, MIB + 8192, b"c" * 512),
        Write(3, MIB, b"d" * 512),
    ]
    seen = set()
    for _ in crashes(disk, writes, 0, Bounds(sectors=400)):
        content = disk.bytes
        at = (MIB, 3 * MIB, 3 * MIB + 512, MIB + 8192)
        seen.add("".join(chr(content[place]) if content[place] else "-" for place in at))
    first, second, third = "-ad", ("--", "b-", "-b", "bb"), "-c"
    assert seen == {x + y + z for x in first for y in second for z in third}
    # Afterwards all of them are there.
    assert disk.partition("esp")[:1].tobytes() == b"d"


def test_equal_disks_have_equal_keys_and_undoing_leads_back(disk: Disk) -> None:
    before = disk.key()
    one = disk.write(3 * MIB + 4096, b"x" * 512)
    changed = disk.key()
    two = disk.write(3 * MIB + 4096, b"y" * 4096)
    assert len({before, changed, disk.key()}) == 3
    disk.undo(two)
    assert disk.key() == changed
    disk.undo(one)
    assert disk.key() == before
    assert not disk.bytes.any()


def test_a_slot_holds_an_image_when_every_block_is_right(disk: Disk) -> None:
    first = disk.write(2 * MIB, b"\1" * 4096)
    assert disk.holds("root-a") == ""
    disk.write(2 * MIB + 4096, b"\2" * 4096)
    assert disk.holds("root-a") == "one"
    disk.write(2 * MIB + 8192, b"behind the image")
    assert disk.holds("root-a") == "one"
    torn = disk.write(2 * MIB + 512, b"\0" * 512)
    assert disk.holds("root-a") == ""
    disk.undo(torn)
    assert disk.holds("root-a") == "one"
    assert first.data == bytes(4096)


@pytest.fixture
def fat(tmp_path: Path) -> Path:
    """A FAT32 as an ESP is, with long names."""
    image = tmp_path / "esp"
    with image.open("wb") as out:
        out.truncate(64 * MIB)
    (tmp_path / "kernel").write_bytes(bytes(range(256)) * 5000)
    (tmp_path / "entry").write_text("title Orbital\n")
    names = ("::/EFI", "::/EFI/orbital", "::/loader", "::/loader/entries")
    for command in (
        ["mformat", "-i", image, "-F", "::"],
        *(["mmd", "-i", image, name] for name in names),
        ["mcopy", "-i", image, tmp_path / "kernel", "::/EFI/orbital/a.efi"],
        ["mcopy", "-i", image, tmp_path / "entry", "::/loader/entries/orbital-b+2-1.conf"],
        ["mcopy", "-i", image, tmp_path / "entry", "::/loader/entries/orbital-a.conf"],
        ["mdel", "-i", image, "::/loader/entries/orbital-a.conf"],
    ):
        subprocess.run([str(word) for word in command], check=True)
    return image


def test_files_are_read_as_mtools_wrote_them(fat: Path) -> None:
    found = Fat(np.fromfile(fat, dtype=np.uint8))
    assert found.read("EFI/ORBITAL/A.EFI").tobytes() == bytes(range(256)) * 5000
    names = [item.name for item in found.listing("loader/entries") if not item.directory]
    assert names == ["orbital-b+2-1.conf"]
    with pytest.raises(FatError, match="no file"):
        found.read("loader/entries/orbital-a.conf")


def test_a_cut_chain_and_a_lost_piece_of_a_long_name_are_noticed(fat: Path) -> None:
    content = np.fromfile(fat, dtype=np.uint8)
    name = content.tobytes().index("orb".encode("utf-16-le")) - 1
    content[name] = 0xE5  # That part of the name is deleted; the short name stays.
    names = [item.name for item in Fat(content).listing("loader/entries") if not item.directory]
    assert names == ["orbita~1.con"]
    start = int.from_bytes(content[14:16].tobytes(), "little") * 512
    content[start + 200 * 4 : start + 300 * 4] = 0  # Some of the table's numbers.
    with pytest.raises(FatError, match="ends too early"):
        Fat(content).read("EFI/orbital/a.efi")
    content[:512] = 0
    with pytest.raises(FatError, match="no boot sector"):
        Fat(content)


def test_the_backup_of_the_partition_table_is_found() -> None:
    primary = table(["esp", "state"])
    # The backup: its entries at sector 96, its header in the last one.
    header = bytearray(primary[512:604])
    header[72:80] = (96).to_bytes(8, "little")
    header[16:20] = bytes(4)
    header[16:20] = zlib.crc32(header).to_bytes(4, "little")
    primary[96 * 512 : 96 * 512 + 128 * 128 - 512] = primary[1024 : 1024 + 128 * 128 - 512]
    content = np.frombuffer(primary, dtype=np.uint8).copy()
    content = np.concatenate([content, np.zeros(4096, dtype=np.uint8)])
    content[-512:-420] = np.frombuffer(header, dtype=np.uint8)
    whole = find_table(content)
    assert [part.label for part in whole] == ["esp", "state"]
    content[1024:1536] = 7  # The first sector of the primary table's entries.
    assert find_table(content) == whole
    content[-512:] = 0
    with pytest.raises(MachineError):
        find_table(content)
