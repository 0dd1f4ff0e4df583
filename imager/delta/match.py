"""Which bytes of an old image help to make which bytes of a new one. Pure: layouts in, units out.

A unit is a range of the new image. It is the same as a range of the old one, or similar to
ranges of it (its references), or neither. Files are found by content, then by path, by path
with the digits taken out (a version in it changed), by base name likewise (the file moved).
Between the files lie inodes, with small files and the ends of larger ones inside: the
references of such a range are the old inodes of the same paths.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from imager.delta.erofs import Layout, Node

# Ranges between the files are cut this small, so that a frame's border costs little.
_METADATA_UNIT = 64 << 10
_DIGITS = re.compile(r"\d+")
_PACKED_SUFFIX = re.compile(r"\.(?:xz|gz|zst)$")


class Reason(Enum):
    """Why a unit has the references that it has."""

    SAME = "same content"
    PATH = "same path"
    SIMILAR_PATH = "path that differs in numbers"
    NAME = "same name elsewhere"
    METADATA = "inodes of the same paths"
    CONTENT = "parts of the same content"
    NONE = "nothing like it"


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a stream, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Unit:
    """A range of the new stream and the old ranges that help to make it.

    SAME: exactly one old range of the same size. PATH, SIMILAR_PATH, NAME: one old range, of
    which position follows position; pair: numbers of the new and the old file among the nodes
    of their layouts, when both are files whose content lies open.
    """

    span: Span
    reason: Reason
    old: tuple[Span, ...] = ()
    pair: tuple[int, int] | None = None


Digest = Callable[[int, int], bytes]
"""(offset, size) of a stream to the digest of these bytes."""


def match(old: Layout, new: Layout, old_digest: Digest, new_digest: Digest) -> list[Unit]:
    """Units that cover the new image's file system in order, without gaps."""
    files = _Files(old, old_digest)
    metadata = _Metadata(old, new, old_digest, new_digest)
    numbers = {node.path: number for number, node in enumerate(new.nodes)}
    units: list[Unit] = []
    at = 0
    for node in new.extents():
        units.extend(metadata.units(at, node.data))
        units.append(files.unit(node, numbers[node.path], new_digest(node.data, node.data_size)))
        at = node.data + node.data_size
    units.extend(metadata.units(at, new.size))
    return units


def normalised(path: str) -> str:
    """The path without what changes with a version."""
    return _DIGITS.sub("#", path)


class _Files:
    """The old files, by all that one is looked for by."""

    def __init__(self, old: Layout, digest: Digest) -> None:
        numbers = {node.path: number for number, node in enumerate(old.nodes)}
        self._content: dict[tuple[int, bytes], int] = {}
        self._path: dict[str, tuple[int, Node]] = {}
        self._similar: dict[str, list[tuple[int, Node]]] = {}
        self._name: dict[str, list[tuple[int, Node]]] = {}
        for node in old.extents():
            entry = numbers[node.path], node
            self._content.setdefault((node.data_size, digest(node.data, node.data_size)), node.data)
            self._path[node.path] = entry
            self._similar.setdefault(normalised(node.path), []).append(entry)
            self._name.setdefault(_base_name(node.path), []).append(entry)

    def unit(self, node: Node, number: int, digest: bytes) -> Unit:
        """The unit of a new file's blocks."""
        span = Span(node.data, node.data_size)
        same = self._content.get((node.data_size, digest))
        if same is not None:
            return Unit(span, Reason.SAME, (Span(same, node.data_size),))
        found, reason = self._counterpart(node)
        if found is None:
            return Unit(span, Reason.NONE)
        old_number, old = found
        open_files = node.kind == old.kind == "file" and not node.packed and not old.packed
        pair = (number, old_number) if open_files else None
        return Unit(span, reason, (Span(old.data, old.data_size),), pair)

    def _counterpart(self, node: Node) -> tuple[tuple[int, Node] | None, Reason]:
        by_path = self._path.get(node.path)
        if by_path is not None and by_path[1].kind == node.kind:
            return by_path, Reason.PATH
        for candidates, reason in (
            (self._similar.get(normalised(node.path)), Reason.SIMILAR_PATH),
            (self._name.get(_base_name(node.path)), Reason.NAME),
        ):
            alike = [entry for entry in candidates or () if entry[1].kind == node.kind]
            if alike:
                nearest = min(alike, key=lambda entry: (abs(entry[1].size - node.size), entry[0]))
                return nearest, reason
        return None, Reason.NONE


