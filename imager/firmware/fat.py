"""A FAT file system in a file, without mounting or root; the same inputs give the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from imager.tools import Tools
from recovery.fat import sectors_per_cluster

_ID = "0b17a100"


def make_fat(
    image: Path,
    size: int,
    files: Mapping[str, Path | bytes],
    tools: Tools,
    *,
    name: str,
    built: int,
    bits: int = 32,
) -> None:
    """Writes image, of size bytes, with the files (path to content).

    name: volume label. built: time of everything, seconds since the epoch. bits: 16 or 32.
    Raises ToolError.
    """
    with image.open("wb") as out:
        out.truncate(size)
    clusters = ["-s", str(sectors_per_cluster(size))] if bits == 32 else []
    environment = {"SOURCE_DATE_EPOCH": str(built), "TZ": "UTC"}
    tools.run(
        "mkfs.vfat", "--invariant", "-F", str(bits), *clusters, "-i", _ID, "-n", name, image,
        env=environment,
    )  # fmt: skip
    folders = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    if folders:
        # Parents sort before their children.
        tools.run("mmd", "-i", image, *(f"::/{path}" for path in sorted(folders)), env=environment)
    with tempfile.TemporaryDirectory(prefix="orbital-fat.") as directory:
        scratch = Path(directory, "content")
        for path, content in sorted(files.items()):
            if isinstance(content, bytes):
                scratch.write_bytes(content)
            source = scratch if isinstance(content, bytes) else content
            tools.run("mcopy", "-o", "-i", image, source, f"::/{path}", env=environment)
