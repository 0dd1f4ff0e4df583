"""Signing: PE files for Secure Boot, and TUF metadata.

Private keys may be files, or live behind PKCS#11, a cloud service or a
signing command. For TUF, securesystemslib's ``Signer`` is the protocol; for
PE files it is `PeSigner`.
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer

from imager.keys import load_certificate, load_public_key
from imager.signing_command import filled, read_command
from imager.tools import Tools
from recovery.errors import ManifestError, OrbitalError, TrustError
from recovery.process import run

_FILE_SCHEME = "file:"


class PeSigner(Protocol):
    """Signs a PE file (EFI program) so that firmware with our db certificate runs it."""

    @property
    def identity(self) -> str:
        """Changes when the signature would change; an input of cached stages."""

    def sign(self, unsigned: Path, signed: Path) -> None:
        """Writes the signed copy; the same input gives the same bytes.

        Raises TrustError when what came out does not verify against the
        certificate, ToolError when signing fails.
        """


@dataclass(frozen=True)
class KeyFileSigner:
    """Signs with a private key in a file.

    time: seconds since the epoch, the signing time inside the signature. It is
    fixed (SOURCE_DATE_EPOCH) so that the bytes repeat; RSA (PKCS#1 v1.5) has
    no randomness. Firmware ignores it.
    """

    tools: Tools
    key: Path
    certificate: Path
    time: int

    @property
    def identity(self) -> str:
        """Certificate and signing time."""
        return f"{_fingerprint(self.certificate)} {self.time}"

    def sign(self, unsigned: Path, signed: Path) -> None:
        """Writes the signed copy. Raises TrustError or ToolError."""
        self._check_pair()
        with tempfile.TemporaryDirectory(prefix="orbital-sign.") as directory:
            # osslsigncode neither overwrites nor writes in one step.
            output = Path(directory) / "signed.efi"
            self.tools.run(
                "osslsigncode", "sign", "-nolegacy", "-h", "sha256",
                "-certs", self.certificate, "-key", self.key, "-time", str(self.time),
                "-in", unsigned, "-out", output,
            )  # fmt: skip
            _accept(self.tools, output, self.certificate, signed)

    def _check_pair(self) -> None:
        try:
            private = load_pem_private_key(self.key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            # The message of the library never contains key material.
            raise ManifestError(
                f"cannot read the private key {self.key}: {error}",
                resolution="use an unencrypted PEM file, or an external signing command",
            ) from error
        public = load_certificate(self.certificate).public_key()
        if not isinstance(private, rsa.RSAPrivateKey) or private.public_key() != public:
            raise TrustError(
                f"cannot sign with {self.key}: it does not belong to {self.certificate}",
                resolution="key and certificate must be one RSA pair",
            )


@dataclass(frozen=True)
class CommandSigner:
    """Signs with an external program, for keys in an HSM or a signing service.

    command: its words; "{unsigned}", "{signed}" and "{certificate}" within a
    word are replaced by paths. It runs without a shell. What it writes is
    checked against the certificate before it is used.
    """

    tools: Tools
    command: tuple[str, ...]
    certificate: Path

    @property
    def identity(self) -> str:
        """Certificate and command."""
        return f"{_fingerprint(self.certificate)} {shlex.join(self.command)}"

    def sign(self, unsigned: Path, signed: Path) -> None:
        """Writes the signed copy. Raises TrustError or ToolError."""
        with tempfile.TemporaryDirectory(prefix="orbital-sign.") as directory:
            output = Path(directory) / "signed.efi"
            places = {"unsigned": unsigned, "signed": output, "certificate": self.certificate}
            run(filled(self.command, places))
            _accept(self.tools, output, self.certificate, signed)


def load_pe_signer(directory: Path, tools: Tools, *, time: int) -> PeSigner:
    """The Secure Boot signer of a key directory.

    ``secure-boot/db.command`` (one shell-quoted line, but never run by a
    shell) wins over ``secure-boot/db.key``. Raises ManifestError when neither is there.
    """
    certificate = directory / "secure-boot" / "db.pem"
    load_certificate(certificate)
    command = certificate.with_suffix(".command")
    if command.exists():
        return CommandSigner(tools, read_command(command), certificate)
    key = certificate.with_suffix(".key")
    if not key.exists():
        raise ManifestError(
            f"cannot sign boot artifacts: {directory} has no Secure Boot key",
            details=f"neither {key} nor {command} exists",
            resolution=f"make development keys with 'orbital keys make {directory}', or write "
            "the external signing command into db.command",
        )
    return KeyFileSigner(tools, key, certificate, time)


def load_tuf_signers(directory: Path, role: str) -> list[Signer]:
    """The signers of a role ("root", "targets", "snapshot", "timestamp", "os", ...).

    ``tuf/NAME.uri`` (securesystemslib's key URI: ``hsm:``, ``gcpkms:``, ...;
    ``file:PATH`` relative to the directory) wins over ``tuf/NAME.key``. Root
    has NAME root-1, root-2, ...: all whose private key can be reached are returned,
    so that each holder of a root key can sign alone.

    Raises ManifestError when there is none, or one is not usable.
    """
    base = directory / "tuf"
    publics = sorted(base.glob("root-*.pem")) if role == "root" else [base / f"{role}.pem"]
    signers = [
        signer for path in publics if path.exists() if (signer := _tuf_signer(path)) is not None
    ]
    if not signers:
        raise ManifestError(
            f"cannot sign for the role {role}: {base} has no key for it",
            resolution=f"make development keys with 'orbital keys make', or put the public key "
            f"into {role}.pem and the key URI into {role}.uri",
        )
    return signers


def verify_pe(tools: Tools, path: Path, certificate: Path) -> None:
    """Checks the signature as firmware would. Raises TrustError when it does not hold."""
    # The signing time is not evidence of anything here; dates of development
    # certificates and SOURCE_DATE_EPOCH need not agree, so judge at the certificate's own time.
    inside = int(load_certificate(certificate).not_valid_before_utc.timestamp()) + 1
    done = tools.run(
        "osslsigncode", "verify", "-CAfile", certificate, "-time", str(inside),
        "-ignore-timestamp", "-in", path, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise TrustError(
            f"cannot accept the signature of {path.name}",
            details=f"it does not verify against {certificate}\n{done.stdout.strip()[-800:]}",
            resolution="check that the signing key belongs to the db certificate",
        )


def _tuf_signer(public_file: Path) -> Signer | None:
    public = load_public_key(public_file)
    uri_file = public_file.with_suffix(".uri")
    key_file = public_file.with_suffix(".key")
    try:
        if uri_file.exists():
            uri = uri_file.read_text().strip()
            if not uri.startswith(_FILE_SCHEME):
                return Signer.from_priv_key_uri(uri, public)
            key_file = public_file.parent / uri.removeprefix(_FILE_SCHEME)
        elif not key_file.exists():
            return None
        private = load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(private, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
            raise ValueError("the key is neither Ed25519 nor RSA")
        if _spki(private) != _spki_of_file(public_file):
            raise TrustError(
                f"cannot sign with {key_file}: it does not belong to {public_file.name}",
                resolution="private and public file must be one pair",
            )
        return CryptoSigner(private, public)
    except OrbitalError:
        raise
    except Exception as error:
        # Each kind of signer raises its own errors: libraries of services, PKCS#11, files.
        raise ManifestError(
            f"cannot use the key {public_file.stem}: {error}",
            resolution=f"check {uri_file.name if uri_file.exists() else key_file}",
        ) from error


def _spki(private: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _spki_of_file(path: Path) -> bytes:
    return serialization.load_pem_public_key(path.read_bytes()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _accept(tools: Tools, produced: Path, certificate: Path, signed: Path) -> None:
    """Publishes what a signing program wrote, after checking it."""
    if not produced.is_file():
        raise TrustError(
            "cannot accept the signature: the signing command wrote no file",
            details=f"expected {produced}",
            resolution="the command must write the signed file to {signed}",
        )
    verify_pe(tools, produced, certificate)
    signed.write_bytes(produced.read_bytes())


def _fingerprint(certificate: Path) -> str:
    return load_certificate(certificate).fingerprint(hashes.SHA256()).hex()
