"""The firmware's own boot option for the rescue system, on boards with UEFI and systemd-boot.

When systemd-boot cannot start the artifact that it chose, it comes back, and the firmware
goes on to its next boot option. A disk has only one by itself, for its first FAT. So a
healthy boot makes sure that there is another one, for the partition with the rescue system:

    Boot####    a load option (UEFI specification, 3.1.3): attributes, description,
                device path HD(partition)/File(\\EFI\\BOOT\\BOOTX64.EFI) (10.3.5)
    BootOrder   numbers of options, 16 bits each, in the order in which they are started

It stands after the option that started this boot, so that it never comes before the slots;
where the firmware started without one of its order (its default path, 3.5.2), there is no
such place, and nothing is written: an order of one option would be rescue at every start.

Written only when it is missing or wrong, since such memory wears out, and a firmware may
drop what it does not like: `MOST_WRITES` times in the life of the state partition.

    count + 1 → Boot#### → **BootOrder**

Power cut before the last: the next healthy boot finds an option that is not in the order.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from pathlib import Path

from recovery import durable, efivars
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError
from recovery.gpt import Entry, find_entry
from recovery.state import STATE_ROOT
from recovery.value import Value

DESCRIPTION = "Orbital rescue"
FILES = {
    "x86_64": "\\EFI\\BOOT\\BOOTX64.EFI",
    "aarch64": "\\EFI\\BOOT\\BOOTAA64.EFI",
    "riscv64": "\\EFI\\BOOT\\BOOTRISCV64.EFI",
}
COUNT_FILE = "firmware-option"
MOST_WRITES = 5
_ACTIVE = 1
_HEAD = struct.Struct("<IH")
# Type, subtype, length; HD: partition's number, first block, blocks, GUID, GPT, signature is GUID.
_NODE = struct.Struct("<BBH")
_DISK = struct.Struct("<IQQ16sBB")
_MEDIA, _HARD_DRIVE, _FILE_PATH = 4, 1, 4
_END = _NODE.pack(0x7F, 0xFF, 4)
_GPT, _GUID = 2, 2
_NAME = re.compile(rf"Boot([0-9A-F]{{4}})-{efivars.GLOBAL}", re.ASCII)


class Option(Value):
    """A load option. path: the device path, packed. data: what the firmware hands over."""

    attributes: int
    description: str
    path: bytes
    data: bytes = b""


class Write(Value):
    """A variable to write, by its name without the GUID."""

    name: str
    value: bytes


def decode_option(value: bytes) -> Option | None:
    """The value of a Boot#### variable; None when it is none."""
    if len(value) < _HEAD.size:
        return None
    attributes, length = _HEAD.unpack_from(value)
    end = next(
        (at for at in range(_HEAD.size, len(value) - 1, 2) if value[at : at + 2] == b"\0\0"), None
    )
    if end is None or len(value) < end + 2 + length:
        return None
    try:
        description = value[_HEAD.size : end].decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    path = value[end + 2 : end + 2 + length]
    return Option(attributes, description, path, value[end + 2 + length :])


def encode_option(option: Option) -> bytes:
    """The value of its variable."""
    text = f"{option.description}\0".encode("utf-16-le")
    return _HEAD.pack(option.attributes, len(option.path)) + text + option.path + option.data


def decode_order(value: bytes) -> tuple[int, ...]:
    """The numbers in BootOrder; an odd byte at the end is none."""
    return tuple(number for (number,) in struct.iter_unpack("<H", value[: len(value) // 2 * 2]))


def encode_order(numbers: tuple[int, ...]) -> bytes:
    """The value of BootOrder."""
    return b"".join(number.to_bytes(2, "little") for number in numbers)


def rescue_option(partition: Entry, file: str) -> Option:
    """The option that starts this file on this partition."""
    disk = _DISK.pack(
        partition.number, partition.first, partition.blocks, partition.guid, _GPT, _GUID
    )
    name = f"{file}\0".encode("utf-16-le")
    path = (
        _NODE.pack(_MEDIA, _HARD_DRIVE, _NODE.size + len(disk))
        + disk
        + _NODE.pack(_MEDIA, _FILE_PATH, _NODE.size + len(name))
        + name
        + _END
    )
    return Option(_ACTIVE, DESCRIPTION, path)


def plan(
    known: dict[int, bytes], order: tuple[int, ...], current: int | None, wanted: Option
) -> tuple[Write, ...]:
    """What to write, in this order; nothing when all is well or there is no place for it.

    known: the values of all Boot#### by their numbers. current: the option that started
    this boot, None when it was none.
    """
    value = encode_option(wanted)
    ours = [
        number
        for number, data in sorted(known.items())
        if (option := decode_option(data)) is not None and option.description == DESCRIPTION
    ]
    if current is None or current not in order or current in ours:
        return ()
    right = [number for number in ours if known[number] == value]
    after = order[order.index(current) + 1 :]
    before = order[: order.index(current)]
    placed = [number for number in right if number in after and number not in before]
    if placed:
        return ()
    free = next((number for number in range(0x10000) if number not in known), None)
    number = (*right, *ours, free)[0]
    if number is None:
        return ()
    new = encode_order((*(entry for entry in order if entry != number), number))
    first = () if number in right else (Write(f"Boot{number:04X}", value),)
    return (*first, Write("BootOrder", new))


def ensure(config: DeviceConfig, root: Path = Path("/")) -> tuple[Write, ...]:
    """Makes sure that the option is there; returns what was written. Never an error of the boot.

    Not for a boot whose state is volatile: it could not count its writes.
    """
    if not config.rescue.partition or config.architecture not in FILES:
        return ()
    with suppress(OSError, OrbitalError, ValueError):
        return _ensure(config, root)
    return ()


def _ensure(config: DeviceConfig, root: Path) -> tuple[Write, ...]:
    folder = root / efivars.DIRECTORY
    wanted = rescue_option(find_entry(config.rescue.partition, root), FILES[config.architecture])
    names = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    known = {int(name[1], 16): efivars.read(folder / name[0]) for name in names if name}
    order = decode_order(efivars.read(_variable(folder, "BootOrder")))
    current = decode_order(efivars.read(_variable(folder, "BootCurrent")))
    writes = plan(known, order, current[0] if current else None, wanted)
    if not writes:
        return ()
    counter = root / STATE_ROOT.relative_to("/") / COUNT_FILE
    count = _count(counter)
    if count >= MOST_WRITES:
        return ()
    durable.replace_file(counter, f"{count + 1}\n".encode())
    for write in writes:
        efivars.write(_variable(folder, write.name), write.value)
    return writes


def _variable(folder: Path, name: str) -> Path:
    return folder / f"{name}-{efivars.GLOBAL}"


def _count(path: Path) -> int:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return 0
    # Not ours: as if it had been written often enough.
    return int(text) if re.fullmatch(rb"[0-9]\n", text) else MOST_WRITES
