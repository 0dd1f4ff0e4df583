"""Whose key made a signature, by its own words: issuer and serial number. Pure.

The kernel has checked the signature against its keyring, which holds every
publisher of the image; what it does not tell is which of them signed. A
strict, tiny reading of DER (X.690) is enough: SignedData (RFC 5652, section
5.1) with exactly one SignerInfo, and the head of an X.509 certificate (RFC
5280, section 4.1). Issuer and serial are compared byte by byte, as the kernel
does when it looks for the key.
"""

from __future__ import annotations

from recovery.value import Value

_INTEGER, _OBJECT, _SEQUENCE, _SET, _CONTEXT_0, _CONTEXT_1 = 2, 6, 0x30, 0x31, 0xA0, 0xA1
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")


class Signer(Value):
    """issuer: the DER of the issuer's name. serial: content of the DER integer."""

    issuer: bytes
    serial: bytes


def of_signature(data: bytes) -> Signer:
    """Who made the PKCS#7 signature. Raises ValueError when it has another form."""
    content = _only(data, _SEQUENCE)
    kind, content = _take(content, _OBJECT)
    if kind != _SIGNED_DATA:
        raise ValueError("not SignedData")
    signed = _only(_only(content, _CONTEXT_0), _SEQUENCE)
    _, signed = _take(signed, _INTEGER)
    _, signed = _take(signed, _SET)
    _, signed = _take(signed, _SEQUENCE)
    for optional in (_CONTEXT_0, _CONTEXT_1):  # certificates, revocation lists
        if signed[:1] == bytes([optional]):
            _, signed = _take(signed, optional)
    # One SignerInfo: with several, the kernel's key and ours might be different ones.
    info = _only(_only(signed, _SET), _SEQUENCE)
    _, info = _take(info, _INTEGER)
    identity, _ = _take(info, _SEQUENCE)
    issuer, serial = _whole(identity, _SEQUENCE)
    return Signer(issuer, _only(serial, _INTEGER))


def of_certificate(data: bytes) -> Signer:
    """Issuer and serial of a certificate. Raises ValueError when it is none."""
    body, _ = _take(_only(data, _SEQUENCE), _SEQUENCE)
    if body[:1] == bytes([_CONTEXT_0]):  # version
        _, body = _take(body, _CONTEXT_0)
    serial, body = _take(body, _INTEGER)
    _, body = _take(body, _SEQUENCE)  # signature algorithm
    issuer, _ = _whole(body, _SEQUENCE)
    return Signer(issuer, serial)


def _take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the first value in data, which must have this tag, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError(f"expected tag {tag:#x}")
    length, start = data[1], 2
    if length >= 0x80:
        count = length & 0x7F
        digits = data[2 : 2 + count]
        start += count
        length = int.from_bytes(digits, "big")
        # The only one form that DER allows: no indefinite length, no leading zeros.
        if not 1 <= count <= 3 or len(digits) != count or digits[0] == 0 or length < 0x80:
            raise ValueError("not a DER length")
    if len(data) < start + length:
        raise ValueError("cut short")
    return data[start : start + length], data[start + length :]


def _whole(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The first value with its header, and what follows it."""
    _, rest = _take(data, tag)
    return data[: len(data) - len(rest)], rest


def _only(data: bytes, tag: int) -> bytes:
    """Content of the one value that data consists of."""
    content, rest = _take(data, tag)
    if rest:
        raise ValueError("data behind the end")
    return content
