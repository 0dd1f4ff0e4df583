"""An erofs image with its compressed files opened: a longer stream that matching looks into.

The image and its opened form are the same sequence of pieces: a piece is a cluster, or what
lies between clusters and is the same in both.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from delta.clusters import (
    CLOSED_LIMIT,
    LARGEST_WINDOW_LOG,
    OPENED_LIMIT,
    SMALLEST_WINDOW_LOG,
    Settings,
    closer,
    open_cluster,
)
from delta.errors import DeltaError
from imager.delta.clusters import Cluster, read_clusters
from imager.delta.erofs import SUPERBLOCK, Layout, Node, is_erofs, read_layout
from imager.delta.match import Span
from recovery.errors import ToolError

# Levels in the order in which images are likely to have them.
_LEVELS = (15, 3, 9, 12, 19, 6, 18, 17, 16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1)
# In the superblock: its size, number of extensions of 16 bytes, a bit for each algorithm.
_SUPERBLOCK_SIZE, _EXTENSIONS, _ALGORITHMS = 128, 13, 84
_ONLY_ZSTD = 1 << 3
# Clusters that decide on the level: more than one, as those of little content are alike.
_SAMPLE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """offset, closed: its range of the image. at, opened: its range of the opened stream.

    cluster: of a compressed file; compressed: and itself compressed.
    """

    offset: int
    closed: int
    at: int
    opened: int
    cluster: bool = False
    compressed: bool = False


@dataclass(frozen=True)
class OpenedImage:
    """pieces: without gaps in both. layout: of the opened stream, its files open.

    size: bytes of the opened stream.
    """

    pieces: tuple[Piece, ...]
    layout: Layout
    size: int

    def within(self, span: Span) -> Iterator[Piece]:
        """The pieces in a range of the opened stream; those that are no clusters cut to it."""
        number = bisect_right(self.pieces, span.offset, key=lambda piece: piece.at) - 1
        for piece in self.pieces[max(number, 0) :]:
            if piece.at >= span.end:
                return
            if piece.cluster:
                if piece.at + piece.opened > span.offset:
                    yield piece
                continue
            start = max(piece.at, span.offset)
            size = min(piece.at + piece.opened, span.end) - start
            if size > 0:
                yield Piece(piece.offset + start - piece.at, size, start, size)

    def between(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces in a range of the image; those that are no clusters cut to it."""
        number = bisect_right(self.pieces, start, key=lambda piece: piece.offset) - 1
        for piece in self.pieces[max(number, 0) :]:
            if piece.offset >= end:
                return
            if piece.cluster:
                if piece.offset + piece.closed > start:
                    yield piece
                continue
            first = max(piece.offset, start)
            size = min(piece.offset + piece.closed, end) - first
            if size > 0:
                yield Piece(first, size, piece.at + first - piece.offset, size)


def is_compressed(image: memoryview) -> bool:
    """Whether it is an erofs image with files that can be opened. Raises ToolError if damaged."""
    return is_erofs(image) and any(
        node.packed and _clusters(image, node, layout)
        for layout in [read_layout(image)]
        for node in layout.nodes
    )


def open_image(image: memoryview, into: BinaryIO) -> OpenedImage:
    """Writes the opened stream. Raises ToolError when the image is damaged."""
    layout = read_layout(image)
    files = _files(image, layout)
    try:
        pieces = tuple(_written(image, files, into))
    except DeltaError as error:
        raise ToolError("cannot open the compressed image", details=str(error)) from error
    opened = {path: clusters[0].offset for path, clusters in files}
    mapping = _Mapping(pieces)
    nodes = tuple(_moved(node, mapping, node.path in opened) for node in layout.nodes)
    size = pieces[-1].at + pieces[-1].opened if pieces else 0
    end = mapping.opened(layout.size)
    return OpenedImage(pieces, Layout(end, layout.block, nodes), size)


