"""What a repository offers and how long its metadata is valid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from imager.repository import metadata
from imager.repository.publish import read_releases, read_target
from manifests.index import OsIndex


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
    found = []
    for path in sorted(targets):
        base, _, name = path.rpartition("/")
        if name != "releases.json":
            continue
        _, system, board = base.split("/")
        for release in read_releases(directory, targets, base):
            data = read_target(directory, targets[f"{base}/{release.version}/index.json"])
            index = msgspec.json.decode(data, type=OsIndex)
            found.append(
                Offer(
                    system=system,
                    board=board,
                    version=release.version,
                    summary=release.summary,
                    downgrade_from=release.downgrade_from,
                    built=index.built,
                    image_bytes=index.root.stream.size,
                    fetch_bytes=index.root.stream.stored_size + index.boot.stream.stored_size,
                )
            )
    return found
