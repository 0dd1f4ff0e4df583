"""Where things lie in an erofs image: which bytes are the data of which file. Nothing is mounted.

Only what matching needs is read: names, inodes, and the one range of blocks of each file and
directory. Sources: Linux, fs/erofs/erofs_fs.h (structures), data.c (flat layouts), zmap.c (the
first block of compressed files), Documentation/filesystems/erofs.rst.

::

    1024                         superblock (128 bytes)
    meta_blkaddr * block + 32*n  inode number n: 32 (compact) or 64 bytes (extended), extended
                                 attributes, and with layout "inline" the file's last partial block
    blkaddr * block              the file's whole blocks, in one run
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from recovery.errors import ToolError

Buffer = bytes | bytearray | memoryview

SUPERBLOCK = 1024
MAGIC = 0xE0F5E1E2
_SUPER = struct.Struct("<IIIBBHQQIIII")
_FIRST = struct.Struct("<HHH")
_ENTRY = struct.Struct("<QHBB")
_SLOT = 32
# Data layouts of an inode (erofs_fs.h, EROFS_INODE_*).
_FLAT_PLAIN, _COMPRESSED_FULL, _FLAT_INLINE, _COMPRESSED_COMPACT = 0, 1, 2, 3
_MAP_HEADER = 8
_ADVISE_COMPACTED_2B = 1
_ADVISE_BIG_PCLUSTER = 2
_CLUSTER_NOT_HEAD = 2
# More than any directory we build has, far less than what would exhaust memory.
_MAX_DIRECTORY = 64 << 20
_MAX_NODES = 4_000_000

Kind = Literal["file", "directory", "other"]


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory or other inode, and where its parts lie in the image (bytes).

    path: the first of its names, "/usr/bin/env". size: of the content. inode, inode_end: the
    inode with its attributes and tail. data, data_size: its whole blocks (0, 0: none); of a
    compressed file, the blocks as they lie. tail, tail_size: the last bytes of its content,
    inside the inode. packed: the blocks are compressed, so they are no part of the content.
    """

    path: str
    kind: Kind
    size: int
    inode: int
    inode_end: int
    data: int = 0
    data_size: int = 0
    tail: int = 0
    tail_size: int = 0
    packed: bool = False

    def content(self, image: Buffer) -> bytes:
        """The file's content. Raises ValueError for a compressed one."""
        if self.packed:
            raise ValueError(f"{self.path} is compressed")
        whole = min(self.data_size, self.size)
        return bytes(image[self.data : self.data + whole]) + bytes(
            image[self.tail : self.tail + self.tail_size]
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """An image. size: bytes of the file system. block: bytes. nodes: sorted by path, each once."""

    size: int
    block: int
    nodes: tuple[Node, ...]

    def extents(self) -> list[Node]:
        """Nodes that have blocks, by where these lie; of such that overlap, only the first."""
        found: list[Node] = []
        end = 0
        for node in sorted(self.nodes, key=lambda node: (node.data, node.path)):
            if node.data_size and node.data >= end:
                found.append(node)
                end = node.data + node.data_size
        return found


def is_erofs(image: Buffer) -> bool:
    """Whether it begins as an erofs image does."""
    if len(image) < SUPERBLOCK + _SUPER.size:
        return False
    return bool(struct.unpack_from("<I", image, SUPERBLOCK)[0] == MAGIC)


def read_layout(image: Buffer) -> Layout:
    """The layout of an image (which may have more behind it, as our verity tree).

    Raises ToolError when it is no erofs image, or one whose parts lie outside of it.
    """
    try:
        reader = _Reader(image)
        return Layout(reader.size, reader.block, tuple(reader.nodes()))
    except (struct.error, ValueError) as error:
        raise ToolError(
            "cannot read the erofs image: it is damaged or of a newer kind", details=str(error)
        ) from error


class _Reader:
    """Walks the directories of one image. Raises ValueError and struct.error for what is wrong."""

    def __init__(self, image: Buffer) -> None:
        if not is_erofs(image):
            raise ValueError("it has no superblock")
        fields = _SUPER.unpack_from(image, SUPERBLOCK)
        bits, self._root, blocks, meta = fields[3], fields[5], fields[9], fields[10]
        if not 9 <= bits <= 16:
            raise ValueError(f"blocks of 2^{bits} bytes")
        self.block = 1 << bits
        self.size = blocks * self.block
        if self.size > len(image):
            raise ValueError(f"it says {self.size} bytes and has {len(image)}")
        self._image = image
        self._meta = meta * self.block

    def nodes(self) -> Iterator[Node]:
        """Every inode that a directory names, sorted by path; hard links once."""
        seen = {self._root}
        waiting = [self._node(self._root, "/")]
        found: list[Node] = []
        while waiting:
            directory = waiting.pop()
            found.append(directory)
            for number, name in sorted(self._entries(directory), key=lambda entry: entry[1]):
                if number in seen:
                    continue
                seen.add(number)
                node = self._node(number, f"{directory.path.rstrip('/')}/{name}")
                if node.kind == "directory":
                    waiting.append(node)
                else:
                    found.append(node)
            if len(found) > _MAX_NODES:
                raise ValueError(f"more than {_MAX_NODES} inodes")
        return iter(sorted(found, key=lambda node: node.path))

    def _entries(self, directory: Node) -> Iterator[tuple[int, str]]:
        """(inode number, name) of a directory, without "." and ".."."""
        if directory.size > _MAX_DIRECTORY or directory.packed:
            raise ValueError(f"the directory {directory.path} is too large or compressed")
        content = directory.content(self._image)
        for start in range(0, len(content), self.block):
            yield from _block_entries(content[start : start + self.block])

    def _node(self, number: int, path: str) -> Node:
        at = self._meta + number * _SLOT
        if at > self.size:
            raise ValueError(f"the inode of {path} lies outside")
        form, attributes, mode = _FIRST.unpack_from(self._image, at)
        if form & 1:
            (size,) = struct.unpack_from("<Q", self._image, at + 8)
            header = 64
        else:
            (size,) = struct.unpack_from("<I", self._image, at + 8)
            header = 32
        (where,) = struct.unpack_from("<I", self._image, at + 16)
        end = at + header + (12 + 4 * (attributes - 1) if attributes else 0)
        kind = _kind(mode)
        layout = form >> 1 & 7
        if kind == "other" and not stat.S_ISLNK(mode):
            # Of devices, the field is a number.
            return self._inside(Node(path, kind, 0, at, end))
        if layout == _FLAT_PLAIN:
            blocks = -(-size // self.block)
            data = where * self.block if blocks else 0
            node = Node(path, kind, size, at, end, data, blocks * self.block)
        elif layout == _FLAT_INLINE:
            blocks = max(-(-size // self.block) - 1, 0)
            tail = size - blocks * self.block
            data = where * self.block if blocks else 0
            node = Node(path, kind, size, at, end + tail, data, blocks * self.block, end, tail)
        elif layout in (_COMPRESSED_FULL, _COMPRESSED_COMPACT):
            start = self._first_block(end, size, compact=layout == _COMPRESSED_COMPACT)
            data, blocks = start * self.block, where if start else 0
            node = Node(path, kind, size, at, end, data, blocks * self.block, packed=True)
        else:
            # Chunks of several places: handled as what lies between the files.
            node = Node(path, kind, size, at, end, packed=True)
        return self._inside(node)

    def _inside(self, node: Node) -> Node:
        if node.data_size and not 0 < node.data <= node.data + node.data_size <= self.size:
            raise ValueError(f"the blocks of {node.path} lie outside")
        if node.inode_end > self.size:
            raise ValueError(f"the inode of {node.path} lies outside")
        return node

    def _first_block(self, end: int, size: int, *, compact: bool) -> int:
        """Block of the first compressed cluster; zmap.c, z_erofs_load_{full,compact}_lcluster."""
        header = -(-end // 8) * 8
        advise, _, bits = struct.unpack_from("<HBB", self._image, header + 4)
        index = header + _MAP_HEADER
        if bits & 0x80:
            return 0  # all of it lies among the fragments of all files
        if not compact:
            kind, _, block = struct.unpack_from("<HHI", self._image, index + 8)
            return int(block) if kind & 3 != _CLUSTER_NOT_HEAD else 0
        clusters = -(-size // (self.block << (bits & 7)))
        initial = (32 - index % 32) // 4 % 8
        two_bytes = bool(advise & _ADVISE_COMPACTED_2B) and initial == 0 and clusters >= 16
        pack = 32 if two_bytes else 8
        (base,) = struct.unpack_from("<I", self._image, index + pack - 4)
        return int(base) + (0 if advise & _ADVISE_BIG_PCLUSTER else 1)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "other"


def _block_entries(block: bytes) -> Iterator[tuple[int, str]]:
    """Entries of one block of a directory: first all heads, then all names."""
    if not block:
        return
    (first,) = struct.unpack_from("<H", block, 8)
    if first < _ENTRY.size or first > len(block):
        raise ValueError("a directory whose names lie outside of its block")
    heads = [_ENTRY.unpack_from(block, at) for at in range(0, first - 11, _ENTRY.size)]
    ends = [head[1] for head in heads[1:]] + [len(block)]
    for (number, start, _, _), end in zip(heads, ends, strict=True):
        if not first <= start <= end:
            raise ValueError("a directory whose names lie outside of its block")
        name = block[start:end].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if name not in (".", ".."):
            yield number, name
