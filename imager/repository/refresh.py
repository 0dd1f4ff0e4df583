"""New expiry dates, and new keys: root rotation by the standard protocol."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from imager.repository import metadata
from imager.repository.roles import (
    OS_ROLE,
    Keyring,
    Periods,
    os_delegation,
    required_keys,
    required_signers,
    top_roles,
    utc_now,
)
from recovery.errors import TrustError


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did. signed: role and new version of everything signed anew.

    warnings: roles that expire soon and whose keys are not at hand.
    """

    signed: dict[str, int]
    warnings: tuple[str, ...]


def refresh(
    directory: Path,
    keys: Keyring,
    *,
    rotate: bool = False,
    old_keys: Keyring | None = None,
    now: datetime | None = None,
) -> Refreshed:
    """Signs snapshot and timestamp anew, and what expires within half its period.

    rotate: replaces the keys of every role by those in keys. The new root is
    signed by the old and the new root keys, each up to their threshold;
    old_keys finds the old ones (default: keys, when only other roles change).

    Write order: targets and snapshot under new numbers, then root, then
    timestamp. Power cut between root and timestamp: devices refuse the
    timestamp (signed by the old key) until refresh is run again; nothing is
    lost, and it is the shortest such interval the protocol allows.

    Raises TrustError when keys are missing, RefusedError when another
    publisher is at work.
    """
    time = utc_now() if now is None else now
    with metadata.locked(directory):
        periods = metadata.load_config(directory)
        current = metadata.load(directory)
        work = _Refresh(current, keys, periods, time)
        new_root = work.root(rotate, old_keys or keys)
        if new_root is not None:
            current.root = new_root
        work.require_known_keys()
        work.targets(rotate)
        work.os()
        for name, item in (("targets", current.targets), (OS_ROLE, current.os)):
            if name in work.signed:
                metadata.save_numbered(directory, name, item)
        if new_root is not None:
            metadata.save_numbered(directory, "root", new_root)
        metadata.commit(
            directory,
            current,
            periods=periods,
            now=time,
            snapshot_signers=required_signers(keys, "snapshot"),
            timestamp_signers=required_signers(keys, "timestamp"),
        )
        work.signed["snapshot"] = current.snapshot.signed.version
        work.signed["timestamp"] = current.timestamp.signed.version
        return Refreshed(work.signed, tuple(work.warnings))


class _Refresh:
    """Decides role by role whether to sign it anew, and does so in memory."""

    def __init__(
        self, current: metadata.MetadataSet, keys: Keyring, periods: Periods, now: datetime
    ) -> None:
        self.current = current
        self.keys = keys
        self.periods = periods
        self.now = now
        self.signed: dict[str, int] = {}
        self.warnings: list[str] = []

    def root(self, rotate: bool, old_keys: Keyring) -> Metadata[Root] | None:
        """The next root, or None when the current one stays."""
        current = self.current.root
        roles, public = top_roles(self.keys) if rotate else (current.signed.roles, None)
        if roles == current.signed.roles and not self._due("root", current.signed.expires):
            return None
        old_signers = old_keys.signers("root")
        new_signers = self.keys.signers("root")
        if not rotate and len(old_signers) < current.signed.roles["root"].threshold:
            self._warn("root", current.signed.expires)
            return None
        root = Metadata(copy.deepcopy(current.signed))
        root.signed.version += 1
        root.signed.expires = self.periods.expires("root", self.now)
        if public is not None:
            root.signed.roles, root.signed.keys = roles, public
        metadata.sign(root, _unique([*old_signers, *new_signers]))
        try:
            current.verify_delegate("root", root)
            root.verify_delegate("root", root)
        except RepositoryError as error:
            raise TrustError(
                "cannot rotate root: it needs the signatures of the old and of the new root keys",
                details=str(error),
                resolution="name the directory with the old root keys with --old-keys",
            ) from error
        self.signed["root"] = root.signed.version
        return root

    def require_known_keys(self) -> None:
        """Raises TrustError when devices would not accept what keys sign."""
        for role in ("snapshot", "timestamp"):
            known = set(self.current.root.signed.roles[role].keyids)
            if not known & set(self.keys.public_keys(role)):
                raise TrustError(
                    f"cannot refresh: the key of {role} is not the one that root names",
                    resolution="use the repository's own keys, or rotate with --rotate",
                )

    def targets(self, rotate: bool) -> None:
        """Signs targets anew when it is due, its key is new, or the os key is new."""
        signed = self.current.targets.signed
        delegations = signed.delegations
        if rotate and delegations is not None:
            wanted = os_delegation(required_keys(self.keys, OS_ROLE))
            assert delegations.roles is not None and wanted.roles is not None
            if delegations.roles[OS_ROLE].keyids != wanted.roles[OS_ROLE].keyids:
                delegations.roles |= wanted.roles
                used = {key for role in delegations.roles.values() for key in role.keyids}
                delegations.keys = {
                    key: value
                    for key, value in (delegations.keys | wanted.keys).items()
                    if key in used
                }
                self._sign_targets("targets", self.current.targets)
                self._sign_targets(OS_ROLE, self.current.os)
                return
        if self._due("targets", signed.expires) or not _accepted(
            self.current.root, "targets", self.current.targets
        ):
            self._sign_targets("targets", self.current.targets)

    def os(self) -> None:
        """Signs the os role anew when it is due."""
        if OS_ROLE not in self.signed and self._due(OS_ROLE, self.current.os.signed.expires):
            self._sign_targets(OS_ROLE, self.current.os)

    def _sign_targets(self, role: str, item: Metadata[Targets]) -> None:
        signers = self.keys.signers(role)
        if not signers:
            self._warn(role, item.signed.expires)
            return
        item.signed.version += 1
        item.signed.expires = self.periods.expires(role, self.now)
        metadata.sign(item, signers)
        self.signed[role] = item.signed.version

    def _due(self, role: str, expires: datetime) -> bool:
        half = (self.periods.expires(role, self.now) - self.now) / 2
        return expires - self.now < half

    def _warn(self, role: str, expires: datetime) -> None:
        days = (expires - self.now) // timedelta(days=1)
        self.warnings.append(
            f"{role} expires in {days} days and its keys are not at hand: "
            f"run refresh with them before {expires:%Y-%m-%d}"
        )


def _accepted(root: Metadata[Root], role: str, item: Metadata[Targets]) -> bool:
    try:
        root.verify_delegate(role, item)
    except RepositoryError:
        return False
    return True


def _unique(signers: Sequence[Signer]) -> list[Signer]:
    return list({signer.public_key.keyid: signer for signer in signers}.values())
