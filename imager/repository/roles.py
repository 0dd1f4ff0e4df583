"""Who signs what in the repository, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import Signer
from tuf.api.metadata import DelegatedRole, Delegations, Key

from recovery.errors import TrustError

OS_ROLE = "os"
TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
ROLES = (*TOP_ROLES, OS_ROLE)

OS_PATHS = ("os/*/*/releases.json", "os/*/*/*/index.json", "os/*/*/*/sbom.cdx.json")
"""What the role "os" may sign. In TUF patterns `*` stops at `/` (specification, 4.5).

Feature packages get roles of their own beside it: `packages-PUBLISHER` for
`packages/PUBLISHER/*/*`.
"""

ROOT_THRESHOLD = 2

SignerSource = Callable[[str], Sequence[Signer]]
"""All signers at hand for a role; empty when its keys are kept elsewhere."""


@dataclass(frozen=True)
class Periods:
    """Days for which newly signed metadata is valid.

    timestamp bounds how long a device can be kept from hearing of updates (a
    freeze attack) and how long a stick stays usable; run `orbital repository
    refresh` well within it. snapshot and timestamp keys live where that runs;
    the keys of targets and os are needed only when something is published or
    within their period; root's yearly.
    """

    root: int = 365
    targets: int = 180
    os: int = 180
    snapshot: int = 30
    timestamp: int = 14

    def expires(self, role: str, now: datetime) -> datetime:
        """When metadata of role signed now expires."""
        days: int = asdict(self)[role]
        return (now + timedelta(days=days)).replace(microsecond=0)


def utc_now() -> datetime:
    """The time as TUF metadata wants it."""
    return datetime.now(UTC).replace(microsecond=0)


def required_signers(keys: SignerSource, role: str, threshold: int = 1) -> Sequence[Signer]:
    """The signers of role. Raises TrustError when there are fewer than threshold."""
    signers = keys(role)
    if len(signers) < threshold:
        raise TrustError(
            f"cannot sign {role}.json: {len(signers)} of {threshold} needed keys are at hand",
            resolution=f"name a key directory with --keys that holds the keys of role {role}",
        )
    return signers


def public_keys(signers: Sequence[Signer]) -> dict[str, Key]:
    """The public keys of the signers, by key id."""
    return {signer.public_key.keyid: signer.public_key for signer in signers}


def os_delegation(keys: dict[str, Key]) -> Delegations:
    """The delegation from targets to the OS team."""
    role = DelegatedRole(
        OS_ROLE, keyids=sorted(keys), threshold=1, terminating=True, paths=list(OS_PATHS)
    )
    return Delegations(keys=dict(keys), roles={OS_ROLE: role})
