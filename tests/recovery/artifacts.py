"""Small boot artifacts of each kind, made of bytes alone: an EFI program, an archive, a FIT.

The imager's own, made by its tools, are checked in tests/imager.
"""

from __future__ import annotations

import datetime
import hashlib
import struct
from functools import cache
from itertools import accumulate

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from recovery.artifacts.cpio import SEAL, seal

_ALIGNMENT = 512
_DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def make_artifact(kind: str, words: str, payload: bytes) -> bytes:
    """One of a kind. words: the kernel's command line. payload: stands for the kernel."""
    if kind == "uki":
        return sign_pe(make_uki(words, payload))
    if kind == "cpio":
        boot = f"linux16 /vmlinuz {words}\n".encode()
        return make_cpio({"boot.cfg": boot, "initrd": payload[:99], "vmlinuz": payload})
    script = f"setenv bootargs '{words}'\n".encode()
    return make_fit({"kernel": payload, "ramdisk": payload[:99], "arguments": script})


def make_unhashed(kind: str, words: str, payload: bytes) -> bytes:
    """As `make_artifact`, but with nothing to check it by: only GRUB's and the firmware's kind."""
    if kind == "uki":
        return make_uki(words, payload)
    assert kind == "cpio"
    boot = f"linux16 /vmlinuz {words}\n".encode()
    files = {"boot.cfg": boot, "initrd": payload[:99], "vmlinuz": payload}
    return make_cpio(files, sealed=False)


# EFI programs.


def make_pe(sections: dict[str, bytes]) -> bytes:
    """An unsigned EFI program with these sections."""
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    file_header = b"PE\0\0" + struct.pack("<2H3I2H", 0x8664, len(sections), 0, 0, 0, 240, 0x22E)
    table, data, address = b"", b"", 4096
    for name, content in sections.items():
        padded = content.ljust(_aligned(len(content), _ALIGNMENT), b"\0")
        table += name.encode().ljust(8, b"\0")
        table += struct.pack("<4I", len(content), address, len(padded), _ALIGNMENT + len(data))
        table += struct.pack("<2I2HI", 0, 0, 0, 0, 0x40000040)
        data += padded
        address = _aligned(address + len(content), 4096)
    optional = bytearray(240)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 32, 4096, _ALIGNMENT)
    struct.pack_into("<III", optional, 56, address, _ALIGNMENT, 0xC0FFEE)
    struct.pack_into("<I", optional, 108, 16)
    head = dos + file_header + bytes(optional) + table
    assert len(head) <= _ALIGNMENT
    return head.ljust(_ALIGNMENT, b"\0") + data


def make_uki(words: str, payload: bytes) -> bytes:
    """An unsigned UKI."""
    sections = {".cmdline": words.encode() + b"\0", ".initrd": payload[:99], ".linux": payload}
    return make_pe(sections)


def sign_pe(unsigned: bytes) -> bytes:
    """The same with a signature by a key of the tests'."""
    padded = unsigned.ljust(_aligned(len(unsigned), 8), b"\0")
    checksum, entry = 64 + 24 + 64, 64 + 24 + 144
    # What is signed has neither of the two places, so they may be filled in afterwards.
    digest = hashlib.sha256(padded[:checksum] + padded[checksum + 4 : entry] + padded[entry + 8 :])
    signature = make_signature(digest.digest())
    size = _aligned(8 + len(signature), 8)
    certificate = struct.pack("<IHH", size, 0x0200, 2) + signature
    signed = bytearray(padded + certificate.ljust(size, b"\0"))
    struct.pack_into("<II", signed, entry, len(padded), size)
    return bytes(signed)


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def _certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test db")])
    builder = x509.CertificateBuilder(name, name, _key().public_key(), 7, _DAY, _DAY.replace(2030))
    return builder.sign(_key(), hashes.SHA256())


