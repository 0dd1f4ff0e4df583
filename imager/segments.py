"""Cuts a file into segments and compresses each into a chunk, the same bytes on any host.

The pinned zstd of the tools tree compresses, so that a chunk's digest does not
depend on the library of the machine. Compressed segments are kept in the cache:
after a small change only the segments that changed are compressed again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from imager.cache import Cache, Input
from imager.tools import Tools
from manifests.index import Segment, Stream, chunk_name

SEGMENT_SIZE = 4 << 20
# On two cores for a 140 MB root: level 9 takes 3.5 s and 43 MB; 12 takes twice
# the time for 1 % less, 19 half a minute a core for 13 % less.
LEVEL = 9
_WORKERS = 2
_STREAM = "stream.json"


def cut(
    source: Path, cache: Cache, tools: Tools, *, size: int | None = None, level: int = LEVEL
) -> tuple[Stream, Path]:
    """The segments of a file, and the folder with its chunks: XX/SHA256 as published.

    size: only the first size bytes. level: of zstd, 1 to 19.
    """
    size = source.stat().st_size if size is None else size
    inputs: dict[str, Input] = {
        "source": source,
        "size": size,
        "level": level,
        "segment": SEGMENT_SIZE,
        "tools": tools.lock,
        "code": [Path(__file__)],
    }
    result = cache.stage(
        "segments",
        inputs,
        lambda directory: _build(source, size, directory, cache, tools, level=level),
    )
    return msgspec.json.decode((result / _STREAM).read_bytes(), type=Stream), result / "chunks"


def _build(
    source: Path, size: int, directory: Path, cache: Cache, tools: Tools, *, level: int
) -> None:
    store = cache.shared("segments")
    names, sizes, whole = _split(source, size, directory / "raw", store, level)
    missing = sorted((directory / "raw").iterdir()) if (directory / "raw").is_dir() else []
    _compress(missing, store, tools, level)
    segments: list[Segment] = []
    for name, length in zip(names, sizes, strict=True):
        stored = store / f"{name}.{level}"
        data = stored.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        chunk = directory / "chunks" / chunk_name(digest)
        chunk.parent.mkdir(parents=True, exist_ok=True)
        if not chunk.exists():
            os.link(stored, chunk)
        segments.append(Segment(length, name, len(data), digest))
    if (directory / "raw").is_dir():
        (directory / "raw").rmdir()
    stream = Stream(sum(sizes), whole, SEGMENT_SIZE, tuple(segments))
    (directory / _STREAM).write_bytes(msgspec.json.encode(stream))


def _split(
    source: Path, size: int, raw: Path, store: Path, level: int
) -> tuple[list[str], list[int], str]:
    """Digest and size of every segment, digest of the whole; raw/ gets those not in the store."""
    names: list[str] = []
    sizes: list[int] = []
    whole = hashlib.sha256()
    with source.open("rb") as stream:
        while data := stream.read(min(SEGMENT_SIZE, size)):
            size -= len(data)
            name = hashlib.sha256(data).hexdigest()
            whole.update(data)
            names.append(name)
            sizes.append(len(data))
            if not (store / f"{name}.{level}").exists():
                raw.mkdir(exist_ok=True)
                (raw / name).write_bytes(data)
    return names, sizes, whole.hexdigest()


def _compress(files: Sequence[Path], store: Path, tools: Tools, level: int) -> None:
    """Compresses the files into the store and removes them."""

    def work(share: Sequence[Path]) -> None:
        if not share:
            return
        with tempfile.TemporaryDirectory(prefix=".zstd.", dir=store) as directory:
            # One thread per frame and no checksum: SHA-256 covers the chunk already.
            tools.run(
                "zstd", "-q", "--no-progress", "--single-thread", "--no-check", f"-{level}",
                "--output-dir-flat", directory, *share,
            )  # fmt: skip
            for path in share:
                # Whole or absent: the store is shared with concurrent builds.
                Path(directory, f"{path.name}.zst").rename(store / f"{path.name}.{level}")
                path.unlink()

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(work, [files[number::_WORKERS] for number in range(_WORKERS)]))
