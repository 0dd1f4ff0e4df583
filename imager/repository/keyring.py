"""The publisher's keys in a key directory (see `imager.keys`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Key

from imager.keys import load_public_key
from imager.publishers import Publishers, load_publishers
from imager.signing import load_tuf_signers
from recovery.errors import ManifestError


class KeyDirectory:
    """`DIR/tuf/`: ROLE.pem (root: root-N.pem) with ROLE.key or ROLE.uri beside it."""

    def __init__(self, directory: Path) -> None:
        """Raises ManifestError when the directory holds no TUF keys."""
        self._directory = directory
        if not any((directory / "tuf").glob("*.pem")):
            raise ManifestError(
                f"cannot use {directory} as keys: no TUF keys in it",
                details=f"{directory / 'tuf'} has no *.pem",
                resolution=f"make development keys with 'orbital keys make {directory}'",
            )

    def public_keys(self, role: str) -> dict[str, Key]:
        """All public keys of role, by key id."""
        keys = [load_public_key(path) for path in self._public_files(role)]
        return {key.keyid: key for key in keys}

    def signers(self, role: str) -> Sequence[Signer]:
        """The private keys of role that can be reached from here."""
        reachable = (
            path.with_suffix(suffix).exists()
            for path in self._public_files(role)
            for suffix in (".key", ".uri")
        )
        return load_tuf_signers(self._directory, role) if any(reachable) else ()

    def publishers(self) -> Publishers | None:
        """The list of publishers. Raises ManifestError when it is not valid."""
        return load_publishers(self._directory)

    def _public_files(self, role: str) -> list[Path]:
        pattern = "root-*.pem" if role == "root" else f"{role}.pem"
        return sorted((self._directory / "tuf").glob(pattern))
