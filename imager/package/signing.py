"""Signs package images as their publisher, and checks who signed one.

KEYS/packages/PUBLISHER.pem       certificate (RSA)
KEYS/packages/PUBLISHER.key       its private key, or
KEYS/packages/PUBLISHER.command   the external program that signs with it
KEYS/packages/publishers.json     who may sign which packages (`imager.publishers`)
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs7

from imager.keys import load_certificate
from imager.package.pkcs7 import LONGEST, parse_signature, verify_signature
from imager.publishers import LIST, load_publishers, may_sign
from imager.signing_command import filled, read_command
from recovery.errors import ManifestError, TrustError
from recovery.packages.digest import signed_message
from recovery.process import run

_OPTIONS = [
    pkcs7.PKCS7Options.DetachedSignature,
    pkcs7.PKCS7Options.Binary,
    pkcs7.PKCS7Options.NoAttributes,
    pkcs7.PKCS7Options.NoCerts,
]
_COMMAND_SECONDS = 300


class PackageSigner(Protocol):
    """Signs fs-verity digests with the key of one publisher."""

    def sign(self, digest: str) -> bytes:
        """The signature (PKCS#7, DER) of a digest (hex), verified against the certificate.

        Raises TrustError when it does not verify, ToolError when signing fails.
        """


@dataclass(frozen=True)
class KeyFileSigner:
    """Signs with a private key in a file. RSA has no randomness here: same digest, same bytes."""

    key: Path
    certificate: x509.Certificate

    def sign(self, digest: str) -> bytes:
        """The signature. Raises TrustError when key and certificate are not one pair."""
        try:
            private = load_pem_private_key(self.key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            # The message of the library never contains key material.
            raise ManifestError(
                f"cannot read the private key {self.key}: {error}",
                resolution="use an unencrypted PEM file, or an external signing command",
            ) from error
        if (
            not isinstance(private, rsa.RSAPrivateKey)
            or private.public_key() != self.certificate.public_key()
        ):
            raise TrustError(
                f"cannot sign with {self.key}: it does not belong to its certificate",
                resolution="key and certificate must be one RSA pair",
            )
        message = signed_message(digest)
        builder = pkcs7.PKCS7SignatureBuilder().set_data(message)
        signature = builder.add_signer(self.certificate, private, hashes.SHA256()).sign(
            serialization.Encoding.DER, _OPTIONS
        )
        verify_signature(signature, message, self.certificate)
        return signature


@dataclass(frozen=True)
class CommandSigner:
    """Signs with an external program, for keys in an HSM or a signing service.

    command: its words; "{unsigned}", "{signed}" and "{certificate}" within a
    word are replaced by paths: the 44 bytes to sign, where to write the
    signature, the certificate. It runs without a shell, for 300 s at most.
    """

    command: tuple[str, ...]
    certificate_file: Path
    certificate: x509.Certificate

    def sign(self, digest: str) -> bytes:
        """The signature. Raises TrustError or ToolError."""
        message = signed_message(digest)
        with tempfile.TemporaryDirectory(prefix="orbital-sign.") as directory:
            unsigned, signed = Path(directory) / "digest", Path(directory) / "signature"
            unsigned.write_bytes(message)
            places = {
                "unsigned": unsigned,
                "signed": signed,
                "certificate": self.certificate_file,
            }
            run(filled(self.command, places), timeout=_COMMAND_SECONDS)
            if not signed.is_file() or signed.stat().st_size > LONGEST:
                raise TrustError(
                    "cannot accept the signature: the signing command wrote no signature file",
                    details=f"expected PKCS#7 (DER) of at most {LONGEST} bytes",
                    resolution="the command must write the signature to {signed}",
                )
            signature = signed.read_bytes()
        verify_signature(signature, message, self.certificate)
        return signature


def load_package_signer(keys: Path, publisher: str, package: str) -> PackageSigner:
    """The signer of a publisher, who must be listed for the package.

    ``PUBLISHER.command`` (one shell-quoted line, but never run by a shell) wins
    over ``PUBLISHER.key``.

    Raises TrustError when the publisher may not sign packages of that name,
    ManifestError when neither key nor command is there.
    """
    if not publisher:
        raise ManifestError(
            f"cannot sign the package {package}: its manifest names no publisher",
            resolution="add 'publisher: NAME' to its package.yaml",
        )
    require_permission(keys, publisher, package)
    certificate_file = keys / "packages" / f"{publisher}.pem"
    certificate = load_certificate(certificate_file)
    command = certificate_file.with_suffix(".command")
    if command.exists():
        return CommandSigner(read_command(command), certificate_file, certificate)
    key = certificate_file.with_suffix(".key")
    if not key.exists():
        raise ManifestError(
            f"cannot sign packages of {publisher}: {keys} has no key for it",
            details=f"neither {key} nor {command} exists",
            resolution=f"make one with 'orbital keys publisher {publisher}', or write the "
            f"external signing command into {command.name}",
        )
    return KeyFileSigner(key, certificate)


def require_permission(keys: Path, publisher: str, package: str) -> None:
    """Raises TrustError unless publishers.json lets the publisher sign the package."""
    publishers = load_publishers(keys)
    if publishers is not None and may_sign(publishers, publisher, package):
        return
    if publishers is None:
        details = f"there is no {keys / LIST}"
    elif publisher in publishers:
        details = f"it may sign: {', '.join(publishers[publisher])}"
    else:
        details = f"{keys / LIST} lists: {', '.join(sorted(publishers)) or 'nobody'}"
    raise TrustError(
        f"cannot let {publisher} sign the package {package}: it is not allowed to",
        details=details,
        resolution=f"allow it: orbital keys publisher {publisher} --packages {package}",
    )


def verify_signer(keys: Path, signature: bytes, digest: str) -> str:
    """The publisher of the key directory who signed the digest.

    Raises TrustError when none of its certificates' keys did.
    """
    named = parse_signature(signature)
    for path in sorted((keys / "packages").glob("*.pem")):
        certificate = load_certificate(path)
        if named.is_of(certificate):
            verify_signature(signature, signed_message(digest), certificate)
            return path.stem
    raise TrustError(
        "cannot accept the signature: it is by nobody known here",
        details=f"none of the certificates in {keys / 'packages'} is its signer's",
        resolution="copy the publisher's certificate there, if you trust it, and list it "
        "with 'orbital keys publisher'",
    )
