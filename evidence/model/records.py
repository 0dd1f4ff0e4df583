"""A boot loader's record as a value, changed by the boot control that ships.

The product's boot control works on files. Here each change of it is run once for
each record that it meets, on files in memory, and every state of the medium that
a power cut in it could leave is remembered: before each durable operation, and
what such an operation leaves half-done (on FAT both names, or the new one empty;
of a copy of U-Boot's environment, whose checksum then does not match, a part; a
sector is never torn). So a record is changed by the code that ships, and a step
of the model costs one look into a table.

Kept finite: U-Boot's flags keep only their order, activation numbers of
systemd-boot's entries too, and of the names of boots only "this one" remains.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Literal
from unittest import mock

from imager.firmware.grub_environment import factory_environment
from recovery import durable
from recovery.bootcontrol import autoboot, ubootenv
from recovery.bootcontrol.grub import GrubEnvironment
from recovery.bootcontrol.recorded import GOOD, Record, Recorded
from recovery.bootcontrol.systemd_boot import SystemdBoot, entry_name, entry_text
from recovery.bootcontrol.tryboot import IS_TRY, REBOOT_PARAMETER, TRYBOOT, TrybootFile
from recovery.bootcontrol.tryboot import SIZE as AUTOBOOT_SIZE
from recovery.bootcontrol.uboot import UbootEnvironment
from recovery.slots import BootControl, Slot, SlotState
from tests.recovery.loaders import MEMORY, PARTITIONS, RESCUE_PARTITION

Kind = Literal["systemd-boot", "grub", "u-boot", "tryboot"]
KINDS: tuple[Kind, ...] = ("systemd-boot", "grub", "u-boot", "tryboot")
Verb = Literal["set_active", "mark_successful", "mark_unbootable", "tidy"]

SECOND_COPY = 65536
_FACTORY = Record(("a",), a=GOOD)
_ENTRIES = "loader/entries"
_NOW, _PAST = b"boot=now", b"boot=old"


@dataclass(frozen=True)
class Kept:
    """What lasts. files: name and content, sorted; of raw partitions the copies of the record
    are the files. ask: what the next reboot is asked for (tryboot); not durable. rescue: the
    device has a rescue system, which the record can name (tryboot)."""

    files: tuple[tuple[str, bytes], ...]
    ask: bool = False
    rescue: bool = False

    def __hash__(self) -> int:
        """As of any value, but worked out once."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.files, self.ask, self.rescue))


@dataclass(frozen=True)
class Known:
    """What the boot control says of a record."""

    active: Slot | None
    a: SlotState
    b: SlotState

    def of(self, slot: Slot) -> SlotState:
        """The slot's state."""
        return self.a if slot == "a" else self.b


def factory(kind: Kind, *, rescue: bool = False) -> Kept:
    """Slot a, successful. rescue: the device has a rescue system."""
    if kind == "systemd-boot":
        return Kept(((entry_name("a", None), entry_text("a", 1).encode()),))
    if kind == "grub":
        data = factory_environment()
        return Kept((("0", data[:512]), ("1", data[SECOND_COPY : SECOND_COPY + 512])))
    if kind == "u-boot":
        data = ubootenv.encode(ubootenv.Environment(1, ubootenv.with_record((), _FACTORY)))
        return canonical(kind, Kept((("0", data), ("1", b""))))
    data = autoboot.encode(autoboot.Autoboot(_FACTORY, ""), PARTITIONS, AUTOBOOT_SIZE)
    return Kept((("autoboot.txt", data),), rescue=rescue)


def lost(kind: Kind, *, rescue: bool = False) -> Kept:
    """The record is gone."""
    if kind in ("systemd-boot", "tryboot"):
        return Kept((), rescue=rescue and kind == "tryboot")
    return Kept((("0", b""), ("1", b"")))


def powered_off(kind: Kind, kept: Kept, *, rebooted: bool) -> Kept:
    """What is left when nothing runs. rebooted: by software, so a wish reaches the firmware."""
    return _forgotten(kept, rebooted) if kind == "tryboot" else kept


