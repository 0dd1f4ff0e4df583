"""Opens the kernel of a PC: the same EFI program, its payload stored instead of compressed.

Two compressed kernels have nothing in common; their contents have nearly everything. The
kernel's own decompressor takes a zstd frame of blocks that are stored (RFC 8878, 3.1.1.2), so
only where the payload lies and how long it is have to change: it is too large for its old
place, and comes last.

::

    .setup .compat      as they were
    .text               the page with the entry points; the rest of it was the payload
    .stub               what followed the payload: decompressor, EFI stub
    .data               as it was
    .linux              the payload

Addresses stay: nothing in the stub is moved, the payload's old addresses are a hole. What refers
to the payload are LEA instructions with exactly its distance; its length stands once beside the
length of the kernel. A kernel in which any of this is not so stays as it is. Only EFI can start
the result: the way through the 16-bit or 32-bit entry copies stub and payload as one.

Sources: Linux, Documentation/arch/x86/boot.rst, arch/x86/boot/header.S and
arch/x86/boot/compressed/; Microsoft, PE Format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import zstandard

_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
# Fields of the setup header. Those of the payload: protocol 2.08 and later.
_SETUP_SECTORS, _SYSTEM_SIZE, _VERSION, _PAYLOAD = 0x1F1, 0x1F4, 0x206, 0x248
_WITH_PAYLOAD = 0x208
_PE_AT = 0x3C
_X86_64, _PE32_PLUS = 0x8664, 0x20B
# Of the optional header.
_SIZE_OF_IMAGE, _DIRECTORIES, _CERTIFICATES = 56, 112, 4
_SECTION = struct.Struct("<8sIIII12xI")
_TEXT, _DATA = 0x60000020, 0x40000040
_PAGE = 0x1000
_FRAME = b"\x28\xb5\x2f\xfd"
# A single segment whose size follows in 4 bytes; no checksum.
_DESCRIPTOR = 0xA0
_BLOCK = 128 << 10
_STORED, _REPEATED = 0, 1
# No kernel is larger; the size of one is believed only after it was unpacked.
_LARGEST = 256 << 20
# REX.W (with or without .R), LEA, ModR/M with mod 00 and r/m 101.
_LEA = (b"\x48\x8d", b"\x4c\x8d")


@dataclass(frozen=True)
class _Section:
    name: bytes
    size: int
    address: int
    stored: int
    position: int
    flags: int

    @property
    def end(self) -> int:
        return self.address + self.stored


def open_kernel(kernel: bytes) -> bytes | None:
    """The kernel with its payload stored; None for one that this module does not understand."""
    try:
        return _opened(kernel)
    except (struct.error, IndexError, zstandard.ZstdError):
        return None


def _opened(kernel: bytes) -> bytes | None:
    if kernel[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or _number(kernel, _VERSION, 2) < _WITH_PAYLOAD:
        return None
    pe = _number(kernel, _PE_AT)
    optional = pe + 24
    machine, optional_magic = _number(kernel, pe + 4, 2), _number(kernel, optional, 2)
    if (kernel[pe : pe + 4], machine, optional_magic) != (b"PE\0\0", _X86_64, _PE32_PLUS):
        return None
    table = optional + _number(kernel, pe + 20, 2)
    protected = (kernel[_SETUP_SECTORS] + 1) * 512
    start = protected + _number(kernel, _PAYLOAD)
    end = start + _number(kernel, _PAYLOAD + 4)
    sections = [
        _Section(*_SECTION.unpack_from(kernel, table + index * 40))
        for index in range(_number(kernel, pe + 6, 2))
    ]
    if [section.name.rstrip(b"\0") for section in sections[-2:]] != [b".text", b".data"]:
        return None
    *_, text, data = sections
    room = (len(sections) + 2) * 40 + table
    content = _content(kernel[start:end])
    if (
        any(section.address != section.position for section in sections)
        or not text.address <= start < end < text.end == data.address
        or room > _SETUP_SECTORS
        or set(kernel[room - 80 : _SETUP_SECTORS - 1]) - {0, 0xFF}
        or content is None
    ):
        return None
    payload = stored(content) + kernel[end - 4 : end]
    first = _up(start)
    stub = replace(text, name=b".stub", address=end // _PAGE * _PAGE)
    stub = replace(stub, size=text.end - stub.address, stored=text.end - stub.address)
    text = replace(text, size=first - text.address, stored=first - text.address)
    place = _up(data.address + data.size)
    linux = _Section(b".linux", len(payload), place, _up(len(payload)), 0, _DATA)
    image = bytearray(kernel[: data.end])
    image[start:end] = bytes(end - start)
    if not _redirect(image, (start, end, data.end), place, len(payload), len(content)):
        return None
    image[room - 80 : room] = bytes(80)
    body = bytearray(image[: text.end])
    placed = [*sections[:-2], text]
    for section in (stub, data):
        placed.append(replace(section, position=len(body)))
        body += image[section.address : section.end]
    body += bytes(_up(len(body)) - len(body))
    placed.append(replace(linux, position=len(body)))
    body += payload + bytes(linux.stored - len(payload))
    for index, section in enumerate(placed):
        fields = (section.name, section.size, section.address, section.stored, section.position)
        _SECTION.pack_into(body, table + index * 40, *fields, section.flags)
    certificates = optional + _DIRECTORIES + 8 * _CERTIFICATES
    struct.pack_into("<H", body, pe + 6, len(placed))
    struct.pack_into("<I", body, optional + _SIZE_OF_IMAGE, place + linux.stored)
    struct.pack_into("<II", body, certificates, 0, 0)
    struct.pack_into("<II", body, _PAYLOAD, placed[-1].position - protected, len(payload))
    struct.pack_into("<I", body, _SYSTEM_SIZE, (len(body) - protected) // 16)
    return bytes(body)


def stored(content: bytes) -> bytes:
    """A zstd frame with the content as it is, but for blocks of one repeated byte."""
    return b"".join(
        [_FRAME, bytes([_DESCRIPTOR]), len(content).to_bytes(4, "little"), *_blocks(content)]
    )


def _blocks(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), _BLOCK):
        block = content[at : at + _BLOCK]
        last = at + _BLOCK >= len(content)
        repeated = block.count(block[0]) == len(block)
        kind = _REPEATED if repeated else _STORED
        yield (last | kind << 1 | len(block) << 3).to_bytes(3, "little")
        yield block[:1] if repeated else block


def _content(payload: bytes) -> bytes | None:
    """What is compressed, followed by its size."""
    if not payload.startswith(_FRAME):
        return None
    unpacking = zstandard.ZstdDecompressor(max_window_size=1 << 30).decompressobj()
    content = bytearray()
    for at in range(0, len(payload) - 4, _BLOCK):
        content += unpacking.decompress(payload[at : min(at + _BLOCK, len(payload) - 4)])
        if len(content) > _LARGEST:
            return None
    return bytes(content) if unpacking.eof and len(content) == _number(payload, -4) else None


def _redirect(
    image: bytearray, ends: tuple[int, int, int], place: int, size: int, length: int
) -> bool:
    """Makes the stub find the payload at its new place; whether it could be done.

    ends: where the payload began and ended, and where the stub ends; as addresses, which before
    are positions as well.
    """
    start, end, last = ends
    found = 0
    for low, high in ((start // _PAGE * _PAGE, start), (end, last)):
        for at in range(low + 3, high - 3):
            if at + 4 + int.from_bytes(image[at : at + 4], "little", signed=True) == start:
                if bytes(image[at - 3 : at - 1]) not in _LEA or image[at - 1] & 0xC7 != 5:
                    return False
                struct.pack_into("<i", image, at, place - at - 4)
                found += 1
    lengths = struct.pack("<II", end - start, length)
    where = image.find(lengths, end)
    if not found or where < 0 or image.find(lengths, where + 1) >= 0:
        return False
    struct.pack_into("<I", image, where, size)
    return True


def _up(number: int) -> int:
    return -(-number // _PAGE) * _PAGE


def _number(data: bytes, at: int, size: int = 4) -> int:
    if at < 0:
        at += len(data)
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "little")
