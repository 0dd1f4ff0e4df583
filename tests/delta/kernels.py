"""Kernels in miniature: stored as in the boot artifact of a PC, and as arm64 boots them.

Two versions differ as two builds do: most functions are the same, but lie elsewhere.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence

from imager.bzimage import stored

START = 0xFFFFFFFF81000000
ARM64_START = 0xFFFF800080000000
FUNCTIONS = 1500
TYPES = 1000
_ALLOC, _CODE = 2, 6


def sizes(*, newer: bool) -> dict[int, int]:
    """Bytes of each function, in the order in which they lie; in the newer kernel some grew, and
    one came."""
    chance = random.Random(1)
    found = {number: 16 * chance.randrange(4, 16) for number in range(FUNCTIONS)}
    if not newer:
        return found
    for number in range(100, FUNCTIONS, 400):
        found[number] += 48
    order = [*range(200), FUNCTIONS, *range(200, FUNCTIONS)]
    return {number: found.get(number, 64) for number in order}


def x86_64(*, newer: bool) -> bytes:
    """A stored frame with an ELF file, and the places that KASLR changes behind it."""
    places = _places(sizes(newer=newer), START)
    text = bytearray()
    changed = []
    for number, size in sizes(newer=newer).items():
        own = random.Random(f"x{number}")
        place, target, named = places[number], *(places[own.randrange(FUNCTIONS)] for _ in "ab")
        body = bytearray(own.randbytes(16 * 20)[:size])
        body[:5] = b"\xe8" + struct.pack("<i", target - place - 5)
        body[5:12] = b"\x48\xc7\xc7" + struct.pack("<I", named & 0xFFFFFFFF)
        changed.append(place + 8 & 0xFFFFFFFF)
        text += body
    table_at = -(-(START + len(text)) // 4096) * 4096
    table = b"".join(
        struct.pack("<i", place - table_at - 4 * number)
        for number, place in enumerate(places.values())
    )
    data_at = -(-(table_at + len(table)) // 4096) * 4096
    data = b"".join(struct.pack("<QQ", place, 7) for place in places.values())
    data += _names(places, START, -1)
    sections = (
        (".text", START, bytes(text), _CODE),
        (".orc_unwind_ip", table_at, table, _ALLOC),
        (".data", data_at, data, _ALLOC),
        (".BTF", data_at + len(data), types(newer=newer), _ALLOC),
    )
    relocations = struct.pack(f"<{len(changed)}I", *changed)
    return stored(_elf(sections) + relocations)


def arm64(*, newer: bool) -> bytes:
    """An image: code, then pointers to it, names and types."""
    places = _places(sizes(newer=newer), ARM64_START)
    text = bytearray()
    for number, size in sizes(newer=newer).items():
        own = random.Random(f"a{number}")
        target = places[own.randrange(FUNCTIONS)]
        words = [0xF9400000 | own.randrange(1 << 22) for _ in range(size // 4)]
        words[1] = 0x94000000 | (target - places[number] - 4 >> 2) & 0x3FFFFFF
        text += struct.pack(f"<{len(words)}I", *words)
    text += bytes(-len(text) % 4096)
    data = b"".join(struct.pack("<QQ", place, 7) for place in places.values()) * 4
    data += _names(places, ARM64_START, 1)
    data += types(newer=newer)
    data += bytes(-len(data) % 4096)
    image = bytearray(text + data)
    image[:128] = bytes(128)
    struct.pack_into("<Q", image, 16, len(image) + 4096)
    image[56:64] = b"ARM\x64" + struct.pack("<I", 64)
    struct.pack_into("<4sHH12xHH", image, 64, b"PE\0\0", 0xAA64, 1, 0, 0)
    struct.pack_into("<8sIIII", image, 88, b".text", len(image), 0, len(image), 0)
    return bytes(image)


def types(*, newer: bool) -> bytes:
    """Type information: structures that refer to each other, one more in the newer kernel."""
    chance = random.Random(4)
    known = [
        (f"type_{number}", [chance.randrange(TYPES) for _ in range(3)]) for number in range(TYPES)
    ]
    order = [*known[:300], *([("new_type", [0, 1, 2])] if newer else []), *known[300:]]
    numbers = {name: number for number, (name, _) in enumerate(order, start=1)}
    offsets, names = {}, b"\0"
    for name, _ in order:
        offsets[name] = len(names)
        names += name.encode() + b"\0"
    body = b"".join(
        struct.pack("<III", offsets[name], 4 << 24 | 3, 24)
        + b"".join(
            struct.pack("<III", offsets[f"type_{other}"], numbers[f"type_{other}"], 64 * number)
            for number, other in enumerate(members)
        )
        for name, members in order
    )
    return (
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(names))
        + body
        + names
    )


def _names(places: Mapping[int, int], start: int, direction: int) -> bytes:
    """Where each function is, the kernel's beginning, and the functions in the order of the
    alphabet."""
    numbers = {name: number for number, name in enumerate(places)}
    offsets = [place - start if direction > 0 else start - place - 1 for place in places.values()]
    order = sorted(places, key=lambda name: random.Random(name).random())
    table = struct.pack(f"<{len(offsets)}i", *offsets)
    table += bytes(-len(table) % 8) + struct.pack("<Q", start)
    return table + b"".join(numbers[name].to_bytes(3, "big") for name in order) + bytes(8)


def _places(of: Mapping[int, int], start: int) -> dict[int, int]:
    found = {}
    for name, size in of.items():
        found[name] = start
        start += size
    return found


def _elf(sections: Sequence[tuple[str, int, bytes, int]]) -> bytes:
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    body = bytearray(64)
    headers = [bytes(64)]
    for name, address, content, flags in sections:
        body += bytes(-len(body) % 4096)
        at = names.index(name.encode() + b"\0")
        place = len(body), len(content)
        headers.append(struct.pack("<IIQQQQIIQQ", at, 1, flags, address, *place, 0, 0, 1, 0))
        body += content
    at = names.index(b".shstrtab")
    headers.append(struct.pack("<IIQQQQIIQQ", at, 3, 0, 0, len(body), len(names), 0, 0, 1, 0))
    body += names + bytes(-len(names) % 8)
    body += bytes(-len(body) % 8)
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, START, 0, len(body), 0,
        64, 56, 0, 64, len(headers), len(headers) - 1,
    )  # fmt: skip
    return bytes(body) + b"".join(headers)
