"""The publisher's signature: PKCS#7 as the kernel's fs-verity takes it, read strictly.

SignedData with one signer, RSA with SHA-256, detached, without attributes and
certificates (RFC 5652, section 5; Linux, fs/verity/signature.c and
crypto/asymmetric_keys/pkcs7_parser.c). Anything else is refused, though it
might be valid PKCS#7: there is one form, and nothing hides in unused fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from recovery.errors import TrustError

# FS_VERITY_MAX_SIGNATURE_SIZE, Linux, fs/verity/fsverity_private.h.
LONGEST = 16128

_SEQUENCE, _SET, _INTEGER, _OCTETS, _OBJECT, _NULL, _CONTEXT_0 = 0x30, 0x31, 2, 4, 6, 5, 0xA0
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_DATA = bytes.fromhex("2a864886f70d010701")
_SHA256 = bytes.fromhex("608648016503040201")
_RSA = bytes.fromhex("2a864886f70d010101")
_SHA256_WITH_RSA = bytes.fromhex("2a864886f70d01010b")


@dataclass(frozen=True)
class Signature:
    """Who signed, as the certificate says it, and the RSA signature.

    issuer: DER of the certificate's issuer. serial: the certificate's serial number.
    """

    issuer: bytes
    serial: int
    value: bytes

    def is_of(self, certificate: x509.Certificate) -> bool:
        """Whether it names this certificate as its signer's."""
        return (
            certificate.issuer.public_bytes() == self.issuer
            and certificate.serial_number == self.serial
        )


def parse_signature(data: bytes) -> Signature:
    """The signature in data (DER). Raises TrustError when it has another form."""
    if len(data) > LONGEST:
        raise TrustError(f"cannot use a signature of {len(data)} bytes: at most {LONGEST}")
    try:
        return _parse(data)
    except ValueError as error:
        raise TrustError(
            f"cannot read the publisher's signature: {error}",
            details="expected PKCS#7 (DER): one signer, RSA with SHA-256, detached, "
            "no attributes, no certificates",
            resolution="an external signing command must do what 'openssl smime -sign -binary "
            "-noattr -nocerts -md sha256 -outform DER' does",
        ) from error


def verify_signature(data: bytes, message: bytes, certificate: x509.Certificate) -> None:
    """Checks that the certificate's key signed the message. Raises TrustError."""
    signature = parse_signature(data)
    name = certificate.subject.rfc4514_string()
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise TrustError(f"cannot verify with the certificate {name}: its key is not RSA")
    if not signature.is_of(certificate):
        raise TrustError(f"cannot accept the signature: it is not by the certificate {name}")
    try:
        key.verify(signature.value, message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise TrustError(
            f"cannot accept the signature: it does not verify against the certificate {name}"
        ) from error


class _Reader:
    """DER values in a row (X.690): definite, shortest lengths only."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, tag: int) -> bytes:
        """The content of the next value, which must have this tag."""
        start = self._at
        if self.peek() != tag:
            raise ValueError(f"expected tag {tag:#x} at byte {start}")
        length = self._byte(start + 1)
        header = 2
        if length & 0x80:
            count = length & 0x7F
            digits = self._data[start + 2 : start + 2 + count]
            length = int.from_bytes(digits, "big")
            if not 1 <= count <= 3 or len(digits) != count or length < (1 << 8 * (count - 1)):
                raise ValueError(f"not the shortest length at byte {start}")
            if length < 0x80:
                raise ValueError(f"not the shortest length at byte {start}")
            header += count
        end = start + header + length
        if end > len(self._data):
            raise ValueError(f"cut at byte {len(self._data)}")
        self._at = end
        return self._data[start + header : end]

    def whole(self, tag: int) -> bytes:
        """The next value with its header."""
        start = self._at
        self.take(tag)
        return self._data[start : self._at]

    def peek(self) -> int:
        """Tag of the next value; -1 at the end."""
        return self._data[self._at] if self._at < len(self._data) else -1

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise ValueError(f"unexpected data at byte {self._at}")

    def _byte(self, at: int) -> int:
        if at >= len(self._data):
            raise ValueError(f"cut at byte {at}")
        return self._data[at]


def _parse(data: bytes) -> Signature:
    content = _only(data, _SEQUENCE)
    _expect(content.take(_OBJECT), _SIGNED_DATA, "not SignedData")
    signed = _only(_last(content, _CONTEXT_0), _SEQUENCE)
    _expect(signed.take(_INTEGER), b"\x01", "another version of SignedData")
    _algorithm(_only(signed.take(_SET), _SEQUENCE), _SHA256)
    inner = _Reader(signed.take(_SEQUENCE))
    _expect(inner.take(_OBJECT), _DATA, "another content type")
    inner.end()
    signer = _only(_last(signed, _SET), _SEQUENCE)
    _expect(signer.take(_INTEGER), b"\x01", "another version of SignerInfo")
    identity = _Reader(signer.take(_SEQUENCE))
    issuer = identity.whole(_SEQUENCE)
    serial = int.from_bytes(identity.take(_INTEGER), "big", signed=True)
    identity.end()
    _algorithm(_Reader(signer.take(_SEQUENCE)), _SHA256)
    _algorithm(_Reader(signer.take(_SEQUENCE)), _RSA, _SHA256_WITH_RSA)
    return Signature(issuer, serial, _last(signer, _OCTETS))


def _only(data: bytes, tag: int) -> _Reader:
    """A reader of the content of the one value in data."""
    outer = _Reader(data)
    return _Reader(_last(outer, tag))


def _last(reader: _Reader, tag: int) -> bytes:
    content = reader.take(tag)
    reader.end()
    return content


def _expect(found: bytes, wanted: bytes, problem: str) -> None:
    if found != wanted:
        raise ValueError(problem)


def _algorithm(reader: _Reader, *wanted: bytes) -> None:
    if reader.take(_OBJECT) not in wanted:
        raise ValueError("another algorithm than RSA with SHA-256")
    # Parameters: NULL or absent (RFC 3370, section 2).
    if reader.peek() == _NULL:
        _expect(reader.take(_NULL), b"", "parameters of an algorithm")
    reader.end()
