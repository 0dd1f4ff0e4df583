"""What to install and how, or why not. Pure: values in, a plan or a refusal out.

`choose` decides on a version from what is on offer; `plan` checks its index
against this device and lists the actions, each with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manifests.index import OsIndex, Release, Releases
from manifests.versions import compare_versions, version_key
from recovery.device import DeviceConfig
from recovery.errors import RefusedError, SpaceError
from recovery.slots import Slot
from recovery.state import StateRecord
from updater.journal import Journal
from updater.runs import Way, in_full
from updater.signed import Signed
from updater.verity import tree_size

# What each boot loader starts (`imager.firmware`).
_ARTIFACT_KINDS = {"systemd-boot": "uki", "grub": "cpio", "u-boot": "fit", "tryboot": "fat"}
MARGIN = 1 << 20
"""Bytes that stay free on the boot partition: entries, and FAT's own tables."""


@dataclass(frozen=True)
class Facts:
    """What the device's disk is like.

    slot: the one that may be written; slot_size in bytes. boot_present: bytes of
    the slot's old boot artifact, None where the artifact has a partition of its own.
    boot_free: bytes of that partition; or free on the boot partition, what an
    interrupted install left there counted as free.
    """

    slot: Slot
    slot_size: int
    boot_free: int
    boot_present: int | None


ActionKind = Literal[
    "release-slot",
    "keep-pieces",
    "apply-delta",
    "copy-slices",
    "fetch-pieces",
    "verify-slot",
    "remove-boot-artifact",
    "write-boot-artifact",
    "start-trial",
]


@dataclass(frozen=True)
class Action:
    """One thing that installing does, and why."""

    kind: ActionKind
    reason: str


