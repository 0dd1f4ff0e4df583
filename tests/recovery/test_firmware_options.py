"""The firmware's boot option for rescue, on a directory that stands for efivarfs and a real GPT."""

from __future__ import annotations

import dataclasses
import struct
import uuid
import zlib
from pathlib import Path

import pytest

from imager.firmware.systemd_boot import LOADER_PATHS
from recovery import efivars, gpt
from recovery.bootcontrol import firmware_options
from recovery.bootcontrol.firmware_options import (
    COUNT_FILE,
    DESCRIPTION,
    FILES,
    MOST_WRITES,
    Option,
    Write,
    decode_option,
    decode_order,
    encode_option,
    encode_order,
    ensure,
    plan,
    rescue_option,
)
from recovery.device import RescuePolicy
from recovery.errors import StateError
from tests.recovery.builders import CONFIG
from tests.recovery.powercut import power_cut

RESCUED = dataclasses.replace(
    CONFIG, architecture="x86_64", rescue=RescuePolicy(partition="rescue")
)
GUID = bytes(range(16))
PLACE = gpt.Entry(2, GUID, 2048, 4096)
WANTED = rescue_option(PLACE, FILES["x86_64"])
DISK = encode_option(Option(1, "UEFI Misc Device", b"\x7f\xff\x04\x00", b"auto"))
STALE = encode_option(rescue_option(gpt.Entry(2, GUID, 4096, 4096), FILES["x86_64"]))


def test_the_option_is_the_one_of_the_specification() -> None:
    """Bytes written by hand from UEFI 3.1.3 and 10.3.5."""
    name = "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")
    disk = struct.pack("<BBHIQQ16sBB", 4, 1, 42, 2, 2048, 4096, GUID, 2, 2)
    path = disk + struct.pack("<BBH", 4, 4, 4 + len(name)) + name + b"\x7f\xff\x04\x00"
    title = "Orbital rescue\0".encode("utf-16-le")
    assert encode_option(WANTED) == struct.pack("<IH", 1, len(path)) + title + path


def test_the_files_are_those_that_the_imager_writes() -> None:
    assert {name: path[1:].replace("\\", "/") for name, path in FILES.items()} == LOADER_PATHS


@pytest.mark.parametrize("cut", range(len(DISK)))
def test_an_option_that_is_cut_short_is_none_or_another(cut: int) -> None:
    assert decode_option(DISK) == Option(1, "UEFI Misc Device", b"\x7f\xff\x04\x00", b"auto")
    found = decode_option(DISK[:cut])
    assert found is None or encode_option(found) == DISK[:cut]


def order(*numbers: int) -> Write:
    return Write("BootOrder", encode_order(numbers))


NEW = Write("Boot0001", encode_option(WANTED))


@pytest.mark.parametrize(
    ("known", "numbers", "current", "writes"),
    [
        ({0: DISK}, (0,), 0, (NEW, order(0, 1))),
        ({0: DISK, 1: DISK}, (1, 0), 1, (Write("Boot0002", NEW.value), order(1, 0, 2))),
        # Cut before the order was written.
        ({0: DISK, 1: NEW.value}, (0,), 0, (order(0, 1),)),
        ({0: DISK, 1: NEW.value}, (0, 1), 0, ()),
        # Somebody plugged in a stick afterwards.
        ({0: DISK, 1: NEW.value, 2: DISK}, (0, 1, 2), 0, ()),
        # The disk was partitioned anew.
        ({0: DISK, 1: STALE}, (0, 1), 0, (NEW, order(0, 1))),
        # It would start before the slots.
        ({0: DISK, 1: NEW.value}, (1, 0), 0, (order(0, 1),)),
        ({0: DISK, 1: NEW.value}, (1, 0, 1), 0, (order(0, 1),)),
        # No place that is after the slots.
        ({}, (), None, ()),
        ({0: DISK}, (0,), None, ()),
        ({0: DISK}, (0,), 7, ()),
        ({0: DISK, 1: NEW.value}, (1, 0), 1, ()),
    ],
)
def test_what_is_written(
    known: dict[int, bytes],
    numbers: tuple[int, ...],
    current: int | None,
    writes: tuple[Write, ...],
) -> None:
    assert plan(known, numbers, current, WANTED) == writes


def test_after_the_writes_nothing_is_left_to_write() -> None:
    writes = plan({0: DISK, 3: STALE}, (0,), 0, WANTED)
    assert [write.name for write in writes] == ["Boot0003", "BootOrder"]
    after = {0: DISK, 3: writes[0].value}
    assert plan(after, decode_order(writes[1].value), 0, WANTED) == ()


RESCUE_ID = "00112233-4455-6677-8899-aabbccddeeff"


