"""Writes a tree as an archive, the same bytes for the same tree: tar and cpio (newc).

Both stream: contents are copied one file at a time, never all in memory.
Every entry gets one and the same time, so a build carries no clock.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imager.tree import Entry, Tree
from recovery.artifacts.cpio import SEAL, seal

_CPIO_KIND = {"directory": 0o040000, "file": 0o100000, "symlink": 0o120000}


def write_tar(tree: Tree, output: Path, mtime: int) -> None:
    """Writes an uncompressed tar (GNU format), with the top itself as ".".

    mtime: seconds since the epoch, of every entry.
    """
    with tarfile.open(output, "w", format=tarfile.GNU_FORMAT) as tar:
        top = tarfile.TarInfo(".")
        top.type, top.mode, top.mtime = tarfile.DIRTYPE, 0o755, mtime
        tar.addfile(top)
        for path, entry in tree.items():
            member = tarfile.TarInfo(path)
            member.mode, member.uid, member.gid, member.mtime = (
                entry.mode,
                entry.uid,
                entry.gid,
                mtime,
            )
            if entry.kind == "directory":
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            elif entry.kind == "symlink":
                member.type = tarfile.SYMTYPE
                member.linkname = entry.target
                tar.addfile(member)
            else:
                member.size = entry.size
                with _content(entry) as stream:
                    tar.addfile(member, stream)


def write_cpio(tree: Tree, output: Path, mtime: int, *, sealed: bool = False) -> None:
    """Writes a newc cpio archive, as the kernel unpacks an initramfs (initramfs buffer format).

    sealed: the last member tells the SHA-256 of all before it (`recovery.artifacts.cpio`).
    """
    with output.open("w+b") as out:
        number = 0
        for number, (path, entry) in enumerate(tree.items(), start=1):
            data = entry.target.encode() if entry.kind == "symlink" else entry.read()
            mode = _CPIO_KIND[entry.kind] | entry.mode
            _write_member(out, path, [number, mode, entry.uid, entry.gid, 1, mtime], data)
        if sealed:
            out.seek(0)
            digest = hashlib.file_digest(out, "sha256").digest()
            facts = [number + 1, _CPIO_KIND["file"] | 0o644, 0, 0, 1, mtime]
            _write_member(out, SEAL, facts, seal(digest))
        _write_member(out, "TRAILER!!!", [0, 0, 0, 0, 1, 0], b"")


def _write_member(out: BinaryIO, path: str, facts: list[int], data: bytes) -> None:
    """One member. facts: inode number, mode, owner, group, number of links, time."""
    name = path.encode("utf-8", "surrogateescape") + b"\0"
    # After the facts: size, device (2), special device (2), size of the name,
    # checksum (unused). 13 fields of 8 hex digits in all.
    fields = (*facts, len(data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    out.write(header + bytes(-len(header) % 4))
    out.write(data + bytes(-len(data) % 4))


@contextmanager
def _content(entry: Entry) -> Iterator[BinaryIO]:
    if isinstance(entry.content, bytes):
        yield io.BytesIO(entry.content)
        return
    with entry.content.path.open("rb") as stream:
        stream.seek(entry.content.offset)
        yield stream