@dataclass(frozen=True)
class Plan:
    """An install that this device can do. index_sha256: digest of the index, hex.

    way: how each part of the image gets into the slot. slices: the image's slice map, for
    what a delta cannot make. looked_up: bytes that were fetched of it to choose the way.
    """

    version: str
    from_version: str
    slot: Slot
    index: OsIndex
    index_sha256: str
    actions: tuple[Action, ...]
    way: Way
    slices: Signed | None = None
    looked_up: int = 0

    @property
    def resume(self) -> bool:
        """Whether pieces of this image are expected in the slot."""
        return any(action.kind == "keep-pieces" for action in self.actions)

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch when nothing can be kept and the way works."""
        return self.way.fetch_bytes

    @property
    def full_bytes(self) -> int:
        """Bytes to fetch in full."""
        return self.index.stored_size


def choose(
    releases: Releases, config: DeviceConfig, record: StateRecord, wanted: str | None
) -> Release | None:
    """The release to install; None when the device is up to date.

    wanted: the version that was asked for by name, or None for the newest.
    Raises RefusedError when there is a reason against every candidate.
    """
    if (releases.system, releases.board) != (config.system, config.board):
        raise RefusedError(
            f"cannot use these releases: they are for {releases.system} on {releases.board}",
            details=f"this device is {config.system} on {config.board}",
        )
    if wanted is not None:
        return _named(releases, config, wanted)
    newer = [
        release
        for release in releases.releases
        if compare_versions(release.version, config.version) > 0
    ]
    allowed = [release for release in newer if record.quarantine_of(release.version) is None]
    if allowed:
        return max(allowed, key=lambda release: version_key(release.version))
    if newer:
        newest = max(newer, key=lambda release: version_key(release.version))
        quarantine = record.quarantine_of(newest.version)
        raise RefusedError(
            f"cannot update to {newest.version}: it is quarantined on this device",
            details=f"it failed here before: {quarantine.reason if quarantine else ''}",
            resolution=f"wait for a newer version, or try it again with --to {newest.version}",
        )
    return None


def _named(releases: Releases, config: DeviceConfig, wanted: str) -> Release:
    """The release with the wanted version, if this device may change to it."""
    if wanted == config.version:
        raise RefusedError(f"cannot install {wanted}: it is already running")
    for release in releases.releases:
        if release.version != wanted:
            continue
        order = compare_versions(wanted, config.version)
        if order < 0 and config.version not in release.downgrade_from:
            raise RefusedError(
                f"cannot go down from {config.version} to {wanted}: "
                "the publisher has not permitted it",
                details=f"permitted from: {', '.join(release.downgrade_from) or 'no version'}",
                resolution="publish the permission: orbital repository publish "
                f"--allow-downgrade-from {config.version}; or go back to the generation before "
                "with 'orbital system rollback'",
            )
        return release
    offered = ", ".join(release.version for release in releases.releases) or "nothing"
    raise RefusedError(
        f"cannot install {wanted}: the repository does not offer it",
        details=f"on offer: {offered}",
        resolution="name one of these versions",
    )


def plan(
    index: OsIndex,
    *,
    index_sha256: str,
    version: str,
    config: DeviceConfig,
    facts: Facts,
    journal: Journal | None,
    way: Way | None = None,
    slices: Signed | None = None,
    looked_up: int = 0,
) -> Plan:
    """The actions that bring the image into the slot and on trial.

    version: the one that was chosen. way: how the image comes; None: in full. slices,
    looked_up: see Plan.
    Raises RefusedError when the image is not
    for this device, SpaceError when it does not fit.
    """
    _require_fitting(index, config, version)
    needed = index.root.hash_offset + tree_size(index.root.hash_offset)
    if needed > facts.slot_size:
        raise SpaceError(
            f"cannot install {version}: slot {facts.slot} is too small",
            details=f"the image has {needed} bytes, the slot {facts.slot_size}",
            resolution="the image must shrink, or the device needs a new factory disk image",
        )
    remove_old = _needs_room_of_old(index.boot.stream.size, facts, version)
    actions = [
        Action("release-slot", "the loader must not start a slot that is being written"),
    ]
    if journal is not None and (journal.index_sha256, journal.slot) == (index_sha256, facts.slot):
        actions.append(
            Action("keep-pieces", "an interrupted install of the same image wrote to this slot")
        )
    way = in_full(index) if way is None else way
    saved = index.stored_size - way.fetch_bytes
    if way.kind == "delta":
        actions.append(
            Action("apply-delta", f"the delta from {way.from_version} saves {saved} bytes")
        )
    elif way.kind == "chunks":
        actions.append(
            Action("copy-slices", f"what {way.from_version} has of the image saves {saved} bytes")
        )
    actions.append(Action("fetch-pieces", "what the slot does not hold yet"))
    actions.append(Action("verify-slot", "only an image that was read back whole may boot"))
    if remove_old:
        actions.append(
            Action("remove-boot-artifact", "the boot partition has no room for the old and the new")
        )
    actions.append(Action("write-boot-artifact", "the loader starts it"))
    actions.append(Action("start-trial", "the commit point: from there on it boots"))
    return Plan(
        version,
        config.version,
        facts.slot,
        index,
        index_sha256,
        tuple(actions),
        way,
        slices,
        looked_up,
    )


def _needs_room_of_old(size: int, facts: Facts, version: str) -> bool:
    """Whether the old boot artifact must go before the new one. Raises SpaceError."""
    if facts.boot_present is None:
        room = present = facts.boot_free
    else:
        room = facts.boot_free - MARGIN
        present = room + facts.boot_present
    if size > present:
        raise SpaceError(
            f"cannot install {version}: the boot partition is too small",
            details=f"the boot artifact has {size} bytes, {max(0, present)} can be used",
            resolution="the image must shrink, or the device needs a new factory disk image"
            if facts.boot_present is None
            else "remove files that do not belong on the boot partition",
        )
    return size > room


def _require_fitting(index: OsIndex, config: DeviceConfig, version: str) -> None:
    """Raises RefusedError when the image is not the one that was chosen, for this device."""
    for name, image, device in (
        ("system", index.system, config.system),
        ("board", index.board, config.board),
        ("architecture", index.architecture, config.architecture),
        ("version", index.version, version),
    ):
        if image != device:
            raise RefusedError(
                f"cannot install this image: its {name} is {image}, not {device}",
                resolution="the publisher has to publish the right image",
            )
    wanted = _ARTIFACT_KINDS.get(config.boot_control)
    if wanted is not None and index.boot.kind != wanted:
        raise RefusedError(
            f"cannot install this image: its boot artifact is of kind {index.boot.kind}",
            details=f"boot control {config.boot_control} starts {wanted}",
            resolution="the publisher has to publish the right image",
        )