def table_of(*places: tuple[int, int]) -> bytes:
    """The start of a disk with a partition table (UEFI specification, 5.3)."""
    kind = uuid.UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172").bytes_le
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", kind, uuid.UUID(RESCUE_ID).bytes_le, first, last, 0, b"")
        for first, last in places
    ).ljust(128 * 128, b"\0")
    fields = (1, 16383, 34, 16350, bytes(16), 2, 128, 128, zlib.crc32(entries))
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, *fields)
    header = header[:16] + zlib.crc32(header).to_bytes(4, "little") + header[20:]
    return bytes(512) + header.ljust(512, b"\0") + entries


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A running system on UEFI: a disk as the kernel shows it."""
    disk = tmp_path / "dev/vda"
    disk.parent.mkdir()
    disk.write_bytes(table_of((2048, 6143), (6144, 8191)))
    real = tmp_path / "sys/devices/pci/block/vda"
    (real / "queue").mkdir(parents=True)
    (real / "queue/logical_block_size").write_text("512\n")
    links = tmp_path / "sys/class/block"
    links.mkdir(parents=True)
    for number, label, start in ((1, "esp", 2048), (2, "rescue", 6144)):
        (real / f"vda{number}").mkdir()
        (real / f"vda{number}/uevent").write_text(f"PARTN={number}\nPARTNAME={label}\n")
        (real / f"vda{number}/start").write_text(f"{start}\n")
        (links / f"vda{number}").symlink_to(real / f"vda{number}")
    put(tmp_path, "Boot0000", DISK)
    put(tmp_path, "BootOrder", encode_order((0,)))
    put(tmp_path, "BootCurrent", encode_order((0,)))
    (tmp_path / "state/orbital").mkdir(parents=True)
    return tmp_path


def put(root: Path, name: str, value: bytes) -> None:
    path = root / efivars.DIRECTORY / f"{name}-{efivars.GLOBAL}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(efivars.ATTRIBUTES + value)


def get(root: Path, name: str) -> bytes:
    return efivars.read(root / efivars.DIRECTORY / f"{name}-{efivars.GLOBAL}")


def names(writes: tuple[Write, ...]) -> list[str]:
    return [write.name for write in writes]


def test_the_first_healthy_boot_writes_it_and_no_other_boot_does(root: Path) -> None:
    assert names(ensure(RESCUED, root)) == ["Boot0001", "BootOrder"]
    assert decode_order(get(root, "BootOrder")) == (0, 1)
    guid = bytes.fromhex("33221100554477668899aabbccddeeff")
    found = rescue_option(gpt.Entry(2, guid, 6144, 2048), "\\EFI\\BOOT\\BOOTX64.EFI")
    assert get(root, "Boot0001") == encode_option(found)
    file = root / efivars.DIRECTORY / f"Boot0001-{efivars.GLOBAL}"
    assert file.read_bytes()[:4] == b"\7\0\0\0"
    assert ensure(RESCUED, root) == ()


def test_a_firmware_that_drops_it_wears_out_nothing(root: Path) -> None:
    for _ in range(MOST_WRITES):
        assert ensure(RESCUED, root)
        (root / efivars.DIRECTORY / f"Boot0001-{efivars.GLOBAL}").unlink()
        put(root, "BootOrder", encode_order((0,)))
    assert ensure(RESCUED, root) == ()
    (root / "state/orbital" / COUNT_FILE).write_text("many")
    assert ensure(RESCUED, root) == ()


def test_a_cut_before_the_count_writes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with power_cut(monkeypatch, 0):
        ensure(RESCUED, root)
    assert decode_order(get(root, "BootOrder")) == (0,)


@pytest.mark.parametrize("what", ["efivars", "table", "state", "moved", "device", "architecture"])
def test_whatever_is_missing_the_boot_goes_on(root: Path, what: str) -> None:
    config = RESCUED
    if what == "efivars":
        for path in (root / efivars.DIRECTORY).iterdir():
            path.unlink()
        (root / efivars.DIRECTORY).rmdir()
    elif what == "table":
        with (root / "dev/vda").open("r+b") as disk:
            disk.seek(512)
            disk.write(bytes(512))
    elif what == "state":
        (root / "state/orbital").rmdir()
        (root / "state").rmdir()
        (root / "state").write_text("a file")
    elif what == "moved":
        (root / "sys/class/block/vda2/start").write_text("6145\n")
    elif what == "device":
        config = CONFIG
    else:
        config = dataclasses.replace(RESCUED, architecture="armhf")
    before = get(root, "BootOrder")
    assert ensure(config, root) == ()
    assert get(root, "BootOrder") == before


def test_a_table_with_a_changed_byte_is_not_believed(root: Path) -> None:
    with (root / "dev/vda").open("rb") as disk:
        disk.seek(512)
        header = disk.read(512)
        table = disk.read(128 * 128)
    assert gpt.parse_entry(header, table, 2).first == 6144
    for place in range(92):
        changed = bytearray(header)
        changed[place] ^= 1
        with pytest.raises(StateError):
            gpt.parse_entry(bytes(changed), table, 2)
    for number in (0, 3, 129):
        with pytest.raises(StateError):
            gpt.parse_entry(header, table, number)
    for entries in (table[:200], table[:-1], b"\1" + table[1:]):
        with pytest.raises(StateError):
            gpt.parse_entry(header, entries, 2)
    assert zlib.crc32(table) == int.from_bytes(header[88:92], "little")


def test_it_is_known_by_its_description() -> None:
    option = decode_option(encode_option(WANTED))
    assert option is not None and option.description == DESCRIPTION == "Orbital rescue"
    assert firmware_options.plan({0: b"", 1: b"\0" * 7}, (0,), 0, WANTED)[0].name == "Boot0002"
