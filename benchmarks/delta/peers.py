"""The other tools on the same pair. Each needs its program on the PATH, or says that it is missing.

casync     chunks of 64 KiB (its default) and 16 KiB on average; what the old store lacks is fetched
RAUC       its adaptive method "block-hash-index", COMPUTED, not run: SHA-256 of every 4 KiB block,
           32 bytes each; a missing block fetches the compressed block of the bundle (a squashfs of
           zstd level 15) that holds it; neighbours are one request
zchunk     chunks as zck cuts them; what the old file lacks is fetched
xdelta3    -9, with its default window and with one that holds the whole old image
zstd       -19 --patch-from with a window that holds both images
bsdiff     on the whole images, only where they are small
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from benchmarks.delta.figures import Result, Skipped, measured, timed
from recovery import process
from recovery.errors import ToolError

_BLOCK = 4096
# The largest old image, in bytes, that bsdiff is given.
_SORTED = 150_000_000


@dataclass(frozen=True)
class Files:
    """The images as files of just their size, a folder for what a tool writes, and how many
    seconds it may take.

    streams: what the images consist of: the root image, and where there is one the boot artifact
    behind it, each old and new. old and new have the streams one after the other.
    """

    old: Path
    new: Path
    work: Path
    patience: float
    streams: tuple[tuple[Path, Path], ...]

    @property
    def patch(self) -> Path:
        """What a tool makes."""
        return self.work / "patch"

    @property
    def out(self) -> Path:
        """What it makes of that."""
        return self.work / "out"

    def checked(self, made: Path) -> None:
        """Raises ToolError when a tool made other bytes than the new image's."""
        if not filecmp.cmp(made, self.new, shallow=False):
            raise ToolError(f"cannot use what was measured: {made.name} is not the new image")
        made.unlink()


Peer = Callable[[Files], Iterator[Result]]


def casync(files: Files) -> Iterator[Result]:
    """Its stores hold a compressed file for each chunk."""
    for name, sizes in (("casync 64K", ""), ("casync 16K", "4096:16384:65536")):
        options = [f"--chunk-size={sizes}"] if sizes else []
        stores: list[Mapping[str, int]] = []
        for image in (files.old, files.new):
            index = files.work / f"{image.name}.caibx"
            store = files.work / f"{name}.{image.name}.castr"
            encode: list[str | Path] = ["casync", "make", f"--store={store}", *options]
            made = measured([*encode, index, image], patience=files.patience)
            chunks = store.rglob("*.cacnk")
            stores.append({chunk.name: chunk.stat().st_size for chunk in chunks})
        missing = [size for chunk, size in stores[1].items() if chunk not in stores[0]]
        decode: list[str | Path] = ["casync", "extract", f"--store={store}", *options]
        decode += [f"--seed={files.old}", "--seed-output=no", index, files.out]
        applied = measured(decode, patience=files.patience)
        files.checked(files.out)
        size = sum(missing) + index.stat().st_size
        yield Result(name, size, len(missing) + 1, made, applied)


