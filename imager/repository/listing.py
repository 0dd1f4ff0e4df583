"""What a repository offers and how long its metadata is valid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imager.repository import metadata
from imager.repository.images import read_indexes
from imager.repository.releases import read_all


@dataclass(frozen=True)
class Offer:
    """One published version. fetch_bytes: what a device with nothing downloads."""

    system: str
    board: str
    version: str
    summary: str
    downgrade_from: tuple[str, ...]
    built: int
    image_bytes: int
    fetch_bytes: int


@dataclass(frozen=True)
class PackageOffer:
    """One published release of a package. fetch_bytes: what a device with nothing downloads."""

    package: str
    version: str
    architecture: str
    kind: str
    publisher: str
    summary: str
    digest: str
    built: int
    image_bytes: int
    fetch_bytes: int


@dataclass(frozen=True)
class RoleState:
    """Version and expiry (UTC) of one role's metadata."""

    role: str
    version: int
    expires: datetime


def roles(directory: Path) -> list[RoleState]:
    """Every role's version and expiry. Raises TrustError when the metadata is damaged."""
    current = metadata.load(directory)
    return [
        RoleState("root", current.root.signed.version, current.root.signed.expires),
        RoleState("targets", current.targets.signed.version, current.targets.signed.expires),
        *(
            RoleState(name, role.signed.version, role.signed.expires)
            for name, role in current.delegated.items()
        ),
        RoleState("snapshot", current.snapshot.signed.version, current.snapshot.signed.expires),
        RoleState("timestamp", current.timestamp.signed.version, current.timestamp.signed.expires),
    ]


def offers(directory: Path) -> list[Offer]:
    """Every published version, oldest first within its system and board.

    Raises TrustError when the metadata or an index is damaged.
    """
    targets = metadata.load(directory).os.signed.targets
    return [
        Offer(
            system=index.system,
            board=index.board,
            version=release.version,
            summary=release.summary,
            downgrade_from=release.downgrade_from,
            built=index.built,
            image_bytes=index.root.stream.size,
            fetch_bytes=index.stored_size,
        )
        for index, release in read_indexes(directory, targets)
    ]


def packages(directory: Path) -> list[PackageOffer]:
    """Every published release of every package, by name, oldest first.

    Raises TrustError when the metadata or a document is damaged.
    """
    return [
        PackageOffer(
            package=name,
            version=release.version,
            architecture=release.architecture,
            kind=release.kind,
            publisher=item.publisher,
            summary=release.summary,
            digest=release.digest,
            built=release.built,
            image_bytes=release.stream.size,
            fetch_bytes=release.stream.stored_size,
        )
        for name, item in read_all(directory, metadata.load(directory)).items()
        for release in item.releases
    ]
