"""The package image: one erofs file with the manifest and usr/, the same bytes for the same tree.

::

    manifest.json       what the device reads (`recovery.packages.model`)
    sbom.cdx.json       what the content was made of; the device does not read it
    usr/...             the files

Not compressed: the image is read in place, chunks are compressed on their way,
and an update then shares what did not change.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from imager.archive import write_tar
from imager.package.erofs import BLOCK, read_tree
from imager.tools import Tools
from imager.tree import Tree
from recovery.errors import ToolError


def write_image(tree: Tree, output: Path, tools: Tools, *, name: str, built: int) -> None:
    """Writes the image of the tree.

    name: NAME_VERSION, from which the file system's UUID is made. built: the
    time of all files, seconds since the epoch.

    Raises ToolError when mkfs.erofs fails or what it wrote reads differently.
    """
    archive = output.with_suffix(".tar")
    write_tar(tree, archive, built)
    identifier = uuid.UUID(bytes=hashlib.sha256(f"orbital package {name}".encode()).digest()[:16])
    tools.run(
        "mkfs.erofs", "--quiet", f"-b{BLOCK}", f"-T{built}", f"-U{identifier}",
        # No extended attributes: file capabilities are given by units, not by files.
        "-x-1", "--all-root", "--workers=1",
        "--tar=f", output, archive,
    )  # fmt: skip
    archive.unlink()
    size = -(-output.stat().st_size // BLOCK) * BLOCK
    with output.open("r+b") as out:
        out.truncate(size)
    _compare(tree, read_tree(output, size), output)


def _compare(meant: Tree, written: Tree, output: Path) -> None:
    left, right = dict(meant.items()), dict(written.items())
    different = sorted(set(left) ^ set(right))
    different += [
        path
        for path in sorted(set(left) & set(right))
        if (left[path].kind, left[path].mode, left[path].target, left[path].size)
        != (right[path].kind, right[path].mode, right[path].target, right[path].size)
        or (left[path].kind == "file" and left[path].read() != right[path].read())
    ]
    if different:
        raise ToolError(
            f"cannot use {output.name}: mkfs.erofs wrote something else than was meant",
            details=f"different: {', '.join(different[:10])}",
        )