def make_signature(digest: bytes) -> bytes:
    """PKCS#7 about a program with this digest, as programs that sign make it."""
    statement = _sequence(
        _sequence(_object("2b06010401823702010f"), _sequence(b"\x03\x01\0")),
        _sequence(_sha256(), _value(4, digest)),
    )
    content = _object("2b060104018237020104") + _value(0xA0, statement)
    inner = statement[len(statement) - _content_size(statement) :]
    about = hashlib.sha256(inner).digest()
    attributes = _sequence(
        _object("2a864886f70d010903"), _value(0x31, _object("2b060104018237020104"))
    ) + _sequence(_object("2a864886f70d010904"), _value(0x31, _value(4, about)))
    value = _key().sign(_value(0x31, attributes), padding.PKCS1v15(), hashes.SHA256())
    certificate = _certificate()
    signer = _sequence(
        _value(2, b"\1"),
        _sequence(certificate.issuer.public_bytes(), _value(2, b"\7")),
        _sha256(),
        _value(0xA0, attributes),
        _sequence(_object("2a864886f70d010101"), b"\5\0"),
        _value(4, value),
    )
    signed = _sequence(
        _value(2, b"\1"),
        _value(0x31, _sha256()),
        _sequence(content),
        _value(0xA0, certificate.public_bytes(Encoding.DER)),
        _value(0x31, signer),
    )
    return _sequence(_object("2a864886f70d010702"), _value(0xA0, signed))


def _value(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + content


def _content_size(value: bytes) -> int:
    return value[1] if value[1] < 0x80 else int.from_bytes(value[2 : 2 + (value[1] & 0x7F)], "big")


def _sequence(*parts: bytes) -> bytes:
    return _value(0x30, b"".join(parts))


def _object(digits: str) -> bytes:
    return _value(6, bytes.fromhex(digits))


def _sha256() -> bytes:
    return _sequence(_object("608648016503040201"), b"\5\0")


# Archives.


def make_cpio(files: dict[str, bytes], *, sealed: bool = True) -> bytes:
    """A newc archive."""
    archive = b"".join(_member(name, data) for name, data in files.items())
    if sealed:
        archive += _member(SEAL, seal(hashlib.sha256(archive).digest()))
    return archive + _member("TRAILER!!!", b"")


def _member(name: str, data: bytes) -> bytes:
    facts = (1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % fact for fact in facts) + name.encode() + b"\0"
    return head.ljust(_aligned(len(head), 4), b"\0") + data.ljust(_aligned(len(data), 4), b"\0")


# FITs.

_TYPES = {"kernel": "kernel", "ramdisk": "ramdisk", "arguments": "script", "fdt": "flat_dt"}


def make_fit(parts: dict[str, bytes], *, hashed: bool = True) -> bytes:
    """A FIT with these parts."""
    names: dict[str, int] = {}
    body = _node("")
    body += _property(names, "description", b"Orbital\0") + _node("images")
    for name, data in parts.items():
        body += _node(name) + _property(names, "data", data)
        body += _property(names, "type", _TYPES[name].encode() + b"\0")
        body += _property(names, "compression", b"none\0")
        if name != "arguments":
            body += _property(names, "arch", b"arm64\0")
        if name in ("kernel", "ramdisk"):
            body += _property(names, "os", b"linux\0")
        if name == "kernel":
            place = (0x40400000).to_bytes(4, "big")
            body += _property(names, "load", place) + _property(names, "entry", place)
        if hashed:
            body += _node("hash-1") + _property(names, "algo", b"sha256\0")
            body += _property(names, "value", hashlib.sha256(data).digest()) + _close()
        body += _close()
    body += _close() + _node("configurations")
    body += _property(names, "default", b"slot\0") + _node("slot")
    for name in parts:
        if name != "arguments":
            body += _property(names, name, name.encode() + b"\0")
    body += 3 * _close() + (9).to_bytes(4, "big")
    strings = b"".join(name.encode() + b"\0" for name in names)
    structure = 40 + 16
    total = structure + len(body) + len(strings)
    sizes = (structure, structure + len(body), 40, 17, 16, 0, len(strings), len(body))
    return struct.pack(">10I", 0xD00DFEED, total, *sizes) + bytes(16) + body + strings


def _node(name: str) -> bytes:
    text = name.encode() + b"\0"
    return (1).to_bytes(4, "big") + text.ljust(_aligned(len(text), 4), b"\0")


def _close() -> bytes:
    return (2).to_bytes(4, "big")


def _property(names: dict[str, int], name: str, data: bytes) -> bytes:
    if name not in names:
        ends = list(accumulate(len(known) + 1 for known in names))
        names[name] = ends[-1] if ends else 0
    head = struct.pack(">III", 3, len(data), names[name])
    return head + data.ljust(_aligned(len(data), 4), b"\0")


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to