@cache
def _forgotten(kept: Kept, rebooted: bool) -> Kept:
    files = tuple((name, data.replace(_NOW, _PAST)) for name, data in kept.files)
    return replace(kept, files=files, ask=kept.ask and rebooted)


@cache
def known(kind: Kind, kept: Kept, current: Slot | None, is_try: bool = False) -> Known:
    """What the boot control of a running system says. current: None in the rescue system."""
    with _device(kind, kept, current, is_try) as (control, _):
        return Known(control.active_slot(), control.slot_state("a"), control.slot_state("b"))


@cache
def changed(
    kind: Kind,
    kept: Kept,
    current: Slot | None,
    verb: Verb,
    slot: Slot,
    *,
    tries: int = 0,
    is_try: bool = False,
) -> tuple[Kept, ...]:
    """Every state that a cut can leave, and last the one when the change is done."""
    with _device(kind, kept, current, is_try) as (control, look):
        states: list[Kept] = []
        with _recorded(states, look):
            if verb == "set_active":
                control.set_active(slot, tries)
            elif verb == "tidy":
                control.tidy()
            else:
                getattr(control, verb)(slot)
        states.append(look())
    return (*dict.fromkeys(states[:-1]), states[-1])


@contextmanager
def _device(
    kind: Kind, kept: Kept, current: Slot | None, is_try: bool
) -> Iterator[tuple[BootControl, Callable[[], Kept]]]:
    """The boot control on files that hold the record, and how to read them back."""
    root = Path(tempfile.mkdtemp(dir=MEMORY))
    try:
        if kind == "systemd-boot":
            yield _systemd_boot(root, kept, current)
        elif kind == "tryboot":
            yield _tryboot(root, kept, current, is_try)
        else:
            yield _partition(kind, root, kept, current)
    finally:
        shutil.rmtree(root)


def _systemd_boot(
    root: Path, kept: Kept, current: Slot | None
) -> tuple[BootControl, Callable[[], Kept]]:
    entries = root / _ENTRIES
    entries.mkdir(parents=True)
    (root / "EFI/orbital").mkdir(parents=True)
    for name in ("a.efi", "b.efi"):
        (root / "EFI/orbital" / name).write_bytes(b"MZ")
    for name, data in kept.files:
        (entries / name).write_bytes(data)

    def look() -> Kept:
        found = sorted(
            (path.name, path.read_bytes())
            for path in entries.iterdir()
            if not path.name.startswith(".")
        )
        return canonical("systemd-boot", Kept(tuple(found)))

    return SystemdBoot(root, current), look


def _partition(
    kind: Kind, root: Path, kept: Kept, current: Slot | None
) -> tuple[BootControl, Callable[[], Kept]]:
    path, size = root / "environment", 512 if kind == "grub" else ubootenv.SIZE
    whole = bytearray(factory_environment() if kind == "grub" else b"")
    whole.extend(bytes(max(0, 2 * SECOND_COPY - len(whole))))
    for number, (_, data) in enumerate(kept.files):
        whole[number * SECOND_COPY : number * SECOND_COPY + size] = data.ljust(size, b"\0")
    path.write_bytes(whole)

    def look() -> Kept:
        data = path.read_bytes()
        copies = [data[at : at + size] for at in (0, SECOND_COPY)]
        return canonical(kind, Kept(tuple((str(n), copy) for n, copy in enumerate(copies))))

    store = GrubEnvironment(path) if kind == "grub" else UbootEnvironment(path)
    return Recorded(store, current), look


