"""A disk in memory on which writes are tried out and taken back, and that knows what changed.

For each partition there is a key of its content: equal content, equal key (128 bits of BLAKE2).
It is kept up to date block by block, so that a state of the disk costs what it differs by.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evidence.powercut.image import Image
from qemu import gpt

BLOCK = 4096
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Undo:
    """What a write replaced: bytes at offset, keys of blocks, and what slots held."""

    offset: int
    data: bytes
    keys: tuple[tuple[int, int], ...]
    slots: tuple[tuple[str, str, int], ...]


class Disk:
    """The disk as it was when the recording began, with writes on top.

    images: what a slot may hold. A slot is compared with each, block by block.
    """

    def __init__(
        self, base: Path, images: dict[str, Image], table: tuple[gpt.Partition, ...]
    ) -> None:
        """base: raw, never written. table: partitions, in their largest size."""
        self.bytes: Bytes = np.memmap(base, dtype=np.uint8, mode="c")
        self._base: Bytes = np.memmap(base, dtype=np.uint8, mode="r")
        self.partitions = {part.label: part for part in table}
        ordered = sorted(table, key=lambda part: part.offset)
        self._starts = [part.offset // BLOCK for part in ordered]
        self._ends = [(part.offset + part.size) // BLOCK for part in ordered]
        self._labels = [part.label for part in ordered]
        self.keys: dict[str, int] = dict.fromkeys(["", *self._labels], 0)
        # Key of each block that differs from the base, by number; of the state, for its reader.
        self.blocks: dict[int, int] = {}
        self._images = images
        self._slots = [label for label in self._labels if label.startswith("root-")]
        self._bad: dict[tuple[str, str], set[int]] = {}
        for label in self._slots:
            start = self.partitions[label].offset
            for name, image in images.items():
                size = image.root.size
                wrong = self._base[start : start + size] != image.root
                blocks = np.flatnonzero(wrong.reshape(-1, BLOCK).any(axis=1))
                self._bad[label, name] = {int(number) for number in blocks}

    def partition(self, label: str) -> Bytes:
        """The bytes of a partition, as they are now."""
        part = self.partitions[label]
        return self.bytes[part.offset : part.offset + part.size]

    def holds(self, label: str) -> str:
        """Name of the image that the slot holds whole; "" for none."""
        return next((name for name in self._images if not self._bad[label, name]), "")

    def region(self, offset: int) -> str:
        """Label of the partition with that byte; "" outside of all."""
        block = offset // BLOCK
        found = bisect_right(self._starts, block) - 1
        if found >= 0 and block < self._ends[found]:
            return self._labels[found]
        return ""

    def write(self, offset: int, data: bytes) -> Undo:
        """Writes; the result takes it back, when later writes have been taken back before."""
        end = offset + len(data)
        new = np.frombuffer(data, dtype=np.uint8)
        before = self.bytes[offset:end].tobytes()
        self.bytes[offset:end] = new
        region = self.region(offset)
        numbers = range(offset // BLOCK, -(-end // BLOCK))
        if region in self._slots:
            return Undo(offset, before, (), tuple(self._compare(region, numbers)))
        keys = []
        for number in numbers:
            at = number * BLOCK
            content = self.bytes[at : at + BLOCK]
            if np.array_equal(content, self._base[at : at + BLOCK]):
                key = 0
            else:
                key = _key(number, content.tobytes())
            old = self.blocks.get(number, 0)
            if key != old:
                keys.append((number, old))
                self._set(number, region, old, key)
        return Undo(offset, before, tuple(keys), ())

    def undo(self, undo: Undo) -> None:
        """Takes a write back."""
        data = np.frombuffer(undo.data, dtype=np.uint8)
        self.bytes[undo.offset : undo.offset + len(undo.data)] = data
        region = self.region(undo.offset)
        for number, key in undo.keys:
            self._set(number, region, self.blocks.get(number, 0), key)
        for label, name, number in undo.slots:
            self._bad[label, name] ^= {number}

    def key(self) -> tuple[object, ...]:
        """What distinguishes this disk from others: contents, and of slots what they hold."""
        contents = tuple(key for label, key in self.keys.items() if label not in self._slots)
        return (contents, tuple(self.holds(label) for label in self._slots))

    def _set(self, number: int, region: str, old: int, new: int) -> None:
        self.keys[region] ^= old ^ new
        if new:
            self.blocks[number] = new
        else:
            self.blocks.pop(number, None)

    def _compare(self, label: str, numbers: range) -> list[tuple[str, str, int]]:
        """Notes which blocks of a slot are now right or wrong; returns those that changed sides."""
        start = self.partitions[label].offset // BLOCK
        changed = []
        for name, image in self._images.items():
            bad = self._bad[label, name]
            first, last = numbers.start - start, min(numbers.stop - start, image.root.size // BLOCK)
            if first >= last:
                continue
            mine = self.bytes[numbers.start * BLOCK : (start + last) * BLOCK]
            wrong = mine != image.root[first * BLOCK : last * BLOCK]
            for number, is_wrong in enumerate(wrong.reshape(-1, BLOCK).any(axis=1), first):
                if bool(is_wrong) != (number in bad):
                    bad ^= {number}
                    changed.append((label, name, number))
        return changed


def _key(number: int, content: bytes) -> int:
    digest = hashlib.blake2b(content, digest_size=16, salt=number.to_bytes(16, "little"))
    return int.from_bytes(digest.digest(), "little") or 1
