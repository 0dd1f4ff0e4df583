"""Our delta on a pair: made and applied by processes of their own, so that both can be measured.

`python -m benchmarks.delta.ours make|apply FOLDER` is what the benchmark starts. FOLDER holds
`old` and `new`; making adds `parts/` and `delta.json`, applying writes `out` from these and `old`
alone, one frame after the other, and checks each piece against its signed digest.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zstandard

from benchmarks.delta.figures import Result, measured
from benchmarks.delta.peers import Files
from delta.frame import apply as apply_frame
from imager.segments import LEVEL, SEGMENT_SIZE
from manifests.delta import FORMAT, Delta, Part
from recovery.errors import ToolError


class Piece(msgspec.Struct, frozen=True):
    """Of the new image. full_size: bytes when it is fetched in full."""

    sha256: str
    full_size: int


class Made(msgspec.Struct, frozen=True):
    """What is in delta.json: the document as published; size and pieces as in the image's index."""

    document: Delta
    size: int
    pieces: tuple[Piece, ...]


def run(files: Files, *, workers: int, level: int = LEVEL) -> Result:
    """Makes and applies; raises ToolError when what is made is not the new image.

    level: of compression of what is fetched in full.
    """
    # Every image is published as pieces, for those who have no base: no cost of a delta.
    (files.work / "full").mkdir()
    pieces = list(_pieces(files.new, files.work / "full", level))
    (files.work / "pieces.json").write_bytes(msgspec.json.encode(pieces))
    for name, image in (("old", files.old), ("new", files.new)):
        (files.work / name).symlink_to(image)
    command = [sys.executable, "-m", __name__]
    made = measured([*command, "make", files.work, str(workers)])
    result = msgspec.json.decode((files.work / "delta.json").read_bytes(), type=Made)
    (files.work / "new").unlink()
    applied = measured([*command, "apply", files.work])
    files.checked(files.out)
    document = msgspec.json.encode(result.document)
    missing = list(_in_full(result))
    size = len(document) + sum(part.size for part in result.document.parts)
    size += sum(piece.full_size for piece in missing)
    count = 1 + len(result.document.parts) + len(missing)
    note = f"{len(missing)} of {len(result.pieces)} pieces in full" if missing else ""
    return Result("Orbital", size, count, made, applied, note)


def _pieces(image: Path, folder: Path, level: int) -> Iterator[Piece]:
    compressor = zstandard.ZstdCompressor(level=level)
    with image.open("rb") as stream:
        while data := stream.read(SEGMENT_SIZE):
            stored = compressor.compress(data)
            name = hashlib.sha256(data).hexdigest()
            (folder / name).write_bytes(stored)
            yield Piece(name, len(stored))


def _in_full(made: Made) -> Iterator[Piece]:
    at = 0
    for frame in made.document.root:
        if not frame.size:
            yield from made.pieces[at : at + frame.segments]
        at += frame.segments


def _make(folder: Path, workers: int) -> None:
    # Only this process needs what makes deltas; its memory is what is measured.
    from imager.delta.parts import LARGEST, Packer
    from imager.delta.stream import make

    pieces = msgspec.json.decode((folder / "pieces.json").read_bytes(), type=list[Piece])
    frames = make(
        folder / "old",
        (folder / "old").stat().st_size,
        folder / "new",
        (folder / "new").stat().st_size,
        piece=SEGMENT_SIZE,
        full_sizes=[piece.full_size for piece in pieces],
        workers=workers,
    )
    packer = Packer(LARGEST)
    placed = packer.add(frames)
    (folder / "parts").mkdir()
    parts: list[Part] = []
    for data in packer.parts:
        part = Part(len(data), hashlib.sha256(data).hexdigest())
        (folder / "parts" / part.sha256).write_bytes(data)
        parts.append(part)
    document = Delta(FORMAT, "1", "0" * 64, placed, (), tuple(parts))
    (folder / "delta.json").write_bytes(
        msgspec.json.encode(Made(document, (folder / "new").stat().st_size, tuple(pieces)))
    )


class _Device:
    """The base as a device reads it: from its block device, not from a mapping."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there."""
        return os.pread(self._file, size, offset)


def _apply(folder: Path) -> None:
    made = msgspec.json.decode((folder / "delta.json").read_bytes(), type=Made)
    base = _Device(folder / "old")
    part, data = -1, b""
    memory = memoryview(bytearray(16 << 20))
    number = 0
    with (folder / "out").open("wb") as out:
        for frame in made.document.root:
            if frame.size and frame.part != part:
                part, data = frame.part, _part(folder, made.document.parts[frame.part])
            size = min(frame.segments * SEGMENT_SIZE, made.size - out.tell())
            into = memory[:size]
            if frame.size:
                apply_frame(data[frame.offset : frame.offset + frame.size], base, into)
            for start in range(0, size, SEGMENT_SIZE):
                piece, wanted = into[start : start + SEGMENT_SIZE], made.pieces[number].sha256
                if not frame.size:
                    stored = (folder / "full" / wanted).read_bytes()
                    piece[:] = zstandard.ZstdDecompressor().decompress(stored)
                if hashlib.sha256(piece).hexdigest() != wanted:
                    raise ToolError(f"cannot make piece {number}: its digest is not the signed one")
                number += 1
            out.write(into)
        out.flush()
        os.fsync(out.fileno())


def _part(folder: Path, part: Part) -> bytes:
    data = (folder / "parts" / part.sha256).read_bytes()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ToolError(f"cannot use the part {part.sha256}: it is damaged")
    return data


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        _apply(Path(sys.argv[2]))
