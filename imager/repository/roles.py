"""Who signs what in the repository, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from securesystemslib.signer import Signer
from tuf.api.metadata import Key, Role

from recovery.errors import TrustError

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")

ROOT_THRESHOLD = 2


class Keyring(Protocol):
    """The keys of a publisher. Implemented by a key directory; tests keep theirs in memory."""

    def public_keys(self, role: str) -> dict[str, Key]:
        """All keys that may sign for role, by key id; empty when it is not known here."""

    def signers(self, role: str) -> Sequence[Signer]:
        """The private keys of role that can be reached; empty when they are kept elsewhere."""

    def publishers(self) -> Mapping[str, Sequence[str]] | None:
        """Who may sign which packages (`imager.publishers`); None when it is not known here."""


@dataclass(frozen=True)
class Periods:
    """Days for which newly signed metadata is valid.

    timestamp bounds how long a device can be kept from hearing of updates (a
    freeze attack) and how long a stick stays usable; run `orbital repository
    refresh` well within it. snapshot and timestamp keys live where that runs;
    the keys of targets, os and publishers are needed only when something is
    published or within their period; root's yearly. publisher: of every
    publisher's role.
    """

    root: int = 365
    targets: int = 180
    os: int = 180
    publisher: int = 180
    snapshot: int = 30
    timestamp: int = 14

    def expires(self, role: str, now: datetime) -> datetime:
        """When metadata of role signed now expires."""
        days: int = asdict(self)[role.partition("-")[0]]
        return (now + timedelta(days=days)).replace(microsecond=0)


def utc_now() -> datetime:
    """The time as TUF metadata wants it."""
    return datetime.now(UTC).replace(microsecond=0)


def required_signers(keys: Keyring, role: str, threshold: int = 1) -> Sequence[Signer]:
    """The signers of role. Raises TrustError when fewer than threshold can be reached."""
    signers = keys.signers(role)
    if len(signers) < threshold:
        raise TrustError(
            f"cannot sign {role}.json: {len(signers)} of {threshold} needed keys are at hand",
            resolution=f"name a key directory with --keys that holds the keys of role {role}",
        )
    return signers


def required_keys(keys: Keyring, role: str, threshold: int = 1) -> dict[str, Key]:
    """The public keys of role. Raises TrustError when there are fewer than threshold."""
    public = keys.public_keys(role)
    if len(public) < threshold:
        raise TrustError(
            f"cannot name the keys of role {role}: {len(public)} of {threshold} needed are known",
            resolution=f"name a key directory with --keys that has the public keys of role {role}",
        )
    return public


def top_roles(keys: Keyring) -> tuple[dict[str, Role], dict[str, Key]]:
    """The top-level roles as keys has them, and all their public keys."""
    roles: dict[str, Role] = {}
    found: dict[str, Key] = {}
    for role in TOP_ROLES:
        threshold = ROOT_THRESHOLD if role == "root" else 1
        public = required_keys(keys, role, threshold)
        found |= public
        roles[role] = Role(sorted(public), threshold)
    return roles, found
