"""Golden frames: payloads that every later version must decode to the same bytes.

    python -m tests.delta.golden_frames

writes those that are missing in tests/delta/golden and changes none that is there: NAME.payload
and NAME.result, all with the same base.
"""

from __future__ import annotations

import lzma
import random
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from delta.frame import DICTIONARY, DIFFERENCE, OPENED, SPARSE, STORE, VERSION
from delta.head import Copy, Head, Range, Rewriting
from delta.machines.btf import LIMIT, Numbers
from delta.machines.moves import Moves
from delta.rewrite import INDEX_LIMIT, Kind, Region, Rewrite, apply_rewrite
from delta.sections import STORED, ZSTD, filters
from delta.varint import write
from imager.delta.difference import differences
from imager.delta.elf_write import written as encoded
from imager.delta.head import written
from imager.delta.sections import Effort, section, zstd_section
from imager.delta.stream import make
from tests.delta.erofs_image import erofs
from tests.delta.frames import content, decoded, edited

GOLDEN = Path(__file__).parent / "golden"
EFFORT = Effort(19)


def base() -> bytes:
    """The base: text, code, zeros, and a little noise."""
    chance = random.Random(2026)
    parts = (("text", 8000), ("code", 12000), ("zeros", 3000), ("noise", 1000))
    return b"".join(content(kind, size, chance) for kind, size in parts)


def frames(base: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """Name, payload and result of each."""
    chance = random.Random(5)
    nothing = Head((), (), {})
    copies = (Copy(0, Range(4096, 4096)), Copy(5000, Range(100, 50)), Copy(5050, Range(24, 9)))
    gap = b"".join(content(kind, 452, chance) for kind in ("text", "noise"))
    result = base[4096:8192] + gap + base[100:150] + base[24:33]
    yield "copies", _payload(STORE, Head(copies, (), {}), section(gap, EFFORT)), result
    yield "copies-only", _payload(STORE, Head(copies[:1], (), {}), write(0)), base[4096:8192]

    new = edited(base, 12, chance)
    for method, name in enumerate(("stored", "zstd", "lzma", "lzma-x86", "lzma-thumb")):
        yield f"store-{name}", _payload(STORE, nothing, _section(method, new)), new

    references = Head((), (Range(9000, 15000), Range(0, 9000)), {})
    shuffled = base[9000:] + base[:9000]
    data = zstd_section(new, shuffled, EFFORT)
    yield "dictionary", _payload(DICTIONARY, references, data), new
    for codec, data in differences(new, shuffled, EFFORT).items():
        yield NAMES[codec], _payload(codec, references, data), new
    mixed = Head(copies[:1], (Range(0, 24000),), {})
    data = differences(new, base, EFFORT)[SPARSE]
    # Parts that lie open, which every device can close; with zeros behind the second one.
    rest = len(new) - 20000
    numbers = (0, 0, 0, 100, 1, 24000, 24000 << 1, 2, 20000, rest + 96, 20000 << 1, rest << 1)
    tables = section(b"".join(map(write, numbers)), EFFORT)
    inside = _payload(SPARSE, Head((), (Range(0, 24000),), {}), data)
    around = Head((), (Range(0, 24000),), {})
    yield "opened", _payload(OPENED, around, tables + inside), new[100:] + bytes(90)
    yield "sparse-with-copies", _payload(SPARSE, mixed, data), base[4096:8192] + new
    yield from _rewritten(base, new)


def _rewritten(base: bytes, new: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """The base with regions of each kind; whatever bytes it has are addresses."""
    some = array("q", [0, 1 << 20, 1 << 31]), array("q", [0, 64, -4096])
    moves = Moves(0, LIMIT, *some)
    numbers = Numbers(Moves(0, LIMIT, *some), Moves(0, LIMIT, some[0], array("q", [1, 0, 2])))
    tables = array("q", [4, 8]), array("q", [3, 50])
    more: dict[Kind, dict[str, Any]] = {
        Kind.POINTERS: {"width": 4, "stride": 12},
        Kind.EVEN_POINTERS: {"width": 4, "stride": 4},
        Kind.OFFSETS: {"stride": 8, "base": 1 << 30},
        Kind.SWITCHES: {"tables": tables},
        Kind.HIGH_POINTERS: {"width": 4, "stride": 8, "base": 7},
        Kind.PLACES: {"width": 4, "stride": 4},
        Kind.DOWNWARDS: {"stride": 4, "base": 1 << 31},
        Kind.TYPES: {"numbers": numbers},
        Kind.INDEXES: {
            "stride": 3,
            "indexes": Moves(0, INDEX_LIMIT, some[0][:2], array("q", [3, -9])),
        },
    }
    regions = tuple(
        Region(kind, 1000 * number, 1000, 1 << 20, **more.get(kind, {}))
        for number, kind in enumerate(Kind)
    )
    rewrite = Rewrite(moves, regions)
    changed = bytearray(base)
    apply_rewrite(rewrite, 0, changed)
    head = Head((), (Range(0, len(base)),), {0: Rewriting(memoryview(encoded(rewrite)), 0)})
    data = differences(new, bytes(changed), EFFORT)[SPARSE]
    yield "sparse-rewritten", _payload(SPARSE, head, data), new


def inodes() -> tuple[bytes, bytes, bytes]:
    """Base, payload and result of predicted inodes: some moved, one grew, one is new."""
    chance = random.Random(9)
    files = {f"/folder{number % 3}/{number}": chance.randbytes(40 + number) for number in range(90)}
    files["/folder1/large"] = chance.randbytes(5000)
    changed = files | {"/folder0/0": files["/folder0/0"] + bytes(99), "/folder2/new": b"new"}
    changed["/folder1/large"] += chance.randbytes(4096)
    old, new = erofs(files), erofs(changed)
    with tempfile.TemporaryDirectory() as folder:
        for name, image in (("old", old), ("new", new)):
            (Path(folder) / name).write_bytes(image)
        paths = Path(folder) / "old", len(old), Path(folder) / "new", len(new)
        (frame,) = make(*paths, piece=4 << 20, workers=1)
    return old, frame.payload, new


NAMES = {DIFFERENCE: "difference", SPARSE: "sparse"}


def _payload(codec: int, head: Head, data: bytes) -> bytes:
    return bytes([VERSION, codec]) + written(head, EFFORT) + data


def _section(method: int, content: bytes) -> bytes:
    if method == STORED:
        return write(len(content)) + bytes([STORED]) + content
    if method == ZSTD:
        return zstd_section(content, b"", EFFORT)
    chain = filters(method, len(content), preset=9)
    stored = lzma.compress(content, format=lzma.FORMAT_RAW, filters=chain)
    return write(len(content)) + bytes([method]) + write(len(stored)) + stored


def main() -> None:
    """Writes what is missing."""
    _keep(GOLDEN / "base", base())
    for name, payload, result in frames(base()):
        assert decoded(payload, base(), len(result)) == result, name
        _keep(GOLDEN / f"{name}.result", result)
        _keep(GOLDEN / f"{name}.payload", payload)
    old, payload, result = inodes()
    assert decoded(payload, old, len(result)) == result
    _keep(GOLDEN / "inodes.base", old)
    _keep(GOLDEN / "inodes.result", result)
    _keep(GOLDEN / "inodes.payload", payload)


def _keep(path: Path, data: bytes) -> None:
    if not path.exists():
        path.write_bytes(data)


if __name__ == "__main__":
    main()
