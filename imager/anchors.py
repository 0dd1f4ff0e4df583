"""Whom an image trusts: TUF's root for updates, and the publishers of feature packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from imager.keys import load_certificate
from imager.publishers import encode, load_publishers

FOLDER = "usr/lib/orbital/trust"
ROOT = f"{FOLDER}/root.json"


def trust_files(root: bytes, publishers: Path | None) -> Mapping[str, bytes]:
    """The files below `FOLDER`, by path.

    root: TUF root metadata that devices start from. publishers: the folder
    packages/ of a key directory; None for an image that trusts no publisher.

    Raises ManifestError when the list of publishers is not valid or a listed
    one has no certificate.
    """
    files = {ROOT: root}
    listed = load_publishers(publishers.parent) if publishers else None
    if publishers is None or listed is None:
        return files
    files[f"{FOLDER}/publishers.json"] = encode(listed)
    for name in sorted(listed):
        certificate = load_certificate(publishers / f"{name}.pem")
        files[f"{FOLDER}/publishers/{name}.der"] = certificate.public_bytes(Encoding.DER)
    return files