class _Metadata:
    """References for what lies between the files."""

    def __init__(self, old: Layout, new: Layout, old_digest: Digest, new_digest: Digest) -> None:
        self._new_digest = new_digest
        self._blocks_of = _metadata_blocks(old, old_digest)
        self._old_size = old.size
        self._block = old.block
        inodes = sorted((node.inode, node.path) for node in new.nodes)
        self._places = [place for place, _ in inodes]
        self._paths = [path for _, path in inodes]
        self._old = {node.path: node for node in old.nodes}
        self._similar: dict[str, Node] = {}
        for node in old.nodes:
            self._similar.setdefault(normalised(node.path), node)
        self._first = Span(0, min(old.block, old.size))

    def units(self, start: int, end: int) -> Iterator[Unit]:
        """Units of the range [start, end): blocks that are the same, and those that are not."""
        pending = start
        for at in range(start, end, self._block):
            size = min(self._block, end - at)
            same = self._blocks_of.get(self._new_digest(at, size))
            if same is not None and size == self._block:
                yield from self._changed(pending, at)
                yield Unit(Span(at, size), Reason.SAME, (Span(same, size),))
                pending = at + size
        yield from self._changed(pending, end)

    def _changed(self, start: int, end: int) -> Iterator[Unit]:
        while start < end:
            # Cut where every image would: at multiples, not counted from the last file.
            stop = min((start // _METADATA_UNIT + 1) * _METADATA_UNIT, end)
            yield Unit(Span(start, stop - start), Reason.METADATA, self._references(start, stop))
            start = stop

    def _references(self, start: int, stop: int) -> tuple[Span, ...]:
        first = bisect_left(self._places, start)
        last = bisect_left(self._places, stop)
        # The inode before may reach into the range with its tail.
        spans = [self._first] if start == 0 else []
        for path in self._paths[max(first - 1, 0) : last]:
            node = self._old.get(path) or self._similar.get(normalised(path))
            if node is not None:
                spans.append(self._blocks(node))
        return tuple(merged(spans, gap=self._block))

    def _blocks(self, node: Node) -> Span:
        start = node.inode // self._block * self._block
        end = -(-node.inode_end // self._block) * self._block
        return Span(start, min(end, self._old_size) - start)


def _metadata_blocks(layout: Layout, digest: Digest) -> dict[bytes, int]:
    """The first of each block that lies between the files."""
    found: dict[bytes, int] = {}
    at = 0
    ends = [(node.data, node.data + node.data_size) for node in layout.extents()]
    for start, end in [*ends, (layout.size, layout.size)]:
        for place in range(at, start - layout.block + 1, layout.block):
            found.setdefault(digest(place, layout.block), place)
        at = max(at, end)
    return found


def merged(spans: Iterable[Span], *, gap: int = 0) -> list[Span]:
    """The spans sorted, those that overlap or are at most gap bytes apart made one."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.offset, span.size)):
        if found and span.offset <= found[-1].end + gap:
            end = max(found[-1].end, span.end)
            found[-1] = Span(found[-1].offset, end - found[-1].offset)
        elif span.size:
            found.append(span)
    return found


def summary(units: Sequence[Unit]) -> Mapping[str, int]:
    """Bytes of the new stream by reason."""
    found: dict[str, int] = {}
    for unit in units:
        found[unit.reason.value] = found.get(unit.reason.value, 0) + unit.span.size
    return found


def _base_name(path: str) -> str:
    return normalised(_PACKED_SUFFIX.sub("", os.path.basename(path)))  # noqa: PTH119
