"""New expiry dates, new keys (root rotation by the standard protocol), new publishers."""

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
from imager.repository.delegations import delegated_roles, is_publisher, wanted
from imager.repository.roles import (
    Keyring,
    Periods,
    required_signers,
    top_roles,
    utc_now,
)
from recovery.errors import TrustError


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did. signed: role and new version of everything signed anew.

    warnings: what could not be done because keys are not at hand.
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

    When the key of targets is at hand, publishers become those that keys
    lists (`imager.publishers`): who is not listed any more offers nothing from
    then on; who has signed nothing yet, or has a new key that is not at hand,
    offers packages from the next publication with it.

    rotate: replaces the keys of every role by those in keys. The new root is
    signed by the old and the new root keys, each up to their threshold;
    old_keys finds the old ones (default: keys, when only other roles change).

    Write order: targets, its delegated roles and snapshot under new numbers, then root, then
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
        work.delegations(rotate)
        work.due()
        for name, item in (("targets", current.targets), *current.delegated.items()):
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

    def delegations(self, rotate: bool) -> None:
        """Makes targets delegate to whom keys names, and signs roles with new keys anew."""
        current = self.current
        old = current.targets.signed.delegations
        new = wanted(self.keys, old, rotate=rotate)
        if old is not None and new == old and list(new.roles or ()) == list(old.roles or ()):
            return
        if not self._signers("targets"):
            self.warnings.append(
                "the repository delegates to other keys or publishers than the key directory "
                "names, and the key of targets is not at hand: run refresh with it"
            )
            return
        before = delegated_roles(current.targets.signed)
        current.targets.signed.delegations = new
        self._sign("targets", current.targets)
        for name, role in delegated_roles(current.targets.signed).items():
            if name in before and before[name].keyids == role.keyids:
                continue
            item = current.delegated.get(name, Metadata(Targets()))
            if self._sign(name, item):
                current.delegated[name] = item
            elif is_publisher(name):
                current.delegated.pop(name, None)
                self.warnings.append(
                    f"{name} offers nothing until its key has signed: publish with that key"
                )
            else:
                raise TrustError(
                    f"cannot give the role {name} a new key: it is not at hand to sign with",
                    resolution=f"name a key directory with --keys that holds the key of {name}",
                )
        for name in set(before) - set(delegated_roles(current.targets.signed)):
            current.delegated.pop(name, None)

    def due(self) -> None:
        """Signs targets and delegated roles anew when they are due or their key is new."""
        current = self.current
        expires = current.targets.signed.expires
        if "targets" not in self.signed and (
            self._due("targets", expires) or not _accepted(current.root, current.targets)
        ):
            self._sign_or_warn("targets", current.targets)
        for name, item in current.delegated.items():
            if name not in self.signed and self._due(name, item.signed.expires):
                self._sign_or_warn(name, item)

    def _sign_or_warn(self, role: str, item: Metadata[Targets]) -> None:
        if not self._sign(role, item):
            self._warn(role, item.signed.expires)

    def _sign(self, role: str, item: Metadata[Targets]) -> bool:
        """Signs the next version of role; False when its keys are not at hand."""
        signers = self._signers(role)
        if not signers:
            return False
        item.signed.version = self.current.next_version(role)
        item.signed.expires = self.periods.expires(role, self.now)
        metadata.sign(item, signers)
        self.signed[role] = item.signed.version
        return True

    def _signers(self, role: str) -> list[Signer]:
        """The signers of role that devices accept; empty when they are not at hand."""
        above = self.current.root if role == "targets" else self.current.targets
        accepted = above.signed.get_delegated_role(role).keyids
        return [item for item in self.keys.signers(role) if item.public_key.keyid in accepted]

    def _due(self, role: str, expires: datetime) -> bool:
        half = (self.periods.expires(role, self.now) - self.now) / 2
        return expires - self.now < half

    def _warn(self, role: str, expires: datetime) -> None:
        days = (expires - self.now) // timedelta(days=1)
        when = f"expires in {days} days" if days >= 0 else f"has expired on {expires:%Y-%m-%d}"
        self.warnings.append(
            f"{role} {when} and its keys are not at hand: run refresh with them in time"
        )


def _accepted(root: Metadata[Root], targets: Metadata[Targets]) -> bool:
    try:
        root.verify_delegate("targets", targets)
    except RepositoryError:
        return False
    return True


def _unique(signers: Sequence[Signer]) -> list[Signer]:
    return list({signer.public_key.keyid: signer for signer in signers}.values())
