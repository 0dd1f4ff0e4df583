"""The signature inside an EFI program: which digest it signs, and whether it is whole itself.

"Windows Authenticode Portable Executable Signature Format" (Microsoft, 2008): SignedData (RFC
5652) about an SpcIndirectDataContent. Whom to trust is the firmware's to decide; here it is
only found out whether these bytes are what was signed, by the key in the certificate that
comes along. Pure.
"""

from __future__ import annotations

import hashlib

from recovery.der import (
    BITS,
    CONTEXT_0,
    CONTEXT_1,
    INTEGER,
    OBJECT,
    OCTETS,
    SEQUENCE,
    SET,
    only,
    take,
    whole,
)
from recovery.value import Value

LONGEST = 1 << 16
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_INDIRECT_DATA = bytes.fromhex("2b060104018237020104")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_RSA = bytes.fromhex("2a864886f70d010101")
# Hash algorithms (RFC 3370, RFC 5754). Found is damage, so a weak one serves as well.
_HASHES = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}
# PKCS #1 v1.5 (RFC 8017, 9.2): what stands between padding and digest.
_PREFIXES = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_LONGEST_KEY = 1024
_LONGEST_EXPONENT = 4
# Signature algorithms of certificates: sha256WithRSAEncryption and its kin (RFC 4055).
_SIGNED_WITH = {
    bytes.fromhex("2a864886f70d01010b"): "sha256",
    bytes.fromhex("2a864886f70d01010c"): "sha384",
    bytes.fromhex("2a864886f70d01010d"): "sha512",
}


class Signed(Value):
    """What a signature signs. algorithm: of the digest, as hashlib calls it."""

    algorithm: str
    digest: bytes


class _Certificate(Value):
    """What of a certificate is looked at. key: modulus and exponent; None for another kind."""

    issuer: bytes
    serial: bytes
    subject: bytes
    key: tuple[int, int] | None
    body: bytes
    algorithm: bytes
    signature: bytes


def read_signature(data: bytes) -> Signed:
    """The digest in a PKCS#7 signature. Raises ValueError: damaged, or of another form."""
    if len(data) > LONGEST:
        raise ValueError("too long")
    content = only(data, SEQUENCE)
    kind, content = take(content, OBJECT)
    if kind != _SIGNED_DATA:
        raise ValueError("not SignedData")
    signed = only(only(content, CONTEXT_0), SEQUENCE)
    _, signed = take(signed, INTEGER)
    _, signed = take(signed, SET)
    inner, signed = take(signed, SEQUENCE)
    kind, inner = take(inner, OBJECT)
    if kind != _INDIRECT_DATA:
        raise ValueError("not about a program")
    statement = only(only(inner, CONTEXT_0), SEQUENCE)
    certificates = b""
    for optional in (CONTEXT_0, CONTEXT_1):  # certificates, revocation lists
        if signed[:1] == bytes([optional]):
            found, signed = take(signed, optional)
            certificates = found if optional == CONTEXT_0 else certificates
    signers = only(signed, SET)
    while signers:
        one, signers = take(signers, SEQUENCE)
        _check_signer(one, statement, certificates)
    _, rest = take(statement, SEQUENCE)  # SpcAttributeTypeAndOptionalValue
    info = only(rest, SEQUENCE)
    algorithm, info = _hash(info)
    digest = only(info, OCTETS)
    if len(digest) != hashlib.new(algorithm).digest_size:
        raise ValueError("a digest of another length")
    return Signed(algorithm, digest)


