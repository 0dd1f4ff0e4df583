"""Learns how the addresses of an executable moved, from its old and its new file."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from delta.machines.moves import Moves
from delta.rewrite import MACHINES, Rewrite, apply_rewrite
from imager.delta import elf_write
from imager.delta.elf_align import Alignment, align
from imager.delta.elf_file import Executable, read_executable
from imager.delta.elf_kernel import read_kernel
from imager.delta.elf_moves import pieces, votes
from imager.delta.elf_names import with_order
from imager.delta.elf_references import PLACE, Ints, References, references, without_addresses
from imager.delta.elf_switches import with_switches
from imager.delta.elf_types import with_types

# Bytes of a sequence that finds what became of what: first without addresses, then with the
# addresses predicted by what was learned before.
_FIRST, _AGAIN = 24, (16, 16)


@dataclass(frozen=True)
class Learned:
    """How to rewrite the old file. Made by learn."""

    rewrite: Rewrite
    old: bytes
    references: References

    def encoded(self, start: int, size: int) -> bytes:
        """The rewrite of the old file's bytes from start on, without what it does not need."""
        return elf_write.encoded(self.rewrite, self.old, self.references, start, size)

    def predicted(self) -> bytes:
        """The whole old file, rewritten."""
        data = bytearray(self.old)
        apply_rewrite(self.rewrite, 0, data)
        return bytes(data)


def learn(old: bytes, new: bytes, *, windows: Sequence[tuple[int, int]] = ()) -> Learned | None:
    """What rewriting makes the old file most like the new one.

    windows: (offset, size) of the old file's parts that will be used, all when there are none;
    what is learned is the same for all, as any part may refer to any other.
    None when it is no executable of a known machine, or nothing moved.
    """
    del windows
    before, after = _read(old), _read(new)
    if before is None or after is None or before.machine is not after.machine:
        return None
    before = with_types(before, after)
    before = with_stubs(with_switches(before, references(before)), after)
    after = with_switches(after, references(after))
    ours, theirs = references(before), references(after)
    alignment = align(without_addresses(before), without_addresses(after), _FIRST)
    learned = _learned(before, after, ours, theirs, alignment)
    for length in _AGAIN:
        alignment = align(learned.predicted(), new, length)
        learned = _learned(before, after, ours, theirs, alignment, known=learned.rewrite.moves)
    ordered = with_order(before, after, learned.rewrite.moves)
    learned = replace(learned, rewrite=replace(learned.rewrite, regions=ordered.regions))
    moved = learned.rewrite.moves.shifts != array("q", [0])
    return learned if moved else None


def _read(data: bytes) -> Executable | None:
    return read_executable(data) or read_kernel(data)


def with_stubs(before: Executable, after: Executable) -> Executable:
    """The old program, with how far its tables of code moved."""
    moved = {
        offset: after.stubs[name][0] + after.bias(after.stubs[name][0]) - offset
        for name, (offset, _) in before.stubs.items()
        if name in after.stubs
    }
    regions = (
        replace(region, moved=moved[region.offset] - region.bias)
        if region.kind in MACHINES and region.offset in moved
        else region
        for region in before.regions
    )
    return replace(before, regions=tuple(regions))


def _learned(
    before: Executable,
    after: Executable,
    ours: References,
    theirs: References,
    alignment: Alignment,
    *,
    known: Moves | None = None,
) -> Learned:
    positions = alignment.old(theirs.positions)
    if known is not None:
        for name in before.tables.keys() & after.tables.keys():
            found = _of(ours, before.tables[name]), _of(theirs, after.tables[name])
            _match_table(positions, ours, theirs, found, known)
    stubs = np.zeros(len(positions), bool)
    for name in before.stubs.keys() & after.stubs.keys():
        (old, old_size), (new, new_size) = before.stubs[name], after.stubs[name]
        inside = (theirs.positions >= new) & (theirs.positions < new + min(old_size, new_size))
        positions[inside] = theirs.positions[inside] - new + old
        stubs |= inside
    index = np.searchsorted(ours.positions, positions)
    index[index == len(ours.positions)] = 0
    same = (ours.positions[index] == positions) & (ours.forms[index] == theirs.forms)
    index = index[same]
    relative = ours.relative[index] & ~stubs[same]
    old_addresses = np.concatenate([ours.targets[index], ours.places[index][relative]])
    new_addresses = np.concatenate([theirs.targets[same], theirs.places[same][relative]])
    moves = pieces(*votes(old_addresses, new_addresses), low=before.low, high=before.high)
    return Learned(Rewrite(moves, before.regions), before.data, ours)


def _of(references: References, table: tuple[int, int]) -> Ints:
    """Indexes of the references of a table of distances from their own places."""
    first, last = np.searchsorted(references.positions, table)
    inside = np.arange(first, last)
    chosen: Ints = inside[references.forms[first:last] == PLACE]
    return chosen


def _match_table(
    positions: Ints,
    ours: References,
    theirs: References,
    entries: tuple[Ints, Ints],
    known: Moves,
) -> None:
    """Finds the old positions of a table's entries by what they lead to.

    Such a table has nothing else in it, so until it is known how far each entry moved no
    alignment finds any of it. positions: of theirs, in the old file; changed. entries: of the
    table, old and new.
    """
    old, new = entries
    piece = np.searchsorted(np.asarray(known.starts), ours.targets[old], side="right") - 1
    targets = ours.targets[old] + np.asarray(known.shifts)[piece]
    unique, first, count = np.unique(targets, return_index=True, return_counts=True)
    unique, first = unique[count == 1], first[count == 1]
    if not len(unique):
        return
    wanted = theirs.targets[new]
    index = np.searchsorted(unique, wanted)
    index[index == len(unique)] = 0
    found = unique[index] == wanted
    positions[new[found]] = ours.positions[old[first[index[found]]]]
