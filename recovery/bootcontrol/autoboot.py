"""The Raspberry Pi's autoboot.txt as a record: bytes in, values out.

    [all]
    tryboot_a_b=1
    boot_partition=2          any start but the one below
    [tryboot]
    boot_partition=3          the one start after a reboot with "0 tryboot"
    # orbital order=ba a=good b=1 boot=5d7b1c0e-...

Where the board has a rescue system and no slot is good, [all] names its partition: the firmware
starts it instead of a slot that has used its try.

The firmware reads at most 512 bytes and knows the filters [all], [none] and
[tryboot] (Raspberry Pi documentation, "autoboot.txt"). It cannot write, so the
last line is ours: the order, each slot's count (good, or 0 or 1 tries), and the
boot in which the try was granted; in any other boot it has been used. The line
ends in spaces, so that the file is never resized.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from recovery.bootcontrol.recorded import GOOD, Count, Record
from recovery.slots import SLOTS, Slot, other_slot

# What the firmware reads. A file of this size is one sector.
LIMIT = 512
_OURS = re.compile(
    rb"# orbital order=(ab|ba|a|b|) a=(good|0|1) b=(good|0|1) boot=([0-9A-Za-z-]*) *"
)
_FILTER = re.compile(rb"\[.*\]")
_ORDERS: dict[bytes, tuple[Slot, ...]] = {
    b"ab": ("a", "b"),
    b"ba": ("b", "a"),
    b"a": ("a",),
    b"b": ("b",),
    b"": (),
}
_COUNTS = {b"good": GOOD, b"0": Count(0), b"1": Count(1)}


@dataclass(frozen=True)
class Autoboot:
    """The file. record: of the boot named by boot, with tries granted there still unused.

    others: the lines of others, each with the filter that it stands below.
    """

    record: Record
    boot: str
    others: tuple[tuple[bytes, bytes], ...] = ()

    def seen_from(self, boot: str) -> Record:
        """The record as another boot finds it: a try has been used, whatever became of it."""
        if boot and boot == self.boot:
            return self.record
        return replace(self.record, a=_used(self.record.a), b=_used(self.record.b))


def lasting(record: Record, rescue: int = 0) -> Slot | None:
    """The slot that the firmware starts when nothing is being tried; None for the rescue system.

    rescue: number of its partition, 0 when there is none.
    """
    good = [slot for slot in record.order if record.count(slot).good]
    if rescue and not good:
        return None
    return (*good, *record.order, SLOTS[0])[0]


def trying(record: Record) -> Slot | None:
    """The slot that needs tryboot to be started next, or None."""
    live = record.live()
    return live[0] if live and not record.count(live[0]).good else None


def decode(data: bytes, numbers: dict[Slot, int], rescue: int = 0) -> Autoboot:
    """The file's meaning. numbers: of each slot's boot partition. rescue: of the rescue system's.

    Raises ValueError when the firmware would start neither slot from it, and our
    line does not say that none may start. What the firmware reads counts: where our
    line is absent or says otherwise, the slot under [all] is good, and so is the other one.
    """
    if len(data) > LIMIT:
        raise ValueError(f"{len(data)} bytes are more than the firmware reads")
    under, lasts, ours = b"[all]", b"", None
    others = []
    for line in (line.rstrip(b"\r") for line in data.split(b"\n")):
        if _FILTER.fullmatch(line):
            under = line
        elif match := _OURS.fullmatch(line):
            ours = match
        elif line.startswith(b"boot_partition=") and under in (b"[all]", b"[tryboot]"):
            lasts = line.partition(b"=")[2] if under == b"[all]" else lasts
        elif line.startswith(b"tryboot_a_b=") and under == b"[all]":
            continue  # Always 1 in what we write.
        elif line.strip(b"# "):
            others.append((under, line))
    default = next((slot for slot in SLOTS if lasts == b"%d" % numbers[slot]), None)
    if default is None and not (rescue and lasts == b"%d" % rescue):
        raise ValueError("[all] names no slot's boot partition")
    if ours is not None:
        record = Record(_ORDERS[ours[1]], _COUNTS[ours[2]], _COUNTS[ours[3]])
        # A device whose image learns of its rescue system later has a slot there that is not good.
        if default in (lasting(record, rescue), lasting(record)):
            return Autoboot(record, ours[4].decode(), tuple(others))
    if default is None:
        raise ValueError("[all] names the rescue system, and no line says why")
    return Autoboot(Record((default, other_slot(default)), GOOD, GOOD), "", tuple(others))


def encode(autoboot: Autoboot, numbers: dict[Slot, int], size: int, rescue: int = 0) -> bytes:
    """The file, of exactly size bytes. Raises ValueError when it does not fit."""
    record = autoboot.record
    default = lasting(record, rescue)
    tried = trying(record) or (other_slot(default) if default else None)
    lines: dict[bytes, list[bytes]] = {
        b"[all]": [
            b"tryboot_a_b=1",
            b"boot_partition=%d" % (numbers[default] if default else rescue),
        ],
        b"[tryboot]": [b"boot_partition=%d" % (numbers[tried] if tried else rescue)],
    }
    for under, line in autoboot.others:
        lines.setdefault(under, []).append(line)
    text = b"".join(b"\n".join((under, *found)) + b"\n" for under, found in lines.items())
    text += b"# orbital order=%s a=%s b=%s boot=%s" % (
        "".join(record.order).encode(),
        _word(record.a),
        _word(record.b),
        autoboot.boot.encode(),
    )
    if len(text) + 1 > size or size > LIMIT:
        raise ValueError(f"{len(text) + 1} bytes do not fit into {min(size, LIMIT)}")
    return text.ljust(size - 1) + b"\n"


def _word(count: Count) -> bytes:
    return b"good" if count.good else b"%d" % min(count.left, 1)


def _used(count: Count) -> Count:
    return count if count.good else Count(0)
