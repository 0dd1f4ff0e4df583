"""The trust anchor: root version 1, made once with the keys and baked into every image."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from imager.repository.create import first_root
from imager.repository.keyring import KeyDirectory
from imager.repository.roles import Periods, utc_now
from recovery import durable
from recovery.errors import ManifestError

ANCHOR = Path("tuf/root.json")


def make_anchor(keys: Path, *, periods: Periods | None = None, now: datetime | None = None) -> Path:
    """Signs root version 1 with the keys of a key directory and keeps it there.

    Raises TrustError when fewer root keys than the threshold can be reached.
    """
    root = first_root(KeyDirectory(keys), periods=periods or Periods(), now=now or utc_now())
    return write_anchor(keys, root.to_bytes())


def write_anchor(keys: Path, root: bytes) -> Path:
    """Makes this root metadata the anchor of images built with the key directory."""
    path = keys / ANCHOR
    durable.replace_file(path, root)
    return path


def read_anchor(keys: Path) -> Metadata[Root]:
    """The anchor of a key directory. Raises ManifestError when there is none."""
    path = keys / ANCHOR
    try:
        return Metadata[Root].from_bytes(path.read_bytes())
    except (OSError, DeserializationError) as error:
        raise ManifestError(
            f"cannot read the trust anchor {path}",
            details=str(error),
            resolution="'orbital keys make' creates it; copy the repository's 1.root.json there",
        ) from error
