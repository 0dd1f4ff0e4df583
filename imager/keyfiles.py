"""Makes key files: a private key that only its owner can read, and its public part.

The public part is written last: where it is missing, making the key was cut.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID

# Firmware and kernels accept RSA-2048 everywhere; larger keys are refused by some firmware.
_RSA_BITS = 2048
# Firmware has no trusted clock and ignores the dates; people and tools read them.
_CERTIFICATE_YEARS = 20


def make_certified(directory: Path, name: str, subject: str) -> None:
    """Makes NAME.key (RSA) and NAME.pem, a certificate that it signs itself.

    The serial number is random, so that issuer and serial name one
    certificate: this is how the signer of a package is found. Raises OSError.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    common_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(common_name)
        .issuer_name(common_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _CERTIFICATE_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_private(directory / f"{name}.key", key)
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def make_ed25519(directory: Path, name: str) -> None:
    """Makes NAME.key and NAME.pem (the bare public key), for a TUF role. Raises OSError."""
    key = ed25519.Ed25519PrivateKey.generate()
    _write_private(directory / f"{name}.key", key)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (directory / f"{name}.pem").write_bytes(public)


def _write_private(path: Path, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> None:
    """Writes the key into a file that was never readable by others, not even for an instant."""
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
