"""Learns how the addresses of an executable moved, from its old and its new file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from delta.machines.moves import Moves
from delta.rewrite import Region, Rewrite, apply_rewrite
from imager.delta import elf_write
from imager.delta.elf_align import Alignment, align
from imager.delta.elf_file import Executable, read_executable
from imager.delta.elf_moves import pieces, votes
from imager.delta.elf_references import References, references, without_addresses

# Bytes of a sequence that finds what became of what: first without addresses, then with the
# addresses predicted by what was learned before.
_FIRST, _SECOND = 24, 16


@dataclass(frozen=True)
class Learned:
    """How to rewrite the old file. Made by learn."""

    rewrite: Rewrite
    old: bytes
    references: References

    def encoded(self, start: int, size: int) -> bytes:
        """The rewrite of the old file's bytes from start on, without what it does not need."""
        return elf_write.encoded(self.rewrite, self.references, start, size, len(self.old))

    def predicted(self) -> bytes:
        """The whole old file, rewritten."""
        data = bytearray(self.old)
        apply_rewrite(self.rewrite, 0, data)
        return bytes(data)


def learn(old: bytes, new: bytes, *, windows: Sequence[tuple[int, int]] = ()) -> Learned | None:
    """What rewriting makes the old file most like the new one.

    windows: (offset, size) of the old file's parts that will be used, all when there are none.
    None when it is no executable of a known machine, or nothing moved.
    """
    before, after = read_executable(old), read_executable(new)
    if before is None or after is None:
        return None
    if {region.kind for region in before.regions} != {region.kind for region in after.regions}:
        return None
    ours, theirs = references(before), references(after)
    alignment = align(without_addresses(before), without_addresses(after), _FIRST)
    learned = _learned(before, ours, theirs, alignment)
    alignment = align(learned.predicted(), new, _SECOND)
    learned = _learned(before, ours, theirs, alignment)
    return learned


def _learned(
    before: Executable, ours: References, theirs: References, alignment: Alignment
) -> Learned:
    moves = _moves(before, ours, theirs, alignment)
    return Learned(Rewrite(moves, before.regions), before.data, ours)


def _moves(before: Executable, ours: References, theirs: References, alignment: Alignment) -> Moves:
    positions = alignment.old(theirs.positions)
    index = np.searchsorted(ours.positions, positions)
    index[index == len(ours.positions)] = 0
    same = (ours.positions[index] == positions) & (ours.forms[index] == theirs.forms)
    index = index[same]
    relative = ours.relative[index]
    old = np.concatenate([ours.targets[index], ours.places[index][relative]])
    new = np.concatenate([theirs.targets[same], theirs.places[same][relative]])
    return pieces(*votes(old, new), before.low, before.high)


__all__ = ["Learned", "Region", "learn"]
