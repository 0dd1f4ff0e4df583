"""Keys of a product, in one directory.

::

    DIR/secure-boot/{PK,KEK,db}.key   private (PKCS#8 PEM, mode 0600)
                    {PK,KEK,db}.pem   certificate, enrolled in the firmware
    DIR/tuf/root-{1,2,3}.key          private keys of the root role (threshold 2)
            {targets,snapshot,timestamp}.key
            os.key                    the delegated role that publishes images
            publisher-NAME.key        the delegated role of a package publisher
            NAME.pem                  the public key of each
    DIR/packages/NAME.{key,pem}       signs images of that publisher's packages (fs-verity, PKCS#7)
    DIR/packages/publishers.json      who may sign which packages: `imager.publishers`

A private key that lives elsewhere has ``NAME.uri`` (TUF) or ``db.command``
(Secure Boot) in place of ``NAME.key``: see `imager.signing`.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from securesystemslib.signer import SSlibKey

from imager.keyfiles import make_certified, make_ed25519
from imager.publishers import add_development_publisher
from recovery.errors import ManifestError, RefusedError, SpaceError

SECURE_BOOT = ("PK", "KEK", "db")
ROOT_KEYS = ("root-1", "root-2", "root-3")
ROOT_THRESHOLD = 2
ONLINE_ROLES = ("targets", "snapshot", "timestamp")
DELEGATIONS = ("os",)

_ROLE_NAME = re.compile("[a-z0-9][a-z0-9_-]*")

Purpose = Literal["secure-boot", "tuf", "packages"]


@dataclass(frozen=True)
class KeyInfo:
    """What may be known to everyone about one key.

    role: "PK", "KEK", "db", a TUF role, or a publisher's name. key_id: TUF's key id,
    or the SHA-1 subject key identifier of a certificate, hex. fingerprint:
    SHA-256 of the certificate (DER) or of the public key (DER), hex.
    expires: end of the certificate's validity; None for bare keys, whose
    validity is that of the TUF metadata they sign.
    location: "file", "external" (uri or command) or "absent" (public part only).
    """

    purpose: Purpose
    name: str
    role: str
    algorithm: str
    key_id: str
    fingerprint: str
    expires: datetime.datetime | None
    location: Literal["file", "external", "absent"]


def make_development_keys(directory: Path, delegations: Sequence[str] = DELEGATIONS) -> None:
    """Makes a complete set of new keys, unencrypted: for development, not for a fleet.

    The one package publisher, `imager.publishers.DEVELOPMENT`, may sign every package.
    delegations: TUF roles besides the top-level ones. The directory appears
    whole or not at all. Raises RefusedError when it already holds something: a
    key that is overwritten is lost for good; ManifestError for an unusable role
    name; SpaceError when the files cannot be written.
    """
    for name in delegations:
        if not _ROLE_NAME.fullmatch(name) or name in (*ROOT_KEYS, *ONLINE_ROLES, "root"):
            raise ManifestError(
                f"cannot make a key for the role {name!r}",
                resolution="use lower case letters, digits and -, and no top-level role",
            )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RefusedError(
            f"cannot make keys in {directory}: it is not empty",
            details="keys that are overwritten cannot be brought back",
            resolution="name another directory, or move the old keys away first",
        )
    try:
        _make_all(directory, delegations)
    except OSError as error:
        raise SpaceError(
            f"cannot write keys to {directory}: {error.strerror}",
            resolution="make room, or choose a directory that you may write to",
        ) from error


def inspect_keys(directory: Path) -> tuple[KeyInfo, ...]:
    """All keys of the directory, by purpose and name, read from their public parts.

    Raises ManifestError when the directory holds no keys or a file is not one.
    """
    found: list[KeyInfo] = []
    purposes: tuple[Purpose, ...] = ("secure-boot", "tuf", "packages")
    for purpose in purposes:
        for path in sorted((directory / purpose).glob("*.pem")):
            found.append(_inspect(purpose, path))
    if not found:
        raise ManifestError(
            f"cannot find keys in {directory}",
            details="expected secure-boot/*.pem, tuf/*.pem and packages/*.pem",
            resolution=f"make development keys with 'orbital keys make {directory}'",
        )
    return tuple(found)


def load_certificate(path: Path) -> x509.Certificate:
    """One PEM certificate. Raises ManifestError when the file is missing or not one."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"cannot read the certificate {path}: {error}",
            resolution="make development keys with 'orbital keys make', or copy the right file",
        ) from error


def load_public_key(path: Path) -> SSlibKey:
    """One TUF public key (PEM). Raises ManifestError when the file is missing or not one."""
    try:
        public = serialization.load_pem_public_key(path.read_bytes())
        return SSlibKey.from_crypto(public)
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"cannot read the public key {path}: {error}",
            resolution="make development keys with 'orbital keys make', or copy the right file",
        ) from error


def owner_guid(directory: Path) -> uuid.UUID:
    """The SignatureOwner GUID that marks this product's entries in firmware variables.

    UEFI only wants it to identify who enrolled a key, so it is derived from PK.
    """
    certificate = load_certificate(directory / "secure-boot" / "PK.pem")
    digest = certificate.fingerprint(hashes.SHA256()).hex()
    return uuid.uuid5(uuid.NAMESPACE_OID, f"orbital secure boot owner {digest}")


def _make_all(directory: Path, delegations: Sequence[str]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for purpose in ("secure-boot", "tuf", "packages"):
            (staged / purpose).mkdir(mode=0o700)
        for name in SECURE_BOOT:
            make_certified(staged / "secure-boot", name, f"Orbital development {name}")
        for name in (*ROOT_KEYS, *ONLINE_ROLES, *delegations):
            make_ed25519(staged / "tuf", name)
        add_development_publisher(staged)
        staged.rename(directory)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _inspect(purpose: Purpose, path: Path) -> KeyInfo:
    name = path.stem
    location: Literal["file", "external", "absent"] = "absent"
    if path.with_suffix(".uri").exists() or path.with_suffix(".command").exists():
        location = "external"
    elif path.with_suffix(".key").exists():
        location = "file"
    if purpose == "tuf":
        key = load_public_key(path)
        public = serialization.load_pem_public_key(path.read_bytes())
        der = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        role = "root" if name.startswith("root-") else name
        fingerprint = hashlib.sha256(der).hexdigest()
        return KeyInfo(purpose, name, role, key.scheme, key.keyid, fingerprint, None, location)
    certificate = load_certificate(path)
    public_key = certificate.public_key()
    bits = f"-{public_key.key_size}" if isinstance(public_key, rsa.RSAPublicKey) else ""
    return KeyInfo(
        purpose,
        name,
        name,
        f"{'rsa' if bits else 'other'}{bits}",
        x509.SubjectKeyIdentifier.from_public_key(public_key).digest.hex(),
        certificate.fingerprint(hashes.SHA256()).hex(),
        certificate.not_valid_after_utc,
        location,
    )
