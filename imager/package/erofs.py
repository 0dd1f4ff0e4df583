"""Reads an erofs image into a tree without mounting it and without any tool.

Only what packages are: uncompressed, no extended attributes, files,
directories and symbolic links. On-disk format: Linux, fs/erofs/erofs_fs.h.
Every offset is checked against the file: what is read may be damaged.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imager.tree import Entry, Slice, Tree
from recovery.errors import ManifestError

BLOCK = 4096
_SUPERBLOCK_AT = 1024
_MAGIC = 0xE0F5E1E2
# magic, checksum, compatible features, log2 of the block size, extra slots, root
# node, nodes, time, nanoseconds, blocks, first metadata block, ... incompatible features.
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII32xI")
_NODE_SLOT = 32
# form, extended attributes, mode, links, size, reserved, first block, number, uid, gid
_COMPACT = struct.Struct("<HHHHIIIIHH4x")
# form, extended attributes, mode, reserved, size, first block, number, uid, gid, times, links
_EXTENDED = struct.Struct("<HHHHQIIII28x")
_PLAIN, _INLINE = 0, 2
_ENTRY = struct.Struct("<QHBB")
_ENTRIES_AT_MOST = 200_000
_PATH_MAX = 4096


@dataclass(frozen=True)
class _Node:
    number: int
    layout: int
    mode: int
    uid: int
    gid: int
    size: int
    block: int
    after: int  # where inline data begins


def read_tree(path: Path, size: int) -> Tree:
    """The tree in the first size bytes of the file; contents stay there as slices.

    Raises ManifestError when they are not such an image.
    """
    try:
        with path.open("rb") as stream:
            return _Image(path, stream, size).tree()
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ManifestError(
            f"cannot read the image in {path}: {error}",
            resolution="build the package again with 'orbital package build'",
        ) from error


class _Image:
    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self._path, self._stream, self._size = path, stream, size
        fields = _SUPERBLOCK.unpack(self._read(_SUPERBLOCK_AT, _SUPERBLOCK.size))
        if fields[0] != _MAGIC:
            raise ValueError("not an erofs image")
        if 1 << fields[3] != BLOCK:
            raise ValueError("its blocks are not of 4 KiB")
        if fields[12]:
            raise ValueError(f"it needs the features {fields[12]:#x}, which packages do not use")
        self._root = fields[5]
        self._metadata = fields[10] * BLOCK
        self._tree = Tree()
        self._count = 0

    def tree(self) -> Tree:
        root = self._node(self._root)
        if not stat.S_ISDIR(root.mode):
            raise ValueError("its root is not a directory")
        # Directories that are being or were read: one that appears twice is a loop.
        seen = {root.number}
        todo = [("", root)]
        while todo:
            prefix, directory = todo.pop()
            for name, number in self._names(directory):
                path, node = f"{prefix}{name}", self._node(number)
                self._count += 1
                if self._count > _ENTRIES_AT_MOST or len(path) > _PATH_MAX:
                    raise ValueError("more entries than a package may have")
                self._tree.put(path, self._entry(path, node))
                if stat.S_ISDIR(node.mode):
                    if number in seen:
                        raise ValueError(f"{path} is a directory that is somewhere else, too")
                    seen.add(number)
                    todo.append((f"{path}/", node))
        return self._tree

    def _entry(self, path: str, node: _Node) -> Entry:
        permissions = stat.S_IMODE(node.mode)
        if stat.S_ISDIR(node.mode):
            return Entry("directory", permissions, node.uid, node.gid)
        if stat.S_ISLNK(node.mode):
            if node.size > _PATH_MAX:
                raise ValueError(f"{path} is a link with a target of {node.size} bytes")
            target = self._content(node).decode("utf-8")
            return Entry("symlink", 0o777, node.uid, node.gid, target=target)
        if not stat.S_ISREG(node.mode):
            raise ValueError(f"{path} is neither file, directory nor link")
        return Entry("file", permissions, node.uid, node.gid, content=self._slice(node))

    def _node(self, number: int) -> _Node:
        at = self._metadata + number * _NODE_SLOT
        (form,) = struct.unpack("<H", self._read(at, 2))
        layout = form >> 1 & 7
        if form & ~0xF or layout not in (_PLAIN, _INLINE):
            raise ValueError(f"node {number} has the unknown form {form:#x} (compressed?)")
        if form & 1:
            _, attributes, mode, _, size, block, _, uid, gid = _EXTENDED.unpack(
                self._read(at, _EXTENDED.size)
            )
            after = at + _EXTENDED.size
        else:
            _, attributes, mode, _, size, _, block, _, uid, gid = _COMPACT.unpack(
                self._read(at, _COMPACT.size)
            )
            after = at + _COMPACT.size
        if attributes:
            raise ValueError(f"node {number} has extended attributes")
        return _Node(number, layout, mode, uid, gid, size, block, after)

    def _slice(self, node: _Node) -> bytes | Slice:
        if node.size == 0:
            return b""
        if node.layout == _PLAIN:
            return self._checked(node.block * BLOCK, node.size)
        if node.size <= BLOCK:
            return self._checked(node.after, node.size)
        return self._content(node)

    def _content(self, node: _Node) -> bytes:
        if node.layout == _PLAIN or node.size == 0:
            return self._read(node.block * BLOCK, node.size)
        # Whole blocks lie together, the rest (at most a block) behind the node.
        whole = (node.size - 1) // BLOCK * BLOCK
        head = self._read(node.block * BLOCK, whole)
        return head + self._read(node.after, node.size - whole)

    def _names(self, directory: _Node) -> list[tuple[str, int]]:
        data = self._content(directory)
        found: list[tuple[str, int]] = []
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            first = _ENTRY.unpack_from(block)[1]
            if first % _ENTRY.size or not 0 < first <= len(block):
                raise ValueError("a directory is damaged")
            entries = [_ENTRY.unpack_from(block, at) for at in range(0, first, _ENTRY.size)]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (number, begin, _, _), end in zip(entries, ends, strict=True):
                if not first <= begin < end <= len(block):
                    raise ValueError("a directory is damaged")
                name = block[begin:end].split(b"\0")[0].decode("utf-8")
                if name not in (".", ".."):
                    if "/" in name or not name:
                        raise ValueError(f"the name {name!r} in a directory")
                    found.append((name, number))
        return found

    def _checked(self, offset: int, size: int) -> Slice:
        if offset + size > self._size:
            raise ValueError(f"{size} bytes at {offset} are beyond its end")
        return Slice(self._path, offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        if size == 0:
            return b""
        if offset + size > self._size:
            raise ValueError(f"{size} bytes at {offset} are beyond its end")
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) != size:
            raise ValueError("the file is shorter than its image")
        return data