def _tryboot(
    root: Path, kept: Kept, current: Slot | None, is_try: bool
) -> tuple[BootControl, Callable[[], Kept]]:
    firmware, parameter = root / "firmware", root / REBOOT_PARAMETER
    for name, data in (
        ("proc/sys/kernel/random/boot_id", b"now\n"),
        (IS_TRY, int(is_try).to_bytes(4, "big")),
        *((f"firmware/{name}", data) for name, data in kept.files),
        *(((REBOOT_PARAMETER, TRYBOOT.encode()),) if kept.ask else ()),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    firmware.mkdir(exist_ok=True)

    def look() -> Kept:
        files = sorted(
            (path.name, path.read_bytes())
            for path in firmware.iterdir()
            if not path.name.startswith(".")
        )
        ask = parameter.is_file() and parameter.read_text() == TRYBOOT
        return replace(kept, files=tuple(files), ask=ask)

    rescue = RESCUE_PARTITION if kept.rescue else 0
    return Recorded(TrybootFile(firmware, PARTITIONS, root, rescue=rescue), current), look


@contextmanager
def _recorded(states: list[Kept], look: Callable[[], Kept]) -> Iterator[None]:
    """Notes the medium before each durable operation, and as it may leave it half-done."""
    publish, rename, remove = durable.publish_file, durable.rename, durable.remove_file
    overwrite, append = durable.overwrite, durable.append_line

    def noted_publish(staged: Path, path: Path) -> None:
        states.append(look())
        before = path.read_bytes() if path.exists() else None
        for half_done in (staged.read_bytes(), b""):
            if before is not None and not half_done:
                continue
            path.write_bytes(half_done)
            states.append(look())
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
        publish(staged, path)

    def noted_rename(source: Path, destination: Path) -> None:
        states.append(look())
        rename(source, destination)

    def noted_remove(path: Path) -> None:
        states.append(look())
        remove(path)

    def noted_append(path: Path, line: bytes) -> None:
        states.append(look())
        append(path, line)

    def noted_overwrite(path: Path, offset: int, data: bytes) -> None:
        states.append(look())
        if len(data) > 512:
            # All sectors but the first: the rest is new, the checksum is not.
            overwrite(path, offset + 512, data[512:])
            states.append(look())
            overwrite(path, offset, data[:512])
            overwrite(path, offset + 512, bytes(len(data) - 512))
            states.append(look())
        overwrite(path, offset, data)

    with (
        mock.patch.object(durable, "publish_file", noted_publish),
        mock.patch.object(durable, "rename", noted_rename),
        mock.patch.object(durable, "remove_file", noted_remove),
        mock.patch.object(durable, "append_line", noted_append),
        mock.patch.object(durable, "overwrite", noted_overwrite),
    ):
        yield


_ACTIVATION = re.compile(rb"^version ([0-9]+)$", re.MULTILINE)


@cache
def canonical(kind: Kind, kept: Kept) -> Kept:
    """The same record to every reader, with the smallest numbers."""
    if kind == "u-boot":
        return replace(kept, files=_plain_flags(kept.files))
    if kind != "systemd-boot":
        return kept
    numbers = {match[1] for _, data in kept.files if (match := _ACTIVATION.search(data))}
    order = sorted(int(number) for number in numbers)

    def renumbered(data: bytes) -> bytes:
        return _ACTIVATION.sub(lambda m: b"version %d" % (order.index(int(m[1])) + 1), data)

    return replace(kept, files=tuple((name, renumbered(data)) for name, data in kept.files))


def _plain_flags(files: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    """Flags 1 and 2 in the order in which U-Boot sees them; b"" for a copy that is not valid.

    The older one of two is what the next change overwrites and nobody reads: it says the same.
    """
    copies = [data if _whole(data) else b"" for _, data in files]
    if not all(copies):
        made = [data and _with_flag(data, 1) for data in copies]
    else:
        flags = [data[4] for data in copies]
        newer = 1 if flags[1] > flags[0] else 0
        if set(flags) == {0, 255}:
            newer = 1 if flags[1] == 0 else 0
        made = [_with_flag(copies[newer], 2 if newer == n else 1) for n in (0, 1)]
    return tuple((str(number), data) for number, data in enumerate(made))


def _with_flag(data: bytes, flag: int) -> bytes:
    return data[:4] + bytes([flag]) + data[5:]


def _whole(data: bytes) -> bool:
    return len(data) > 5 and zlib.crc32(data[5:]).to_bytes(4, "little") == data[:4]
