"""A package image into the store, beside copying and syncing the same file.

`python -m benchmarks.packages_install [--size MB] [--pairs N] [--json]` cuts an image made of this
machine's /usr/lib into published segments and brings it into a store with the device's
code: segments read from a directory, digests compared, decompressed, written, and the
fs-verity digest of the whole computed and compared, renamed, flushed. The machine that builds need
not have fs-verity: there the digest is computed by `recovery.packages.digest`, which reads and
hashes what the kernel would. The floor reads the file, writes it, and flushes it.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import zstandard

from benchmarks.figures import Comparison, compare
from manifests.index import Segment, Stream
from manifests.package_index import PackageRelease
from recovery.packages.digest import file_digest
from recovery.reporter import SilentReporter
from updater.packages.fetch import fetch
from updater.packages.parcels import in_full
from updater.source import DirectorySource

AIM = 2.0
SEGMENT = 4 << 20
LEVEL = 9
_BLOCK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
# sync_file_range(2): WAIT_BEFORE, WRITE, WAIT_AFTER.
_WRITE_AND_WAIT = 1 | 2 | 4


class HashingVerity:
    """What the kernel does when a file is put under fs-verity, as far as it costs time.

    Linux, fs/verity/enable.c and fs/ext4/verity.c: the data is read and hashed from the page
    cache, then all blocks are written and waited for. Here there is no tree to write, 1/127.
    """

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def enable(self, path: Path, _signature: bytes) -> None:
        """Reads and hashes the file, then has its blocks written."""
        self._digests[path.name] = file_digest(path)
        with path.open("rb") as file:
            _libc.sync_file_range(file.fileno(), 0, 0, _WRITE_AND_WAIT)

    def measure(self, path: Path) -> str:
        """The digest, of a file that was enabled."""
        try:
            return self._digests[path.name]
        except KeyError as error:
            raise OSError("not under fs-verity") from error


def make_image(path: Path, size: int) -> None:
    """Real content of that size: libraries of this machine."""
    left = size
    with path.open("wb") as out:
        for file in sorted(Path("/usr/lib").rglob("*.so*")):
            if left and file.is_file() and not file.is_symlink():
                data = file.read_bytes()[:left]
                out.write(data)
                left -= len(data)
    os.truncate(path, size)


def published(image: Path, repository: Path) -> PackageRelease:
    """The image as segments in the repository."""
    data = image.read_bytes()
    segments = []
    for start in range(0, len(data), SEGMENT):
        piece = data[start : start + SEGMENT]
        stored = zstandard.compress(piece, LEVEL)
        name = hashlib.sha256(stored).hexdigest()
        path = repository / "chunks" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored)
        segments.append(Segment(len(piece), hashlib.sha256(piece).hexdigest(), len(stored), name))
    stream = Stream(len(data), hashlib.sha256(data).hexdigest(), SEGMENT, tuple(segments))
    digest = file_digest(image)
    return PackageRelease("1.0", "feature", "all", "", digest, "", stream, built=0)


def copied(image: Path, target: Path) -> None:
    """The floor: read, write, flush."""
    target.unlink(missing_ok=True)
    with image.open("rb") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, _BLOCK)
        out.flush()
        os.fsync(out.fileno())


def measure(size: int, pairs: int) -> Comparison:
    """Alternates both."""
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as name:
        work = Path(name)
        image = work / "image"
        make_image(image, size)
        (work / "repository/metadata").mkdir(parents=True)
        release = published(image, work / "repository")

        def install() -> None:
            # The directory stays, as on a device that has had a package.
            (work / "store" / release.digest).unlink(missing_ok=True)
            source = DirectorySource(work / "repository")
            parcel = in_full("bench", release)
            fetch(parcel, source, work / "store", SilentReporter(), verity=HashingVerity())

        return compare(
            f"a package of {size >> 20} MiB into the store",
            install,
            lambda: copied(image, work / "copy"),
            pairs=pairs,
            aim=AIM,
        )


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10, metavar="MB")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row = measure(options.size << 20, options.pairs)
    print(json.dumps(row.document(), indent=1) if options.json else row.row())


if __name__ == "__main__":
    main()
