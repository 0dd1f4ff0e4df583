"""A new, empty repository."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from imager.repository import metadata
from imager.repository.delegations import is_publisher, wanted
from imager.repository.roles import (
    ROOT_THRESHOLD,
    Keyring,
    Periods,
    required_signers,
    top_roles,
    utc_now,
)
from recovery import durable
from recovery.errors import RefusedError


def create(
    directory: Path,
    keys: Keyring,
    *,
    periods: Periods,
    now: datetime | None = None,
    root: Metadata[Root] | None = None,
) -> bytes:
    """Creates the repository and returns root version 1.

    root: version 1 as images already carry it; made and signed now when None.

    Root and the top-level targets get version 1; the roles "os" and, where
    their keys are at hand, of publishers exist and offer nothing.

    Raises RefusedError when the directory holds a repository or other files,
    TrustError when keys are missing.
    """
    time = utc_now() if now is None else now
    if (directory / "metadata" / "timestamp.json").exists():
        raise RefusedError(
            f"cannot create a repository in {directory}: there is one",
            resolution="use orbital repository publish, or name another directory",
        )
    if directory.exists() and any(
        entry.name not in ("metadata", "targets", "chunks", ".lock", metadata.CONFIG)
        for entry in directory.iterdir()
    ):
        raise RefusedError(
            f"cannot create a repository in {directory}: it is not empty",
            resolution="name an empty or new directory",
        )
    if root is None:
        root = first_root(keys, periods=periods, now=time)
    delegations = wanted(keys)
    targets = Metadata(Targets(expires=periods.expires("targets", time), delegations=delegations))
    snapshot = Metadata(Snapshot(expires=periods.expires("snapshot", time)))
    timestamp = Metadata(Timestamp(expires=periods.expires("timestamp", time)))
    metadata.sign(targets, required_signers(keys, "targets"))
    delegated = {}
    for role in delegations.roles or ():
        signers = keys.signers(role) if is_publisher(role) else required_signers(keys, role)
        if signers:
            delegated[role] = Metadata(Targets(expires=periods.expires(role, time)))
            metadata.sign(delegated[role], signers)
    snapshot_signers = required_signers(keys, "snapshot")
    timestamp_signers = required_signers(keys, "timestamp")

    for name in ("metadata", "targets", "chunks"):
        durable.make_directory(directory / name)
    metadata.save_config(directory, periods)
    metadata.save_numbered(directory, "root", root)
    metadata.save_numbered(directory, "targets", targets)
    for role, item in delegated.items():
        metadata.save_numbered(directory, role, item)
    metadata.commit(
        directory,
        metadata.MetadataSet(root, targets, delegated, snapshot, timestamp),
        periods=periods,
        now=time,
        snapshot_signers=snapshot_signers,
        timestamp_signers=timestamp_signers,
        first=True,
    )
    return metadata.newest_root(directory)


def first_root(keys: Keyring, *, periods: Periods, now: datetime) -> Metadata[Root]:
    """Root version 1: the public keys of every top-level role, signed by all root keys at hand."""
    roles, found = top_roles(keys)
    root = Metadata(
        Root(
            expires=periods.expires("root", now), keys=found, roles=roles, consistent_snapshot=True
        )
    )
    metadata.sign(root, required_signers(keys, "root", ROOT_THRESHOLD))
    return root