def find_settings(image: memoryview, opened: OpenedImage) -> Settings | None:
    """How the clusters were compressed, by trying; None when it cannot be repeated here."""
    compressed = [piece for piece in opened.pieces if piece.compressed]
    # The longest are the ones that a window can be too small for.
    compressed.sort(key=lambda piece: (-piece.opened, piece.offset))
    window_log = _window_log(image)
    sample = compressed[: _SAMPLE // 2] + compressed[-_SAMPLE // 2 :]
    best: tuple[int, Settings | None] = 0, None
    for level in _LEVELS:
        settings = Settings(level, window_log)
        close = closer(settings)
        count = sum(closes(image, piece, close) for piece in sample)
        if count > best[0]:
            best = count, settings
        if count == len(sample):
            break
    return best[1]


def _window_log(image: memoryview) -> int:
    """Of zstd, as the superblock says; 0 when it does not (erofs_fs.h, z_erofs_zstd_cfgs)."""
    if struct.unpack_from("<H", image, SUPERBLOCK + _ALGORITHMS)[0] != _ONLY_ZSTD:
        return 0
    place = SUPERBLOCK + _SUPERBLOCK_SIZE + 16 * image[SUPERBLOCK + _EXTENSIONS]
    size, _, window = struct.unpack_from("<HBB", image, place)
    found = window + SMALLEST_WINDOW_LOG
    return int(found) if size >= 2 and found <= LARGEST_WINDOW_LOG else 0


def closes(image: memoryview, piece: Piece, close: Callable[[bytes, int], bytes]) -> bool:
    """Whether a cluster that is opened and closed again has the bytes that it had."""
    closed = bytes(image[piece.offset : piece.offset + piece.closed])
    if not piece.compressed:
        return not any(closed[piece.opened :])
    try:
        return close(open_cluster(closed, piece.opened), piece.closed) == closed
    except DeltaError:
        return False


def _files(image: memoryview, layout: Layout) -> list[tuple[str, tuple[Cluster, ...]]]:
    """Paths and clusters of the files that can be opened, as they lie; none overlaps another."""
    found = [(node.path, _clusters(image, node, layout)) for node in layout.nodes if node.packed]
    found = sorted((item for item in found if item[1]), key=lambda item: item[1][0].offset)
    kept: list[tuple[str, tuple[Cluster, ...]]] = []
    end = 0
    for path, clusters in found:
        if clusters[0].offset >= end:
            kept.append((path, clusters))
            end = clusters[-1].offset + clusters[-1].closed
    return kept


def _clusters(image: memoryview, node: Node, layout: Layout) -> tuple[Cluster, ...]:
    try:
        found = read_clusters(image, node, layout.block, layout.size)
    except (struct.error, ValueError) as error:
        raise ToolError(
            f"cannot read the clusters of {node.path}: the image is damaged or of a newer kind",
            details=str(error),
        ) from error
    small = all(part.closed <= CLOSED_LIMIT and part.opened <= OPENED_LIMIT for part in found)
    return found if small else ()


def _written(
    image: memoryview, files: Sequence[tuple[str, tuple[Cluster, ...]]], into: BinaryIO
) -> Iterator[Piece]:
    offset = at = 0
    for cluster in (cluster for _, clusters in files for cluster in clusters):
        if cluster.offset > offset:
            size = cluster.offset - offset
            into.write(image[offset : cluster.offset])
            yield Piece(offset, size, at, size)
            at += size
        offset = cluster.offset + cluster.closed
        closed = image[cluster.offset : offset]
        if cluster.compressed:
            into.write(open_cluster(bytes(closed), cluster.opened))
        else:
            into.write(closed[: cluster.opened])
        yield Piece(cluster.offset, cluster.closed, at, cluster.opened, True, cluster.compressed)
        at += cluster.opened
    if offset < len(image):
        size = len(image) - offset
        into.write(image[offset:])
        yield Piece(offset, size, at, size)


class _Mapping:
    """From places in the image to places in the opened stream."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._offsets = [piece.offset for piece in pieces]
        self._pieces = pieces

    def opened(self, place: int) -> int:
        """Where it is; of a place in a cluster, the cluster's first byte."""
        number = bisect_right(self._offsets, place) - 1
        if number < 0:
            return place
        piece = self._pieces[number]
        inside = 0 if piece.cluster and place < piece.offset + piece.closed else None
        if inside is None:
            inside = min(place - piece.offset, piece.opened)
        return piece.at + inside


def _moved(node: Node, mapping: _Mapping, is_open: bool) -> Node:
    inode = mapping.opened(node.inode)
    moved = replace(
        node,
        inode=inode,
        inode_end=inode + node.inode_end - node.inode,
        tail=mapping.opened(node.tail) if node.tail_size else node.tail,
    )
    if not node.data_size:
        return moved
    data = mapping.opened(node.data)
    if is_open:
        return replace(moved, data=data, data_size=node.size, packed=False)
    return replace(moved, data=data)
