"""Whose key made a signature, by its own words: issuer and serial number. Pure.

The kernel has checked the signature against its keyring, which holds every
publisher of the image; what it does not tell is which of them signed. A
strict, tiny reading of DER (X.690) is enough: SignedData (RFC 5652, section
5.1) with exactly one SignerInfo, and the head of an X.509 certificate (RFC
5280, section 4.1). Issuer and serial are compared byte by byte, as the kernel
does when it looks for the key.
"""

from __future__ import annotations

from recovery.der import CONTEXT_0, CONTEXT_1, INTEGER, OBJECT, SEQUENCE, SET, only, take, whole
from recovery.value import Value

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")


class Signer(Value):
    """issuer: the DER of the issuer's name. serial: content of the DER integer."""

    issuer: bytes
    serial: bytes


def of_signature(data: bytes) -> Signer:
    """Who made the PKCS#7 signature. Raises ValueError when it has another form."""
    content = only(data, SEQUENCE)
    kind, content = take(content, OBJECT)
    if kind != _SIGNED_DATA:
        raise ValueError("not SignedData")
    signed = only(only(content, CONTEXT_0), SEQUENCE)
    _, signed = take(signed, INTEGER)
    _, signed = take(signed, SET)
    _, signed = take(signed, SEQUENCE)
    for optional in (CONTEXT_0, CONTEXT_1):  # certificates, revocation lists
        if signed[:1] == bytes([optional]):
            _, signed = take(signed, optional)
    # One SignerInfo: with several, the kernel's key and ours might be different ones.
    info = only(only(signed, SET), SEQUENCE)
    _, info = take(info, INTEGER)
    identity, _ = take(info, SEQUENCE)
    issuer, serial = whole(identity, SEQUENCE)
    return Signer(issuer, only(serial, INTEGER))


def of_certificate(data: bytes) -> Signer:
    """Issuer and serial of a certificate. Raises ValueError when it is none."""
    body, _ = take(only(data, SEQUENCE), SEQUENCE)
    if body[:1] == bytes([CONTEXT_0]):  # version
        _, body = take(body, CONTEXT_0)
    serial, body = take(body, INTEGER)
    _, body = take(body, SEQUENCE)  # signature algorithm
    issuer, _ = whole(body, SEQUENCE)
    return Signer(issuer, serial)
