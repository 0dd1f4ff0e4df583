"""Which disks a power cut can leave, from the log of what a guest wrote.

A flush reaches the medium with all that was done before it. Between two flushes each write may
have arrived or not, for itself, and of a write each sector of 512 bytes. Of these states are made:

    prefix    the first n writes since the flush, for every n
    torn      the first n whole, and of the next one: the first sectors, the last, any
    alone     of all writes since the flush only one
    lost      all writes until the next flush but one
    half      all writes until the next flush, and any sectors of one of them lost
    some      subsets of them: every one where there are few writes, else random ones
    any       any sectors of all writes until the next flush

Where there are many writes between two flushes, a random choice is made of all kinds but the
first; a seed makes it the same every time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evidence.powercut.disk import Disk, Undo
from qemu.blocklog import SECTOR, Request

SEED = 6
_SMALL = 128 << 10
_MANY = 64
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Bounds:
    """How many states are made of the writes between two flushes.

    singles: writes that are lost, alone or half there; all when there are not more. torn: of
    the writes that are torn on the way. subsets: random ones; of up to `all_of` writes every
    subset is made. sectors: random choices of sectors.
    """

    singles: int = 64
    torn: int = 128
    subsets: int = 48
    all_of: int = 8
    sectors: int = 48


@dataclass(frozen=True)
class Crash:
    """One state that the disk is in now.

    flushes: whole epochs before it. number: index of the newest write that it concerns.
    """

    kind: str
    flushes: int
    number: int
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.kind} at write {self.number}, after flush {self.flushes}{detail}"


@dataclass(frozen=True)
class Write:
    """number: in the log, from 0, flushes not counted."""

    number: int
    offset: int
    data: bytes


def epochs(requests: Iterable[Request]) -> Iterator[list[Write]]:
    """The writes between flushes. A discarded range may keep its content: left out."""
    writes: list[Write] = []
    number = 0
    for request in requests:
        if request.flush:
            if writes:
                yield writes
            writes = []
        if request.data:
            writes.append(Write(number, request.offset, request.data))
            number += 1
        if request.fua:
            # What comes after it is not before it; with nothing else open it is a flush.
            yield writes
            writes = []
    if writes:
        yield writes


def crashes(
    disk: Disk, writes: list[Write], flushes: int, bounds: Bounds, seed: int = SEED
) -> Iterator[Crash]:
    """Brings the disk into each state in turn; afterwards all writes are on it.

    A state lasts until the next one is asked for.
    """
    chance = random.Random(f"{seed} {flushes}")
    last = writes[-1].number
    if len(writes) > 1:
        for write in _some(writes, bounds.singles, chance):
            undo = disk.write(write.offset, write.data)
            yield Crash("alone", flushes, write.number)
            disk.undo(undo)
    for chosen, detail in _subsets(writes, bounds, chance):
        done = [disk.write(write.offset, write.data) for write in chosen]
        yield Crash("some", flushes, last, detail)
        _take_back(disk, done)
    # In one go where there is much: sectors one by one would take too long.
    size = sum(len(write.data) for write in writes)
    for turn in range(bounds.sectors if size <= _SMALL else 0):
        done = _any_sectors(disk, writes, chance)
        yield Crash("any", flushes, last, f"choice {turn}")
        _take_back(disk, done)
    torn = {write.number for write in _some(writes, bounds.torn, chance)}
    yield Crash("prefix", flushes, writes[0].number - 1)
    kept: list[Undo] = []
    for write in writes:
        if write.number in torn:
            for pieces, how in _tears(write, chance):
                undone = [disk.write(offset, data) for offset, data in pieces]
                yield Crash("torn", flushes, write.number, how)
                _take_back(disk, undone)
        kept.append(disk.write(write.offset, write.data))
        yield Crash("prefix", flushes, write.number)
    if len(writes) > 1:
        # The last one lost is a prefix.
        for index in _some(range(len(writes) - 1), bounds.singles, chance):
            content = bytearray(_without(writes, kept, index))
            write = writes[index]
            undo = disk.write(write.offset, bytes(content))
            yield Crash("lost", flushes, write.number, f"of those until {last}")
            disk.undo(undo)
            if len(content) > SECTOR:
                _mix(
                    content,
                    disk.bytes[write.offset : write.offset + len(content)].tobytes(),
                    chance,
                )
                undo = disk.write(write.offset, bytes(content))
                yield Crash("half", flushes, write.number, f"of those until {last}")
                disk.undo(undo)


def _without(writes: list[Write], kept: list[Undo], index: int) -> bytes:
    """What would be at a write's place, had it been lost and all others not."""
    lost = writes[index]
    content = bytearray(kept[index].data)
    end = lost.offset + len(content)
    for other in writes[index + 1 :]:
        first = max(lost.offset, other.offset)
        stop = min(end, other.offset + len(other.data))
        if first < stop:
            piece = other.data[first - other.offset : stop - other.offset]
            content[first - lost.offset : stop - lost.offset] = piece
    return bytes(content)


