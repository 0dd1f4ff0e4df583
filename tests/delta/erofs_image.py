"""Writes small erofs images, so that tests decide about each byte of them.

As mkfs.erofs does it: superblock, inodes with the ends of files inside, then blocks. What the
real tool writes is compared in test_erofs_real.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

BLOCK = 4096
_SLOT = 32


@dataclass
class _Node:
    path: str
    content: bytes
    directory: bool
    entries: dict[str, str] = field(default_factory=dict)
    place: int = 0
    blocks: int = 0
    start: int = 0

    @property
    def tail(self) -> int:
        """Bytes that lie behind the inode."""
        return len(self.content) - self.blocks * BLOCK


def erofs(files: Mapping[str, bytes], *, inline: bool = True, extended: bool = False) -> bytes:
    """An image with these files ("/usr/bin/env"); folders appear by themselves.

    inline: the last partial block of a file lies behind its inode. extended: 64-byte inodes.
    """
    nodes = _nodes(files)
    header = 64 if extended else 32
    at = BLOCK
    for node in nodes.values():
        if node.directory:
            node.content = bytes(_directory_size(node))
        whole = len(node.content) // BLOCK
        partial = len(node.content) % BLOCK > 0
        node.blocks = whole if inline else whole + partial
        needed = header + (node.tail if inline else 0)
        if at % BLOCK + needed > BLOCK:
            at = -(-at // BLOCK) * BLOCK
        node.place = at
        at = -(-(at + needed) // _SLOT) * _SLOT
    block = -(-at // BLOCK)
    for node in nodes.values():
        node.start = block
        block += node.blocks
    image = bytearray(block * BLOCK)
    root = nodes["/"].place // _SLOT
    struct.pack_into(
        "<IIIBBHQQIIII", image, 1024,
        0xE0F5E1E2, 0, 0, 12, 0, root, len(nodes), 0, 0, block, 0, 0,
    )  # fmt: skip
    for node in nodes.values():
        if node.directory:
            node.content = _directory(node, nodes)
        _write(image, node, inline=inline, extended=extended)
    return bytes(image)


def _nodes(files: Mapping[str, bytes]) -> dict[str, _Node]:
    nodes = {"/": _Node("/", b"", True)}
    for path, content in sorted(files.items()):
        parent = "/"
        *folders, name = path.strip("/").split("/")
        for folder in folders:
            here = f"{parent.rstrip('/')}/{folder}"
            nodes[parent].entries[folder] = here
            nodes.setdefault(here, _Node(here, b"", True))
            parent = here
        nodes[parent].entries[name] = path
        nodes[path] = _Node(path, content, False)
    return nodes


def _names(node: _Node) -> list[str]:
    return sorted([".", "..", *node.entries])


def _directory_size(node: _Node) -> int:
    size = sum(12 + len(name.encode()) for name in _names(node))
    if size > BLOCK:
        raise ValueError(f"{node.path} has too many names for this writer")
    return size


def _directory(node: _Node, nodes: Mapping[str, _Node]) -> bytes:
    names = _names(node)
    heads, texts = bytearray(), bytearray()
    for name in names:
        target = nodes[node.entries.get(name, node.path)]
        offset = 12 * len(names) + len(texts)
        heads += struct.pack(
            "<QHBB", target.place // _SLOT, offset, 2 if target.directory else 1, 0
        )
        texts += name.encode()
    return bytes(heads + texts)


def _write(image: bytearray, node: _Node, *, inline: bool, extended: bool) -> None:
    tail = node.tail if inline else 0
    layout = 2 if tail > 0 else 0
    mode = 0o040755 if node.directory else 0o100644
    size = len(node.content)
    if extended:
        struct.pack_into(
            "<HHHHQI", image, node.place, layout << 1 | 1, 0, mode, 0, size, node.start
        )
        end = node.place + 64
    else:
        struct.pack_into(
            "<HHHHIII", image, node.place, layout << 1, 0, mode, 1, size, 0, node.start
        )
        end = node.place + 32
    whole = size - max(tail, 0)
    image[node.start * BLOCK : node.start * BLOCK + whole] = node.content[:whole]
    if tail > 0:
        image[end : end + tail] = node.content[whole:]
