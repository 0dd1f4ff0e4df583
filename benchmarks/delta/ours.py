"""Our delta on a pair: made and applied by processes of their own, so that both can be measured.

`python -m benchmarks.delta.ours make|apply FOLDER` is what the benchmark starts. FOLDER holds
`0.old` and `0.new` of the root, `1.old` and `1.new` of the boot artifact if there is one; making
adds `parts/` and `delta.json`, applying writes `0.out`, `1.out` from these and the old ones alone,
one frame after the other, and checks each piece against its signed digest.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import zstandard

from benchmarks.delta.figures import Result, measured
from benchmarks.delta.peers import Files
from delta.frame import apply as apply_frame
from imager.segments import LEVEL, SEGMENT_SIZE
from manifests.delta import FORMAT, Delta, Frame, Part
from recovery.errors import ToolError


class Piece(msgspec.Struct, frozen=True):
    """Of the new image. full_size: bytes when it is fetched in full."""

    sha256: str
    full_size: int


class Stream(msgspec.Struct, frozen=True):
    """Size and pieces of a stream as in the image's index."""

    size: int
    pieces: tuple[Piece, ...]


class Made(msgspec.Struct, frozen=True):
    """What is in delta.json: the document as published, and what the index says."""

    document: Delta
    streams: tuple[Stream, ...]

    def frames(self) -> Iterator[tuple[Stream, tuple[Frame, ...]]]:
        """Each stream and its frames."""
        return zip(self.streams, (self.document.root, self.document.boot), strict=False)


def run(files: Files, *, workers: int, level: int = LEVEL) -> Result:
    """Makes and applies; raises ToolError when what is made is not the new image.

    level: of compression of what is fetched in full.
    """
    # Every image is published as pieces, for those who have no base: no cost of a delta.
    (files.work / "full").mkdir()
    streams = [
        Stream(new.stat().st_size, tuple(_pieces(new, files.work / "full", level)))
        for _, new in files.streams
    ]
    (files.work / "streams.json").write_bytes(msgspec.json.encode(streams))
    for number, images in enumerate(files.streams):
        for name, image in zip(("old", "new"), images, strict=True):
            (files.work / f"{number}.{name}").symlink_to(image)
    command = [sys.executable, "-m", __name__]
    made = measured([*command, "make", files.work, str(workers)])
    result = msgspec.json.decode((files.work / "delta.json").read_bytes(), type=Made)
    for number in range(len(streams)):
        (files.work / f"{number}.new").unlink()
    applied = measured([*command, "apply", files.work])
    with files.out.open("wb") as whole:
        for number in range(len(streams)):
            whole.write((files.work / f"{number}.out").read_bytes())
    files.checked(files.out)
    document = msgspec.json.encode(result.document)
    missing = list(_in_full(result))
    size = len(document) + sum(part.size for part in result.document.parts)
    size += sum(piece.full_size for piece in missing)
    count = 1 + len(result.document.parts) + len(missing)
    pieces = sum(len(stream.pieces) for stream in streams)
    note = f"{len(missing)} of {pieces} pieces in full" if missing else ""
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
    for stream, frames in made.frames():
        at = 0
        for frame in frames:
            if not frame.size:
                yield from stream.pieces[at : at + frame.segments]
            at += frame.segments


def _make(folder: Path, workers: int) -> None:
    # Only this process needs what makes deltas; its memory is what is measured.
    from imager.delta.parts import LARGEST, Packer
    from imager.delta.stream import Kind, make

    streams = msgspec.json.decode((folder / "streams.json").read_bytes(), type=tuple[Stream, ...])
    packer = Packer(LARGEST)
    placed: list[tuple[Frame, ...]] = []
    kinds: tuple[Kind, ...] = ("erofs", "plain")
    for number, (stream, kind) in enumerate(zip(streams, kinds, strict=False)):
        old, new = folder / f"{number}.old", folder / f"{number}.new"
        frames = make(
            old,
            old.stat().st_size,
            new,
            new.stat().st_size,
            piece=SEGMENT_SIZE,
            full_sizes=[piece.full_size for piece in stream.pieces],
            kind=kind,
            workers=workers,
        )
        placed.append(packer.add(frames))
    (folder / "parts").mkdir()
    parts: list[Part] = []
    for data in packer.parts:
        part = Part(len(data), hashlib.sha256(data).hexdigest())
        (folder / "parts" / part.sha256).write_bytes(data)
        parts.append(part)
    boot = placed[1] if len(placed) > 1 else ()
    document = Delta(FORMAT, "1", "0" * 64, placed[0], boot, tuple(parts))
    (folder / "delta.json").write_bytes(msgspec.json.encode(Made(document, streams)))


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
    for number, (stream, frames) in enumerate(made.frames()):
        base = _Device(folder / f"{number}.old")
        with (folder / f"{number}.out").open("wb") as out:
            for content in _frames(folder, made.document.parts, stream, frames, base):
                out.write(content)
            out.flush()
            os.fsync(out.fileno())


def _frames(
    folder: Path, parts: Sequence[Part], stream: Stream, frames: Sequence[Frame], base: _Device
) -> Iterator[memoryview]:
    """What each frame makes, one after the other in the same memory."""
    memory = memoryview(bytearray(16 << 20))
    part, data = -1, b""
    done = number = 0
    for frame in frames:
        if frame.size and frame.part != part:
            part, data = frame.part, _part(folder, parts[frame.part])
        into = memory[: min(frame.segments * SEGMENT_SIZE, stream.size - done)]
        if frame.size:
            apply_frame(data[frame.offset : frame.offset + frame.size], base, into)
        for start in range(0, len(into), SEGMENT_SIZE):
            piece, wanted = into[start : start + SEGMENT_SIZE], stream.pieces[number].sha256
            if not frame.size:
                stored = (folder / "full" / wanted).read_bytes()
                piece[:] = zstandard.ZstdDecompressor().decompress(stored)
            if hashlib.sha256(piece).hexdigest() != wanted:
                raise ToolError(f"cannot make piece {number}: its digest is not the signed one")
            number += 1
        done += len(into)
        yield into


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
