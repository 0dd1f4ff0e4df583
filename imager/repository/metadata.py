"""The repository's TUF metadata: loaded with every signature checked, saved in order.

```
DIR/repository.json            periods; for the publisher only, no device reads it
DIR/metadata/N.root.json       every version ever published
DIR/metadata/N.targets.json    N.os.json  N.publisher-NAME.json  N.snapshot.json
DIR/metadata/timestamp.json    the commit point of every publication
DIR/targets/...                HASH.NAME of each target (consistent snapshot)
DIR/chunks/XX/SHA256           segments, named by the digest of the stored bytes
DIR/.lock                      one publisher at a time
```
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from imager.repository.delegations import OS_ROLE, delegated_roles, is_publisher
from imager.repository.roles import Periods
from recovery import durable
from recovery.errors import RefusedError, TrustError

CONFIG = "repository.json"
FORMAT = 1
_SERIALIZER = JSONSerializer(compact=False)

SignedT = TypeVar("SignedT", Root, Timestamp, Snapshot, Targets)


@dataclass
class MetadataSet:
    """One consistent state of the repository's metadata.

    delegated: roles to which targets delegates, by name. A publisher's role is
    missing while it has signed nothing with the key that targets names.
    """

    root: Metadata[Root]
    targets: Metadata[Targets]
    delegated: dict[str, Metadata[Targets]]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    @property
    def os(self) -> Metadata[Targets]:
        """The role that offers images."""
        return self.delegated[OS_ROLE]

    def next_version(self, role: str) -> int:
        """The version that a delegated role is published with next.

        The snapshot remembers roles that are delegated no more: devices have
        seen their versions, too.
        """
        known = self.snapshot.signed.meta.get(f"{role}.json")
        return known.version + 1 if known else 1


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the repository against a second publisher. Raises RefusedError when one is at work."""
    if not (directory / CONFIG).is_file():
        raise RefusedError(
            f"cannot use {directory}: not a repository",
            resolution=f"create it: orbital repository init {directory} --keys KEYS",
        )
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RefusedError(
            f"cannot change {directory}: another publisher is at work",
            resolution="wait until it has finished",
        ) from error
    finally:
        os.close(fd)


def save_config(directory: Path, periods: Periods) -> None:
    """Writes the publisher's settings."""
    document = {"format": FORMAT, "days": asdict(periods)}
    durable.replace_file(directory / CONFIG, (json.dumps(document, indent=1) + "\n").encode())