def rauc(files: Files) -> Iterator[Result]:
    """Computed, see above."""
    known: set[bytes] = set()
    missing: list[int] = []
    count = 0

    def compare() -> None:
        nonlocal count
        known.update(digest for _, digest in _blocks(files.old))
        for number, digest in _blocks(files.new):
            if digest not in known:
                known.add(digest)
                missing.append(number)
            count += 1

    cost = timed(compare)
    index = 32 * count
    note = "computed"
    for name, unit in (("64K", 65536), ("128K", 131072)):
        wanted = sorted({number * _BLOCK // unit for number in missing})
        size = index + _compressed(files.new, wanted, unit)
        yield Result(f"RAUC adaptive, zstd {name}", size, _runs(wanted) + 1, cost, None, note)
    size = index + len(missing) * _BLOCK
    yield Result("RAUC adaptive, not compressed", size, _runs(missing) + 1, cost, None, note)


def zchunk(files: Files) -> Iterator[Result]:
    """Chunks by zck_read_header; extracting from an old file is its downloader's, not timed."""
    headers: list[tuple[int, dict[str, int]]] = []
    for image in (files.old, files.new):
        made = files.work / f"{image.name}.zck"
        cost = measured(
            ["zck", "-u", "--chunk-hash-type", "sha256", "-o", made, image], patience=files.patience
        )
        text = process.run(["zck_read_header", "-c", made]).stdout
        headers.append(_zchunk_header(text))
    (_, old), (size, new) = headers
    missing = [length for digest, length in new.items() if digest not in old]
    yield Result("zchunk", size + sum(missing), len(missing) + 1, cost)


def xdelta3(files: Files) -> Iterator[Result]:
    """One file."""
    for name, options in (("xdelta3 -9", []), ("xdelta3 -9 -B512M", ["-B", str(512 << 20)])):
        encode: list[str | Path] = [
            "xdelta3",
            "-e",
            "-9",
            "-f",
            *options,
            "-s",
            files.old,
            files.new,
            files.patch,
        ]
        decode: list[str | Path] = [
            "xdelta3",
            "-d",
            "-f",
            *options,
            "-s",
            files.old,
            files.patch,
            files.out,
        ]
        yield _whole(name, files, encode, decode)


def zstd(files: Files) -> Iterator[Result]:
    """One file."""
    origin = f"--patch-from={files.old}"
    larger = max(files.old.stat().st_size, files.new.stat().st_size)
    window = max(27, larger.bit_length())
    encode: list[str | Path] = [
        "zstd",
        "-19",
        f"--long={window}",
        "-T1",
        "-qf",
        origin,
        files.new,
        "-o",
        files.patch,
    ]
    decode: list[str | Path] = [
        "zstd",
        "-dqf",
        f"--long={window}",
        "--memory=2048MB",
        origin,
        files.patch,
        "-o",
        files.out,
    ]
    yield _whole("zstd -19 --patch-from", files, encode, decode)


def bsdiff(files: Files) -> Iterator[Result]:
    """One file. Sorts all suffixes of the old image: 17 bytes of memory for each of its bytes."""
    size = files.old.stat().st_size
    if size > _SORTED:
        raise ToolError(
            f"only measured with --small: it would take {17 * size >> 30} GiB and half an hour"
        )
    encode: list[str | Path] = ["bsdiff", files.old, files.new, files.patch]
    decode: list[str | Path] = ["bspatch", files.old, files.out, files.patch]
    yield _whole("bsdiff", files, encode, decode)


PEERS: Mapping[str, Peer] = {
    "casync": casync,
    "rauc": rauc,
    "zchunk": zchunk,
    "xdelta3": xdelta3,
    "zstd": zstd,
    "bsdiff": bsdiff,
}
_PROGRAMS = {"zchunk": "zck", "rauc": None}


def run(name: str, files: Files) -> Iterator[Result | Skipped]:
    """All results of a peer, or why there are none."""
    program = _PROGRAMS.get(name, name)
    if program is not None and shutil.which(program) is None:
        yield Skipped(name, f"{program} is not installed (Debian package {name})")
        return
    try:
        yield from PEERS[name](files)
    except ToolError as error:
        yield Skipped(name, error.brief)
    finally:
        shutil.rmtree(files.work)
        files.work.mkdir()


def _whole(
    name: str, files: Files, encode: Sequence[str | Path], decode: Sequence[str | Path]
) -> Result:
    made = measured(encode, patience=files.patience)
    applied = measured(decode, patience=files.patience)
    files.checked(files.out)
    return Result(name, files.patch.stat().st_size, 1, made, applied)


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        number = 0
        while block := stream.read(_BLOCK):
            yield number, hashlib.sha256(block).digest()
            number += 1


def _compressed(path: Path, numbers: Sequence[int], unit: int) -> int:
    compressor = zstandard.ZstdCompressor(level=15)
    total = 0
    with path.open("rb") as stream:
        for number in numbers:
            stream.seek(number * unit)
            total += len(compressor.compress(stream.read(unit)))
    return total


def _runs(numbers: Sequence[int]) -> int:
    """How many ranges of neighbours there are. numbers: sorted."""
    return sum(1 for at, number in enumerate(numbers) if at == 0 or numbers[at - 1] != number - 1)


def _zchunk_header(text: str) -> tuple[int, dict[str, int]]:
    """Bytes of the header, and of each chunk's stored form by the digest of its content."""
    size = int(re.search(r"Header size:\s*(\d+)", text)[1])  # type: ignore[index]
    chunks: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 5 or not re.fullmatch("[0-9a-f]{64}", words[1]):
            continue
        digests = [word for word in words if re.fullmatch("[0-9a-f]{64}", word)]
        # Columns: number, digest stored, digest of the content, start, stored size, size.
        numbers = [int(word) for word in words[1 + len(digests) :] if word.isdigit()]
        chunks[digests[-1]] = numbers[1]
    return size, chunks
