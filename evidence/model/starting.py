"""What firmware and loader start, by the models of the loaders that the tests have.

`tests.recovery.loaders` says which slot each loader takes and what it writes.
Added here: the rescue system, damaged artifacts, and the firmware around
systemd-boot (its renames on FAT can be cut, too: the old name, the new one, both
or none is left; it comes back to the firmware when it cannot start an artifact).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from evidence.model.boot import MOST_ASKED
from evidence.model.device import Board, Device, Wish
from evidence.model.records import SECOND_COPY, Kept, canonical
from imager.firmware.grub_environment import factory_environment
from recovery.slots import Slot
from tests.recovery import loaders

_ACTIVATION = re.compile(rb"^version ([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Started:
    """what: a slot, "rescue", or nothing that runs until somebody resets. device: as it then is.
    cuts: what a cut while the loader wrote would have left. is_try: the firmware says so.
    loads: this start is counted among those that may not reach early boot."""

    what: Slot | Literal["rescue", "nothing"]
    device: Device
    cuts: tuple[Device, ...] = ()
    is_try: bool = False
    loads: bool = False


def start(board: Board, device: Device, *, asked: bool, overdue: bool) -> Started:
    """What runs next. asked, overdue: what is seen in the start record (below)."""
    if asked:
        return Started("rescue", _unasked(device))
    if overdue and board.kind == "systemd-boot":
        # The driver asks before the loader takes a try.
        return Started("rescue", device)
    found = without_wish(board, device)
    if found.loads and overdue:
        return replace(found, what="rescue", loads=False)
    return found


def overdue(board: Board, wish: Wish) -> bool:
    """GRUB's and U-Boot's scripts: no slot has reached its initramfs for so many starts. With
    systemd-boot the driver (imager/firmware/efi/loads.c): nothing has reached early boot."""
    return board.rescue and board.kind != "tryboot" and wish.loads >= board.most_loads


def wished(board: Board, wish: Wish) -> bool:
    """GRUB's and U-Boot's scripts read the start record, the others are told otherwise."""
    if board.kind in ("grub", "u-boot"):
        return (wish.rescue or wish.action) and wish.asked < MOST_ASKED
    return wish.one_shot


def _unasked(device: Device) -> Device:
    return replace(device, kept=replace(device.kept, ask=False))


@cache
def without_wish(board: Board, device: Device) -> Started:
    """What runs next when nobody has asked for the rescue system."""
    if board.kind == "systemd-boot":
        return _systemd_boot(board, device)
    if board.kind == "tryboot":
        return _tryboot(board, device)
    return _scripted(board, device)


def _loads(device: Device, slot: Slot) -> bool:
    """Whether the loader finds nothing wrong with what it reads. Noise is refused."""
    place = device.place(slot)
    return place.artifact != "refused" and bool(place.version)


def _systemd_boot(board: Board, device: Device) -> Started:
    contents = dict(device.kept.files)
    names = {
        name: int(match[1])
        for name, data in device.kept.files
        if (match := _ACTIVATION.search(data)) is not None
    }
    chosen = loaders.systemd_boot(names)
    live = chosen is not None and "+0" not in chosen[0]
    if chosen is None or (board.rescue and not live):
        # Its entry stands after those with tries and before those without; without a
        # loader the firmware finds it by itself.
        return Started("rescue" if board.rescue else "nothing", device)
    old, new = chosen
    slot: Slot = "a" if old.startswith("orbital-a") else "b"
    others = {name: data for name, data in contents.items() if name != old}
    found = [others | {new: contents[old]}]
    if new != old:
        found = [contents, others | {new: contents[old], old: contents[old]}, others, *found]
    devices = [
        replace(device, kept=canonical(board.kind, Kept(tuple(sorted(files.items())))))
        for files in found
    ]
    after = devices[-1]
    what: Slot | Literal["rescue", "nothing"] = slot if _loads(device, slot) else _fallback(board)
    return Started(what, after, tuple(devices[:-1]), loads=board.rescue and what != "rescue")


def _scripted(board: Board, device: Device) -> Started:
    """GRUB and U-Boot: raw partitions; the script reads the start record."""
    rescue = board.rescue
    environment = _environment(board, device.kept)
    if board.kind == "grub":
        found = loaders.grub(environment)
    else:
        found = loaders.uboot(environment, rescue=rescue)
    cuts = [device]
    for offset, data in found.writes:
        at = 0 if offset < SECOND_COPY else 1
        files = list(cuts[-1].kept.files)
        if board.kind == "u-boot":
            torn = [*files[:at], (str(at), b""), *files[at + 1 :]]
            cuts.append(replace(device, kept=canonical(board.kind, Kept(tuple(torn)))))
        files[at] = (str(at), data)
        cuts.append(replace(device, kept=canonical(board.kind, Kept(tuple(files)))))
    after = cuts.pop()
    # A rescue system always loads here, so that `last` is not reached.
    for slot in found.slots if rescue else (*found.slots, *found.last):
        if _loads(device, slot):
            return Started(slot, after, tuple(cuts), loads=rescue and not found.writes)
    # A slot whose try was counted is alone: that it cannot be loaded is a failed try, and a reset.
    what: Literal["rescue", "nothing"] = "rescue" if rescue and not found.writes else "nothing"
    return Started(what, after, tuple(cuts))


def _environment(board: Board, kept: Kept) -> bytes:
    """The partition that holds the record."""
    whole = bytearray(factory_environment() if board.kind == "grub" else bytes(2 * SECOND_COPY))
    whole.extend(bytes(max(0, 2 * SECOND_COPY - len(whole))))
    size = 512 if board.kind == "grub" else SECOND_COPY
    for number, (_, data) in enumerate(kept.files):
        at = number * SECOND_COPY
        whole[at : at + size] = data.ljust(size, b"\0")
    return bytes(whole)


def _tryboot(board: Board, device: Device) -> Started:
    """The Raspberry Pi's firmware; the rescue system's partition lies before the slots'."""
    asked = device.kept.ask
    device = _unasked(device)
    data = next((data for name, data in device.kept.files if name == "autoboot.txt"), b"")
    found = loaders.tryboot(data, asked=asked)
    if board.rescue and found.rescue:
        return Started("rescue", device)
    for slot in (*found.slots, *found.last):
        if _loads(device, slot):
            return Started(slot, device, is_try=asked)
    return Started(_fallback(board), device)


def _fallback(board: Board) -> Literal["rescue", "nothing"]:
    """What the firmware does at last."""
    return "rescue" if board.rescue and board.returns else "nothing"
