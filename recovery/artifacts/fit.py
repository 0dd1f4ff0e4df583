"""U-Boot's boot artifact: a FIT, whose parts have SHA-256 hashes.

U-Boot, doc/usage/fit/source_file_format.rst; the devicetree specification, 5 (flattened
format). What is outside of the hashed data is held against what it must be for the
board's script to start it (imager/firmware/u_boot.py, u_boot_load.cmd).
"""

from __future__ import annotations

import struct

from recovery.artifacts.content import Artifact, Checked, DamageError

_HEADER = struct.Struct(">10I")
_MAGIC, _VERSION = 0xD00DFEED, 17
_BEGIN, _END_NODE, _PROPERTY, _NOP, _END = 1, 2, 3, 4, 9
_LONGEST_STRINGS = 1 << 16
_LONGEST_NAME = 64
_LONGEST_VALUE = 256
_MOST_TOKENS = 2000
_DEEPEST = 6
# What the parts are called, and what they must be.
_TYPES = {"kernel": "kernel", "ramdisk": "ramdisk", "arguments": "script", "fdt": "flat_dt"}
_NEEDED = ("kernel", "ramdisk", "arguments")
_CONFIGURATION = "slot"
_COMPRESSIONS = ("none", "gzip")


class _Node:
    """properties: where each value begins and how many bytes it has."""

    def __init__(self) -> None:
        self.properties: dict[str, tuple[int, int]] = {}
        self.children: dict[str, _Node] = {}


def check(artifact: Artifact) -> Checked:
    """Raises DamageError, OSError."""
    header = _HEADER.unpack(artifact.take(0, _HEADER.size))
    magic, total, structure, strings, _, version, compatible, _, strings_size, size = header
    if magic != _MAGIC or version != _VERSION or compatible > _VERSION:
        raise DamageError("has a damaged header")
    inside = structure >= _HEADER.size and strings >= _HEADER.size
    if not inside or max(structure + size, strings + strings_size) > total or structure % 4:
        raise DamageError("has a damaged header")
    if total > artifact.size or strings_size > _LONGEST_STRINGS:
        raise DamageError("has a damaged header")
    names = artifact.take(strings, strings_size)
    root = _read(artifact, structure, structure + size, names)
    _check_configuration(artifact, root)
    images = _child(root, "images")
    missing = [name for name in _NEEDED if name not in images.children]
    if missing:
        raise DamageError(f"has no part {missing[0]}")
    for name, image in images.children.items():
        _check_image(artifact, name, image)
    if (
        len({_text(artifact, i, "arch") for n, i in images.children.items() if n != "arguments"})
        > 1
    ):
        raise DamageError("has parts for different machines")
    return Checked(total)


def _check_configuration(artifact: Artifact, root: _Node) -> None:
    """The one that is started names the parts that are there."""
    found = _child(root, "configurations")
    chosen = _child(found, _CONFIGURATION)
    parts = ["kernel", "ramdisk"]
    if "fdt" in _child(root, "images").children:
        parts.append("fdt")
    for part in parts:
        if _text(artifact, chosen, part) != part:
            raise DamageError(f"does not use its part {part}")


def _check_image(artifact: Artifact, name: str, image: _Node) -> None:
    if _text(artifact, image, "type") != _TYPES.get(name):
        raise DamageError(f"has a damaged part {name}")
    if _text(artifact, image, "compression") not in _COMPRESSIONS:
        raise DamageError(f"has a damaged part {name}")
    if name in ("kernel", "ramdisk") and _text(artifact, image, "os") != "linux":
        raise DamageError(f"has a damaged part {name}")
    if name == "kernel" and _value(artifact, image, "load") != _value(artifact, image, "entry"):
        raise DamageError(f"has a damaged part {name}")
    start, size = _place(image, "data")
    hashes = [node for key, node in image.children.items() if key.startswith("hash")]
    if not hashes:
        raise DamageError(f"has no hash of its part {name}")
    for node in hashes:
        if _text(artifact, node, "algo") != "sha256":
            raise DamageError(f"has no SHA-256 of its part {name}")
        if _value(artifact, node, "value") != artifact.digest((start, start + size)):
            raise DamageError(f"has a damaged part {name}")


def _read(artifact: Artifact, at: int, end: int, names: bytes) -> _Node:
    """The root node of the structure block, which has nothing before and behind it."""
    top = _Node()
    open_nodes = [top]
    for _ in range(_MOST_TOKENS):
        (token,) = struct.unpack(">I", _inside(artifact, at, 4, end))
        at += 4
        if token == _BEGIN:
            name = _name(artifact, at, end)
            at = _aligned(at + len(name) + 1)
            node, parent = _Node(), open_nodes[-1]
            if name in parent.children or len(open_nodes) > _DEEPEST or (parent is top and name):
                raise DamageError("has a damaged structure")
            parent.children[name] = node
            open_nodes.append(node)
        elif token == _END_NODE and len(open_nodes) > 1:
            open_nodes.pop()
        elif token == _PROPERTY and len(open_nodes) > 1:
            size, place = struct.unpack(">II", _inside(artifact, at, 8, end))
            at += 8
            if at + size > end:
                raise DamageError("has a damaged structure")
            key = _string(names, place)
            if key in open_nodes[-1].properties:
                raise DamageError("has a damaged structure")
            open_nodes[-1].properties[key] = (at, size)
            at = _aligned(at + size)
        elif token == _END and len(open_nodes) == 1 and "" in top.children:
            return top.children[""]
        elif token != _NOP:
            break
    raise DamageError("has a damaged structure")


def _inside(artifact: Artifact, at: int, size: int, end: int) -> bytes:
    if at + size > end:
        raise DamageError("has a damaged structure")
    return artifact.take(at, size)


def _name(artifact: Artifact, at: int, end: int) -> str:
    name, zero, _ = artifact.take(at, max(0, min(_LONGEST_NAME, end - at))).partition(b"\0")
    if not zero:
        raise DamageError("has a damaged structure")
    return name.decode("latin-1")


def _string(names: bytes, place: int) -> str:
    end = names.find(b"\0", place)
    if place >= len(names) or not 0 <= end - place <= _LONGEST_NAME:
        raise DamageError("has a damaged structure")
    return names[place:end].decode("latin-1")


def _child(node: _Node, name: str) -> _Node:
    if name not in node.children:
        raise DamageError(f"has no {name}")
    return node.children[name]


def _place(node: _Node, name: str) -> tuple[int, int]:
    if name not in node.properties:
        raise DamageError(f"has a part without {name}")
    return node.properties[name]


def _value(artifact: Artifact, node: _Node, name: str) -> bytes:
    """A short value."""
    start, size = _place(node, name)
    if size > _LONGEST_VALUE:
        raise DamageError("has a damaged structure")
    return artifact.take(start, size)


def _text(artifact: Artifact, node: _Node, name: str) -> str:
    return _value(artifact, node, name).removesuffix(b"\0").decode("latin-1")


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4