def _check_signer(info: bytes, statement: bytes, certificates: bytes) -> None:
    """What one signer signed is this statement, by the key of its certificate."""
    _, info = take(info, INTEGER)
    identity, info = take(info, SEQUENCE)
    issuer, serial = whole(identity, SEQUENCE)
    serial = only(serial, INTEGER)
    algorithm, info = _hash(info)
    # Its signed attributes; signed is their form as a set (RFC 5652, 5.4).
    attributes, info = take(info, CONTEXT_0)
    signed = bytes([SET]) + _length(attributes) + attributes
    if _message_digest(attributes) != hashlib.new(algorithm, statement).digest():
        raise ValueError("about something else")
    scheme, info = take(info, SEQUENCE)
    scheme, _ = take(scheme, OBJECT)
    value, _ = take(info, OCTETS)
    certificate = _find(certificates, issuer, serial)
    if certificate.key is None or scheme not in (_RSA, *_SIGNED_WITH):
        return  # Made in a way that is not checked here.
    _check_rsa(certificate.key, algorithm, signed, value)
    # Only its own key is at hand: for one that another key signed nothing more is known.
    own = _SIGNED_WITH.get(certificate.algorithm)
    if own is not None and certificate.issuer == certificate.subject:
        _check_rsa(certificate.key, own, certificate.body, certificate.signature)


def _length(content: bytes) -> bytes:
    """The length in front of this content, as DER writes it."""
    length = len(content)
    if length < 0x80:
        return bytes([length])
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(digits)]) + digits


def _hash(data: bytes) -> tuple[str, bytes]:
    """The hash algorithm that data begins with, and what follows."""
    algorithm, rest = take(data, SEQUENCE)
    kind, _ = take(algorithm, OBJECT)
    if kind not in _HASHES:
        raise ValueError("another hash algorithm")
    return _HASHES[kind], rest


def _message_digest(attributes: bytes) -> bytes:
    while attributes:
        attribute, attributes = take(attributes, SEQUENCE)
        kind, values = take(attribute, OBJECT)
        if kind == _MESSAGE_DIGEST:
            return only(only(values, SET), OCTETS)
    raise ValueError("no digest of what is signed")


def _find(certificates: bytes, issuer: bytes, serial: bytes) -> _Certificate:
    while certificates:
        data, certificates = take(certificates, SEQUENCE)
        found = _certificate(data)
        if (found.issuer, found.serial) == (issuer, serial):
            return found
    raise ValueError("the signer's certificate is missing")


def _certificate(data: bytes) -> _Certificate:
    """data: the content of the certificate (RFC 5280, section 4.1)."""
    signed, rest = whole(data, SEQUENCE)
    algorithm, rest = take(rest, SEQUENCE)
    algorithm, _ = take(algorithm, OBJECT)
    signature = only(rest, BITS)
    body = only(signed, SEQUENCE)
    if body[:1] == bytes([CONTEXT_0]):  # version
        _, body = take(body, CONTEXT_0)
    serial, body = take(body, INTEGER)
    _, body = take(body, SEQUENCE)  # signature algorithm
    issuer, body = whole(body, SEQUENCE)
    _, body = take(body, SEQUENCE)  # validity
    subject, body = whole(body, SEQUENCE)
    key, _ = take(body, SEQUENCE)
    return _Certificate(issuer, serial, subject, _key(key), signed, algorithm, signature[1:])


def _key(data: bytes) -> tuple[int, int] | None:
    algorithm, bits = take(data, SEQUENCE)
    kind, _ = take(algorithm, OBJECT)
    if kind != _RSA:
        return None
    modulus, exponent = take(only(only(bits, BITS)[1:], SEQUENCE), INTEGER)
    exponent = only(exponent, INTEGER)
    if len(modulus) > _LONGEST_KEY or len(exponent) > _LONGEST_EXPONENT:
        raise ValueError("a key that is too long")
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def _check_rsa(key: tuple[int, int], algorithm: str, message: bytes, signature: bytes) -> None:
    """RSASSA-PKCS1-v1_5 (RFC 8017, 8.2.2). Raises ValueError."""
    modulus, exponent = key
    size = (modulus.bit_length() + 7) // 8
    value = int.from_bytes(signature, "big")
    end = _PREFIXES[algorithm] + hashlib.new(algorithm, message).digest()
    wanted = b"\0\1" + b"\xff" * (size - 3 - len(end)) + b"\0" + end
    if len(signature) != size or len(wanted) != size or value >= modulus:
        raise ValueError("a signature of another length")
    if pow(value, exponent, modulus) != int.from_bytes(wanted, "big"):
        raise ValueError("a signature that does not hold")
