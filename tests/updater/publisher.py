"""A publisher with keys in memory and a repository in a directory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Key

from imager.repository.create import create
from imager.repository.deltas import DeltaMaker
from imager.repository.publish import Published, publish
from imager.repository.refresh import Refreshed, refresh
from imager.repository.roles import TOP_ROLES, Periods
from recovery.reporter import SilentReporter
from tests.updater.images import BuiltImage, build_image

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


class MemoryKeyring:
    """Fresh keys for every role; three for root.

    listed: publishers and the packages they may sign; None for a keyring that
    knows nothing of publishers.
    """

    def __init__(self, listed: Mapping[str, Sequence[str]] | None = None) -> None:
        """Makes the keys."""
        self.listed = listed
        roles = (*TOP_ROLES, "os", *(f"publisher-{name}" for name in listed or ()))
        self.keys: dict[str, list[Signer]] = {
            role: [CryptoSigner.generate_ed25519() for _ in range(3 if role == "root" else 1)]
            for role in roles
        }

    def public_keys(self, role: str) -> dict[str, Key]:
        """See Keyring."""
        return {signer.public_key.keyid: signer.public_key for signer in self.keys.get(role, ())}

    def signers(self, role: str) -> Sequence[Signer]:
        """See Keyring."""
        return self.keys.get(role, ())

    def publishers(self) -> Mapping[str, Sequence[str]] | None:
        """See Keyring."""
        return self.listed


class Publisher:
    """Publishes images at a fixed time; `copy` keeps a state of the repository for later."""

    def __init__(
        self, base: Path, periods: Periods | None = None, keys: MemoryKeyring | None = None
    ) -> None:
        """Creates an empty repository below base."""
        self.base = base
        self.repository = base / "repository"
        self.keys = keys or MemoryKeyring()
        self.now = NOW
        base.mkdir(parents=True, exist_ok=True)
        self.anchor = base / "root.json"
        self.anchor.write_bytes(
            create(self.repository, self.keys, periods=periods or Periods(), now=self.now)
        )

    def build(self, version: str, **options: object) -> BuiltImage:
        """Builds an image without publishing it."""
        return build_image(self.base / f"build-{version}", version, **options)  # type: ignore[arg-type]

    def publish(
        self,
        *images: BuiltImage,
        downgrade_from: Sequence[str] = (),
        summary: str = "",
        deltas: DeltaMaker | None = None,
    ) -> tuple[Published, ...]:
        """Publishes images."""
        return publish(
            self.repository,
            [image.directory for image in images],
            self.keys,
            reporter=SilentReporter(),
            downgrade_from=downgrade_from,
            deltas=deltas,
            summary=summary,
            now=self.now,
        ).images

    def release(self, version: str, downgrade_from: Sequence[str] = ()) -> BuiltImage:
        """Builds and publishes an image."""
        image = self.build(version)
        self.publish(image, downgrade_from=downgrade_from)
        return image

    def refresh(self, *, rotate: bool = False, keys: MemoryKeyring | None = None) -> Refreshed:
        """Refreshes, or rotates to other keys."""
        old = self.keys
        if keys is not None:
            self.keys = keys
        return refresh(self.repository, self.keys, rotate=rotate, old_keys=old, now=self.now)

    def copy(self, name: str) -> Path:
        """A copy of the repository as it is now."""
        shutil.copytree(self.repository, self.base / name)
        return self.base / name
