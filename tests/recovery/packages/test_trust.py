"""Who signed a package, and whether that name is theirs."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from recovery.errors import ManifestError, TrustError
from recovery.packages import signer, trust
from recovery.packages.digest import signed_message

Identity = tuple[rsa.RSAPrivateKey, x509.Certificate]


def identity(name: str, serial: int) -> Identity:
    """A publisher's key and self-signed certificate."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.datetime(2024, 1, 1))
        .not_valid_after(datetime.datetime(2044, 1, 1))
        .sign(key, hashes.SHA256())
    )
    return key, certificate


@pytest.fixture(scope="module")
def acme() -> Identity:
    return identity("acme", 0x81)


@pytest.fixture(scope="module")
def other() -> Identity:
    return identity("other", 2)


def signature(*signers: Identity) -> bytes:
    """A package's signature as the kernel takes it."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(signed_message("ab" * 32))
    for key, certificate in signers:
        builder = builder.add_signer(certificate, key, hashes.SHA256())
    options = pkcs7.PKCS7Options
    return builder.sign(
        Encoding.DER,
        [options.DetachedSignature, options.Binary, options.NoAttributes, options.NoCerts],
    )


def image(root: Path, patterns: list[str], acme: Identity) -> Path:
    """An image that trusts acme for names that match patterns."""
    folder = root / trust.DIRECTORY / "publishers"
    folder.mkdir(parents=True)
    (folder / "acme.der").write_bytes(acme[1].public_bytes(Encoding.DER))
    document = {"format": 1, "publishers": {"acme": {"packages": patterns}}}
    (folder.parent / "publishers.json").write_text(json.dumps(document))
    return root


def test_the_signer_of_a_signature_is_the_one_of_its_certificate(
    acme: Identity, other: Identity
) -> None:
    certificate = acme[1].public_bytes(Encoding.DER)
    assert signer.of_signature(signature(acme)) == signer.of_certificate(certificate)
    assert signer.of_signature(signature(other)) != signer.of_certificate(certificate)


def test_a_signature_of_two_signers_is_refused(acme: Identity, other: Identity) -> None:
    with pytest.raises(ValueError, match="behind the end"):
        signer.of_signature(signature(acme, other))


def test_every_cut_signature_is_refused(acme: Identity) -> None:
    data = signature(acme)
    for size in range(len(data)):
        with pytest.raises(ValueError):
            signer.of_signature(data[:size])


def test_lengths_that_der_does_not_allow_are_refused(acme: Identity) -> None:
    data = signature(acme)
    assert data[:2] == b"\x30\x82"
    for wrong in (b"\x30\x80" + data[4:], b"\x30\x83\x00" + data[2:]):
        with pytest.raises(ValueError):
            signer.of_signature(wrong)


def test_a_publisher_may_sign_names_of_its_patterns_only(tmp_path: Path, acme: Identity) -> None:
    publishers = trust.load(image(tmp_path, ["acme-*", "vpn"], acme))
    assert publishers.check(signature(acme), "acme-radio") == "acme"
    assert publishers.check(signature(acme), "vpn") == "acme"
    with pytest.raises(TrustError, match="acme may not sign that name"):
        publishers.check(signature(acme), "firewall")


def test_a_stranger_is_refused(tmp_path: Path, acme: Identity, other: Identity) -> None:
    publishers = trust.load(image(tmp_path, ["*"], acme))
    with pytest.raises(TrustError, match="does not know who signed it"):
        publishers.check(signature(other), "vpn")
    with pytest.raises(TrustError, match="cannot be read"):
        publishers.check(b"no signature", "vpn")


def test_a_listed_publisher_without_certificate_is_an_error(tmp_path: Path, acme: Identity) -> None:
    root = image(tmp_path, ["*"], acme)
    (root / trust.DIRECTORY / "publishers/acme.der").unlink()
    with pytest.raises(ManifestError, match=r"publishers\.json"):
        trust.load(root)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "anything", True),
        ("vpn", "vpn", True),
        ("vpn", "vpn2", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("ab*ba", "aba", False),
        ("a*bb*b", "abb", False),
        ("*x*", "axb", True),
        ("a?c", "abc", False),
        ("[ab]*", "abc", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert trust.matches(pattern, name) is expected