def load_config(directory: Path) -> Periods:
    """Reads the publisher's settings. Raises RefusedError when they are missing or damaged."""
    try:
        document = json.loads((directory / CONFIG).read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        return Periods(**document["days"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RefusedError(
            f"cannot use {directory}: {CONFIG} is missing or damaged",
            details=str(error),
            resolution=f"create a repository: orbital repository init {directory} --keys KEYS",
        ) from error


def sign(metadata: Metadata[SignedT], signers: Sequence[Signer]) -> None:
    """Replaces the signatures of metadata."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)


def load(directory: Path) -> MetadataSet:
    """The state that timestamp.json names, every signature and version checked.

    Expiry is not checked: a publisher may come back late and refresh.
    Raises TrustError when the metadata is missing, damaged or wrongly signed.
    """
    try:
        root = load_root(directory)
        signing_root = _root_of_timestamp(directory, root)
        timestamp = _read(directory, "timestamp.json", Timestamp)
        signing_root.verify_delegate("timestamp", timestamp)
        number = timestamp.signed.snapshot_meta.version
        snapshot = _read(directory, f"{number}.snapshot.json", Snapshot)
        signing_root.verify_delegate("snapshot", snapshot)
        number = snapshot.signed.meta["targets.json"].version
        targets = _read(directory, f"{number}.targets.json", Targets)
        signing_root.verify_delegate("targets", targets)
        delegated = {
            name: role
            for name in delegated_roles(targets.signed)
            if (role := _load_delegated(directory, name, targets, snapshot.signed)) is not None
        }
    except (OSError, RepositoryError, DeserializationError, ValueError, KeyError) as error:
        raise TrustError(
            f"cannot use the repository {directory}: its metadata is missing or damaged",
            details=str(error),
            resolution="restore the directory from a mirror or a backup",
        ) from error
    return MetadataSet(root, targets, delegated, snapshot, timestamp)


def _load_delegated(
    directory: Path, name: str, targets: Metadata[Targets], snapshot: Snapshot
) -> Metadata[Targets] | None:
    """A delegated role; None for a publisher that has not signed with the key that counts."""
    meta = snapshot.meta.get(f"{name}.json")
    if meta is None:
        if is_publisher(name):
            return None
        raise ValueError(f"snapshot does not name the role {name}")
    file = f"{meta.version}.{name}.json"
    meta.verify_length_and_hashes((directory / "metadata" / file).read_bytes())
    role = _read(directory, file, Targets)
    try:
        targets.verify_delegate(name, role)
    except UnsignedMetadataError:
        if is_publisher(name):
            return None
        raise
    return role


def load_root(directory: Path) -> Metadata[Root]:
    """The newest root, each version checked against the one before."""
    root = _read(directory, "1.root.json", Root)
    root.verify_delegate("root", root)
    while (directory / "metadata" / f"{root.signed.version + 1}.root.json").is_file():
        following = _read(directory, f"{root.signed.version + 1}.root.json", Root)
        root.verify_delegate("root", following)
        following.verify_delegate("root", following)
        root = following
    return root


def newest_root(directory: Path) -> bytes:
    """The newest root as published: what an image is given as its trust anchor."""
    number = load_root(directory).signed.version
    return (directory / "metadata" / f"{number}.root.json").read_bytes()


def _root_of_timestamp(directory: Path, root: Metadata[Root]) -> Metadata[Root]:
    """The root that the current timestamp belongs to.

    A rotation that was interrupted between the new root and the new timestamp
    leaves the timestamp of the root before; the next refresh completes it.
    """
    timestamp = _read(directory, "timestamp.json", Timestamp)
    try:
        root.verify_delegate("timestamp", timestamp)
    except RepositoryError:
        if root.signed.version == 1:
            raise
        return _read(directory, f"{root.signed.version - 1}.root.json", Root)
    return root


def save_numbered(directory: Path, name: str, metadata: Metadata[SignedT]) -> None:
    """Writes N.NAME.json.

    Nothing refers to it until timestamp.json does (root: until it exists), so
    a leftover of an interrupted publication is simply replaced.
    """
    path = directory / "metadata" / f"{metadata.signed.version}.{name}.json"
    durable.replace_file(path, metadata.to_bytes(_SERIALIZER))


def commit(
    directory: Path,
    current: MetadataSet,
    *,
    periods: Periods,
    now: datetime,
    snapshot_signers: Sequence[Signer],
    timestamp_signers: Sequence[Signer],
    first: bool = False,
) -> None:
    """Publishes the state in current: a new snapshot, then timestamp.json.

    first: the repository is new, versions stay 1.

    Power cut before the rename of timestamp.json: devices see the state
    before, whole. After it: the new state, whole.
    """
    snapshot = current.snapshot.signed
    snapshot.version += 0 if first else 1
    snapshot.expires = periods.expires("snapshot", now)
    # What is delegated no more stays: devices refuse a snapshot that forgets a role.
    for role, item in (("targets", current.targets), *current.delegated.items()):
        path = directory / "metadata" / f"{item.signed.version}.{role}.json"
        snapshot.meta[f"{role}.json"] = _meta_file(item.signed.version, path)
    sign(current.snapshot, snapshot_signers)
    save_numbered(directory, "snapshot", current.snapshot)

    timestamp = current.timestamp.signed
    timestamp.version += 0 if first else 1
    timestamp.expires = periods.expires("timestamp", now)
    path = directory / "metadata" / f"{snapshot.version}.snapshot.json"
    timestamp.snapshot_meta = _meta_file(snapshot.version, path)
    sign(current.timestamp, timestamp_signers)
    path = directory / "metadata" / "timestamp.json"
    durable.replace_file(path, current.timestamp.to_bytes(_SERIALIZER))


def _meta_file(version: int, path: Path) -> MetaFile:
    """Version, length and digest: a reader knows how much to expect before it reads."""
    return MetaFile.from_data(version, path.read_bytes(), ["sha256"])


def _read(directory: Path, name: str, kind: type[SignedT]) -> Metadata[SignedT]:
    metadata = Metadata[SignedT].from_bytes((directory / "metadata" / name).read_bytes())
    if not isinstance(metadata.signed, kind):
        raise ValueError(f"{name} is not {kind.__name__}")
    return metadata
