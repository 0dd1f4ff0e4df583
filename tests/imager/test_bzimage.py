"""Kernels of PCs opened: what the stub finds in memory, on a kernel made by hand."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace

import pytest
import zstandard

from imager.bzimage import open_kernel, stored

PAGE = 0x1000
PROTECTED = 0x5000
ENTRY = 0x2CC
CONTENT = b"\x7fELF" + random.Random(1).randbytes(300_000) + bytes(600_000) + b"\x01" * 70_000
REX_LEA = (b"\x48\x8d\x3d", b"\x4c\x8d\x3d")


@dataclass(frozen=True)
class Parts:
    """What a kernel is made of. lea: instructions that refer to the payload."""

    payload: bytes = zstandard.ZstdCompressor(3).compress(CONTENT) + struct.pack("<I", len(CONTENT))
    lea: tuple[bytes, ...] = REX_LEA
    lengths: int = 1
    magic: bytes = b"HdrS"
    sections: tuple[bytes, ...] = (b".setup", b".compat", b".text", b".data")
    gap: bytes = b"\xff"


def kernel(parts: Parts) -> bytes:
    """A bzImage with as much of it as matters here."""
    start = PROTECTED + ENTRY
    stub = bytearray(random.Random(2).randbytes(3000))
    at = 256
    for instruction in parts.lea:
        place = start + len(parts.payload) + at
        stub[at : at + 7] = instruction + struct.pack("<i", start - place - 7)
        at += 100
    for _ in range(parts.lengths):
        stub[at : at + 8] = struct.pack("<II", len(parts.payload), len(CONTENT))
        at += 100
    text = random.Random(3).randbytes(ENTRY) + parts.payload + stub
    text += bytes(-len(text) % PAGE)
    data = PROTECTED + len(text)
    image = bytearray(parts.gap * PROTECTED + text + b"\x07" * 0x200 + b"a signature")
    image[0x1F1] = PROTECTED // 512 - 1
    image[0x202:0x206] = parts.magic
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<II", image, 0x248, ENTRY, len(parts.payload))
    struct.pack_into("<I", image, 0x3C, 0x40)
    struct.pack_into("<4sHH", image, 0x40, b"PE\0\0", 0x8664, len(parts.sections))
    struct.pack_into("<HHH", image, 0x54, 0xA0, 0x206, 0x20B)
    struct.pack_into("<I", image, 0x58 + 56, data + 0x8000)
    struct.pack_into("<II", image, 0x58 + 112 + 32, data + 0x200, 11)
    places = ((0x1000, 0x3000), (0x4000, 0x1000), (PROTECTED, len(text)), (data, 0x200))
    for index, (name, (place, size)) in enumerate(zip(parts.sections, places, strict=True)):
        memory = 0x8000 if index == 3 else size
        fields = (name, memory, place, size, place, 0x60000020)
        struct.pack_into("<8sIIII12xI", image, 0xF8 + 40 * index, *fields)
    return bytes(image)


def loaded(image: bytes) -> bytearray:
    """The memory that firmware gives to the program, with its sections."""
    memory = bytearray(struct.unpack_from("<I", image, 0x58 + 56)[0])
    memory[:PAGE] = image[:PAGE]
    end = PAGE
    for index in range(struct.unpack_from("<H", image, 0x46)[0]):
        _, size, place, raw, position = struct.unpack_from("<8sIIII", image, 0xF8 + 40 * index)
        assert place >= end, "sections ascend and do not overlap"
        assert place % PAGE == 0
        assert position % 512 == 0
        assert position + raw <= len(image)
        memory[place : place + min(size, raw)] = image[position : position + min(size, raw)]
        end = place + size
    assert end <= len(memory)
    return memory


def opened(parts: Parts) -> bytes:
    found = open_kernel(kernel(parts))
    assert found is not None
    return found


def test_the_stub_finds_the_same_kernel_in_the_stored_payload() -> None:
    parts = Parts()
    memory = loaded(opened(parts))
    before = PROTECTED + ENTRY + len(parts.payload)
    places = set()
    for number, instruction in enumerate(REX_LEA):
        at = before + 256 + 100 * number
        assert memory[at : at + 3] == instruction
        places.add(at + 7 + struct.unpack_from("<i", memory, at + 3)[0])
    (place,) = places
    size, length = struct.unpack_from("<II", memory, before + 256 + 200)
    payload = bytes(memory[place : place + size])
    assert length == len(CONTENT)
    assert payload[-4:] == struct.pack("<I", len(CONTENT))
    assert zstandard.ZstdDecompressor().decompress(payload[:-4]) == CONTENT


def test_nothing_else_of_the_program_moves() -> None:
    parts = Parts()
    old, new = loaded(kernel(parts)), loaded(opened(parts))
    start = PROTECTED + ENTRY
    end = start + len(parts.payload)
    changed = {at for at in range(end, len(old)) if old[at] != new[at]}
    known = {end + 256 + n for n in (3, 4, 5, 6, 103, 104, 105, 106, 200, 201, 202, 203)}
    assert changed <= known
    assert old[PAGE:start] == new[PAGE:start]
    # The setup header and entry point, but for sizes and the table of sections.
    assert old[0x202:0x248] == new[0x202:0x248]
    assert struct.unpack_from("<II", new, 0x58 + 112 + 32) == (0, 0)


def test_content_lies_open_and_what_repeats_takes_no_room() -> None:
    result = opened(Parts())
    assert CONTENT[1000:60_000] in result
    assert len(result) < len(CONTENT) - 300_000


def test_the_same_kernel_gives_the_same_bytes() -> None:
    assert opened(Parts()) == opened(Parts())


@pytest.mark.parametrize("size", [1, 128 << 10, (128 << 10) + 1, 700_000])
def test_a_stored_frame_is_a_zstd_frame(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert zstandard.ZstdDecompressor().decompress(stored(content)) == content
    assert zstandard.ZstdDecompressor().decompress(stored(bytes(size))) == bytes(size)


GZIPPED = b"\x1f\x8b\x08\x00" + bytes(5000)
SHORT = Parts().payload[:-4] + struct.pack("<I", len(CONTENT) - 1)


@pytest.mark.parametrize(
    "parts",
    [
        Parts(payload=GZIPPED),
        Parts(payload=SHORT),
        Parts(payload=Parts().payload[:-900] + Parts().payload[-4:]),
        Parts(lea=()),
        Parts(lea=(*REX_LEA, b"\x48\x8b\x3d")),
        Parts(lengths=0),
        Parts(lengths=2),
        Parts(magic=b"none"),
        Parts(sections=(b".setup", b".reloc", b".data", b".text")),
        Parts(gap=b"\x90"),
    ],
    ids=[
        *("gzip", "wrong length", "truncated", "not referred to", "another instruction"),
        *("no length", "two lengths", "no kernel", "other sections", "no room"),
    ],
)
def test_a_kernel_that_is_not_understood_stays_as_it_is(parts: Parts) -> None:
    assert open_kernel(kernel(parts)) is None


def test_garbage_and_beginnings_of_kernels_stay_as_they_are() -> None:
    whole = kernel(replace(Parts()))
    for size in (0, 1, 64, 0x100, 0x206, 0x250, PROTECTED, PROTECTED + 4000, len(whole) // 2):
        assert open_kernel(whole[:size]) is None
    damaged = bytearray(whole)
    struct.pack_into("<I", damaged, 0x3C, 0xFFFFFFF0)
    assert open_kernel(bytes(damaged)) is None