def _mix(content: bytearray, other: bytes, chance: random.Random) -> None:
    """Takes some sectors of the other content, at random."""
    for at in range(0, len(content), SECTOR):
        if chance.random() < 0.5:
            content[at : at + SECTOR] = other[at : at + SECTOR]


def _tears(write: Write, chance: random.Random) -> Iterator[tuple[list[tuple[int, bytes]], str]]:
    """Parts of a write: some first sectors, some last ones, any."""
    sectors = len(write.data) // SECTOR
    if sectors < 2:
        return
    # All places of a block; some of a larger write.
    cuts = range(1, sectors) if sectors <= 8 else sorted(chance.sample(range(1, sectors), 4))
    for cut in (number * SECTOR for number in cuts):
        yield [(write.offset, write.data[:cut])], f"first {cut} bytes"
        yield [(write.offset + cut, write.data[cut:])], f"without the first {cut} bytes"
    if sectors > 2:
        chosen = [at for at in range(sectors) if chance.random() < 0.5][:64]
        yield (
            [
                (write.offset + n * SECTOR, write.data[n * SECTOR : (n + 1) * SECTOR])
                for n in chosen
            ],
            f"sectors {' '.join(map(str, chosen))}",
        )


def _some(items: Sequence[_Item], most: int, chance: random.Random) -> list[_Item]:
    """All, or a random choice in their order."""
    if len(items) <= most:
        return list(items)
    return [items[at] for at in sorted(chance.sample(range(len(items)), most))]


def _subsets(
    writes: list[Write], bounds: Bounds, chance: random.Random
) -> Iterator[tuple[list[Write], str]]:
    """Writes that arrive, and how to name them. What prefixes, lost and alone are is left out."""
    count = len(writes)
    if count <= 2:
        return
    if count <= bounds.all_of:
        for mask in range(1, 1 << count):
            chosen = [write for at, write in enumerate(writes) if mask >> at & 1]
            if 1 < len(chosen) < count - 1 and chosen != writes[: len(chosen)]:
                yield chosen, _listed(chosen, count, mask)
        return
    # Each costs as much as all the writes.
    for turn in range(bounds.subsets if count <= _MANY else 8):
        share = chance.choice((0.2, 0.5, 0.8))
        chosen = [write for write in writes if chance.random() < share]
        yield chosen, _listed(chosen, count, turn)


def _any_sectors(disk: Disk, writes: list[Write], chance: random.Random) -> list[Undo]:
    share = chance.choice((0.1, 0.5, 0.9))
    done = []
    for write in writes:
        for at in range(0, len(write.data), SECTOR):
            if chance.random() < share:
                done.append(disk.write(write.offset + at, write.data[at : at + SECTOR]))
    return done


def _take_back(disk: Disk, done: list[Undo]) -> None:
    for undo in reversed(done):
        disk.undo(undo)


def _listed(chosen: list[Write], count: int, turn: int) -> str:
    if len(chosen) > 40:
        return f"{len(chosen)} of {count}, choice {turn}"
    return "only " + " ".join(str(write.number) for write in chosen)
