"""What a factory enrolls in UEFI firmware so that it only runs what we signed.

Two forms: a variable store of OVMF (QEMU's firmware) with everything enrolled
and Secure Boot on, and the files that other firmware's set-up or
systemd-boot's enrollment take: ``NAME.der``, ``NAME.esl``, ``NAME.auth``.

PK owns the platform and may replace KEK; KEK may change db; db is what
executes. Our KEK and db are alone: no Microsoft key is trusted.
"""

from __future__ import annotations

import datetime
import struct
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs7

from imager.keys import SECURE_BOOT, load_certificate, owner_guid
from imager.tools import Tools
from recovery.errors import ManifestError, ToolError

# UEFI specification 2.10: EFI_CERT_X509_GUID (32.4.1), EFI_CERT_TYPE_PKCS7_GUID (8.2.2),
# EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID (vendor GUIDs of the variables).
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_VENDOR = {"PK": _GLOBAL, "KEK": _GLOBAL, "db": _SECURITY_DATABASE}
# Who must sign a change of the variable.
_AUTHORITY = {"PK": "PK", "KEK": "PK", "db": "KEK"}
# NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS | TIME_BASED_AUTHENTICATED_WRITE_ACCESS
_ATTRIBUTES = 0x27
_WIN_CERT_REVISION = 0x0200
_WIN_CERT_TYPE_EFI_GUID = 0x0EF1


def write_variable_store(tools: Tools, template: Path, keys: Path, output: Path) -> None:
    """An OVMF variable store with PK, KEK and db of the key directory and Secure Boot on.

    template: the empty store that belongs to the firmware code, e.g.
    ``tools.file("usr/share/OVMF/OVMF_VARS_4M.fd")``; the board names both.
    Raises ManifestError without certificates, ToolError when enrolling fails.
    """
    owner = str(owner_guid(keys))
    certificates = {name: keys / "secure-boot" / f"{name}.pem" for name in SECURE_BOOT}
    for path in certificates.values():
        load_certificate(path)
    done = tools.run(
        "virt-fw-vars", "--input", template, "--output", output,
        "--set-pk", owner, certificates["PK"],
        "--add-kek", owner, certificates["KEK"],
        "--add-db", owner, certificates["db"],
        "--secure-boot",
    )  # fmt: skip
    if not output.is_file():
        raise ToolError(
            f"cannot enroll keys: virt-fw-vars wrote no {output.name}", details=done.stderr[-800:]
        )


def export_enrollment(keys: Path, output: Path, *, time: int) -> None:
    """Writes PK, KEK and db as .der, .esl and (signed by their authority) .auth files.

    time: seconds since the epoch; firmware only takes an .auth that is newer
    than the last it took. Raises ManifestError when a certificate or a
    private key that must sign is not there as a file.
    """
    output.mkdir(parents=True, exist_ok=True)
    owner = owner_guid(keys)
    for name in SECURE_BOOT:
        certificate = load_certificate(keys / "secure-boot" / f"{name}.pem")
        der = certificate.public_bytes(serialization.Encoding.DER)
        signature_list = encode_signature_list(der, owner)
        (output / f"{name}.der").write_bytes(der)
        (output / f"{name}.esl").write_bytes(signature_list)
        (output / f"{name}.auth").write_bytes(_authenticate(keys, name, signature_list, time))


def encode_signature_list(certificate: bytes, owner: uuid.UUID) -> bytes:
    """An EFI_SIGNATURE_LIST (UEFI 32.4.1) with one certificate (DER)."""
    entry = owner.bytes_le + certificate
    header = struct.pack("<16sIII", _X509.bytes_le, 28 + len(entry), 0, len(entry))
    return header + entry


def _authenticate(keys: Path, name: str, data: bytes, time: int) -> bytes:
    """The EFI_VARIABLE_AUTHENTICATION_2 descriptor (UEFI 8.2.2) followed by the data."""
    stamp = _efi_time(time)
    signed = b"".join(
        [
            name.encode("utf-16-le"),
            _VENDOR[name].bytes_le,
            struct.pack("<I", _ATTRIBUTES),
            stamp,
            data,
        ]
    )
    authority = keys / "secure-boot" / f"{_AUTHORITY[name]}.key"
    try:
        private = load_pem_private_key(authority.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(
            f"cannot sign {name}.auth: {authority} is not usable: {error}",
            resolution="use .der or .esl, or export where the private key is",
        ) from error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ManifestError(f"cannot sign {name}.auth: {authority} is not an RSA key")
    signature = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(signed)
        .add_signer(load_certificate(authority.with_suffix(".pem")), private, hashes.SHA256())
        .sign(
            serialization.Encoding.DER,
            [
                pkcs7.PKCS7Options.DetachedSignature,
                pkcs7.PKCS7Options.Binary,
                pkcs7.PKCS7Options.NoAttributes,
            ],
        )
    )
    certificate = struct.pack(
        "<IHH16s", 24 + len(signature), _WIN_CERT_REVISION, _WIN_CERT_TYPE_EFI_GUID, _PKCS7.bytes_le
    )
    return stamp + certificate + signature + data


def _efi_time(seconds: int) -> bytes:
    """An EFI_TIME in UTC; the fields that an authenticated variable requires to be 0 are 0."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return struct.pack(
        "<HBBBBBBIhBB",
        moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second,
        0, 0, 0, 0, 0,
    )  # fmt: skip
