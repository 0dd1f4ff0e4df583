"""Where the clusters of compressed files lie in an erofs image.

Sources: Linux, fs/erofs/erofs_fs.h (z_erofs_map_header, z_erofs_lcluster_index) and zmap.c
(z_erofs_load_full_lcluster, z_erofs_load_compact_lcluster, z_erofs_get_extent_compressedlen).

::

    inode and its attributes
    aligned to 8      header of 8 bytes: advice, algorithm, size of a logical cluster
    (full)            8 more bytes, then 8 bytes for each logical cluster, a block of the file
    (compact)         packs of 2 entries of 16 bits, or of 16 entries of 14 bits, each with the
                      number of a block behind

An entry says that a physical cluster begins at some byte of its logical cluster (a head), or how
far the last head is behind; the first one behind a head may say how many blocks it has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imager.delta.erofs import Buffer, Node

_COMPACT, _FULL = 3, 1
# Entries have twelve bits for a place in a logical cluster.
_BLOCK = 4096
# Big clusters of a second algorithm (0x4) are announced also where there is none.
_COMPACTED_2B, _BIG_PCLUSTER, _UNKNOWN_ADVICE = 0x1, 0x2, ~0x7
_HEAD, _TAIL, _SECOND_HEAD = 1, 2, 3
_ZSTD = 3
_COUNT = 1 << 11


@dataclass(frozen=True, slots=True)
class Cluster:
    """offset, closed: its range of the image. opened: bytes of the file that it holds."""

    offset: int
    closed: int
    opened: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """Of a logical cluster. low: where in it the head begins, or what stands there for a tail."""

    kind: int
    low: int
    block: int = 0


def read_clusters(image: Buffer, node: Node, block: int, end: int) -> tuple[Cluster, ...]:
    """The clusters of a compressed file, from front to back; end: bytes of the file system.

    None of a file that cannot be opened: another algorithm than zstd, fragments,
    tails inside the inode, clusters that do not lie one behind the other. Raises ValueError and
    struct.error for what is damaged.
    """
    (form,) = struct.unpack_from("<H", image, node.inode)
    layout = form >> 1 & 7
    if node.kind != "file" or layout not in (_COMPACT, _FULL) or block != _BLOCK:
        return ()
    header = -(-node.inode_end // 8) * 8
    advice, algorithms, bits = struct.unpack_from("<HBB", image, header + 4)
    if advice & _UNKNOWN_ADVICE or algorithms & 15 != _ZSTD or bits:
        return ()
    count = -(-node.size // block)
    if count > end:
        raise ValueError(f"{node.path} has more blocks than the image has bytes")
    big = bool(advice & _BIG_PCLUSTER)
    if layout == _FULL:
        entries = list(_full(image, header + 16, count))
    else:
        entries = list(_compact(image, header + 8, count, bool(advice & _COMPACTED_2B), big))
    if any(entry.kind == _SECOND_HEAD for entry in entries):
        return ()
    found = tuple(_clusters(entries, node.size, block, big))
    at = node.data
    for cluster in found:
        if cluster.offset != at or cluster.offset + cluster.closed > end:
            return ()
        at += cluster.closed
    return found if sum(cluster.opened for cluster in found) == node.size else ()


def _clusters(entries: Sequence[_Entry], size: int, block: int, big: bool) -> Iterator[Cluster]:
    heads = [number for number, entry in enumerate(entries) if entry.kind != _TAIL]
    starts = [number * block + entries[number].low for number in heads]
    if starts and starts[-1] == size:
        # Behind the last cluster stands a head of nothing.
        del starts[-1], heads[-1]
    for number, start, stop in zip(heads, starts, [*starts[1:], size], strict=True):
        entry = entries[number]
        blocks = 1
        if big and entry.kind == _HEAD and number + 1 < len(entries):
            behind = entries[number + 1]
            if behind.kind == _TAIL and behind.low & _COUNT:
                blocks = behind.low & ~_COUNT
        if stop <= start:
            raise ValueError(f"a cluster from {start} to {stop}")
        compressed = entry.kind == _HEAD
        if not compressed and stop - start > block:
            raise ValueError(f"a block with {stop - start} bytes")
        yield Cluster(entry.block * block, blocks * block, stop - start, compressed)


def _full(image: Buffer, at: int, count: int) -> Iterator[_Entry]:
    for number in range(count):
        advice, low, block = struct.unpack_from("<HHI", image, at + 8 * number)
        kind = advice & 3
        yield _Entry(kind, block & 0xFFFF if kind == _TAIL else low, block)


def _compact(image: Buffer, at: int, count: int, has_short: bool, big: bool) -> Iterator[_Entry]:
    """Entries before the first multiple of 32 bytes are long, then as many as fill packs short."""
    initial = min((32 - at % 32) // 4 % 8, count)
    short = (count - initial) // 16 * 16 if has_short else 0
    for number, of_pack, size in (
        (initial, 2, 8),
        (short, 16, 32),
        (count - initial - short, 2, 8),
    ):
        for first in range(0, number, of_pack):
            yield from _pack(image, at, of_pack, big)[: number - first]
            at += size


def _pack(image: Buffer, at: int, of_pack: int, big: bool) -> list[_Entry]:
    """One pack: entries of 16 or 14 bits, then the block before the first head's."""
    size, width = (8, 16) if of_pack == 2 else (32, 14)
    data = bytes(image[at : at + size])
    if len(data) < size:
        raise ValueError("an index that lies outside")
    bits = int.from_bytes(data[:-4], "little")
    words = [bits >> width * number & (1 << width) - 1 for number in range(of_pack)]
    kinds = [word >> 12 & 3 for word in words]
    lows = [word & 0xFFF for word in words]
    before = int.from_bytes(data[-4:], "little")
    found = []
    for number, (kind, low) in enumerate(zip(kinds, lows, strict=True)):
        block = before + _blocks_before(kinds, lows, number, big) if kind != _TAIL else 0
        found.append(_Entry(kind, low, block))
    return found


def _blocks_before(kinds: Sequence[int], lows: Sequence[int], number: int, big: bool) -> int:
    """Blocks of the clusters in the pack before an entry, as zmap.c counts them."""
    count = 0 if big else 1
    while number > 0:
        number -= 1
        low = lows[number]
        if kinds[number] != _TAIL:
            count += 1
        elif not big:
            number -= low
            count += number >= 0
        elif low & _COUNT:
            number -= 1
            count += low & ~_COUNT
        elif low <= 1:
            raise ValueError("an index that counts no blocks")
        else:
            number -= low - 2
    return count
