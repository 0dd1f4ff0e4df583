"""Installing again from the rescue system: the committed version, or a newer one.

The ordinary installation with the ordinary trust rules, but for what does not exist
there: no slot runs, so there is no base for a delta, and the slot that is written may
be the committed one.

* **In place.** The committed version is still offered: its slot gets back what is
  damaged. Every piece that is right is kept, so what is fetched is the damage. The
  generation stays the one it was, with its configuration and packages. Nothing is
  recorded but the loader's entry (the commit point). A cut leaves a slot that is less
  damaged than before; dm-verity and, where there is one, the firmware's check stand
  between its rest and a boot.
* **Newer.** Into the other slot, as a trial of the committed generation's successor:
  the order of writes is that of `updater.install`. Its packages are the same entries;
  which of them fit the new image is found out in the trial.
* **Unknown.** No record tells what was committed: the newest version, no older than
  the rescue system's own. The next boot takes it for a factory image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from manifests.index import Release, Releases
from manifests.versions import compare_versions, version_key
from recovery import plan as steps_of
from recovery import trial
from recovery.errors import RefusedError, StateError
from recovery.generations import Generation
from recovery.reporter import Reporter
from recovery.rescue.settle import committed_generation, follow_loader, settle
from recovery.rescue.starting import activate, count_start
from recovery.slots import SLOTS, Slot, other_slot
from recovery.starts import StartFile
from recovery.state import StateRecord
from recovery.steps import apply
from updater.device import Device
from updater.index import decode_releases, published_index
from updater.install import write_boot_artifact, write_root
from updater.journal import Journal
from updater.plan import Plan, plan
from updater.repository import opened_source, refreshed
from updater.source import Source
from updater.trust import TrustedRepository

_WHO = "rescue"


@dataclass(frozen=True)
class Choice:
    """A version and where it goes. in_place: it is the slot's own generation."""

    release: Release
    slot: Slot
    in_place: bool


@dataclass(frozen=True)
class Reinstalled:
    """What was installed; bytes. generation: its number, 0 when no record knows it."""

    version: str
    slot: Slot
    generation: int
    in_place: bool
    fetched: int
    kept: int
    written: int


def choices(
    releases: Releases,
    *,
    committed: Generation | None,
    record: StateRecord | None,
    own_version: str,
    damaged: Slot | None,
) -> tuple[Choice, ...]:
    """What may be installed, the best first. Pure.

    own_version: of the rescue system, the floor where nothing else is known. damaged:
    a slot that is not whole, to be preferred there.
    """
    offered = sorted(releases.releases, key=lambda item: version_key(item.version), reverse=True)
    if committed is None or record is None:
        floor = [item for item in offered if compare_versions(item.version, own_version) >= 0]
        return tuple(Choice(item, damaged or "a", in_place=False) for item in floor[:1])
    same = [item for item in offered if item.version == committed.version]
    newer = [
        item
        for item in offered
        if compare_versions(item.version, committed.version) > 0
        and record.quarantine_of(item.version) is None
    ]
    return (
        *(Choice(item, committed.slot, in_place=True) for item in same),
        *(Choice(item, other_slot(committed.slot), in_place=False) for item in newer[:1]),
    )


@dataclass(frozen=True)
class Rescue:
    """What an installation from the rescue system works with.

    device: without a running slot. starts: the start record, None without one. whole:
    slots that were verified.
    """

    device: Device
    starts: StartFile | None
    whole: frozenset[Slot]
    reporter: Reporter


def reinstall(
    rescue: Rescue,
    source_name: str,
    *,
    insist: bool = False,
    slot: Slot | None = None,
    now: Callable[[], float] = time.time,
) -> Reinstalled:
    """Installs from one source, and lets the loader start it next. The caller holds the lock.

    insist: a person wants it: the start is not counted, and a slot where nothing was damaged
    is started, too; otherwise that is no reason to hope, and the next choice is taken. slot:
    only what goes into this one. Raises TrustError, FetchError, SpaceError, StateError,
    BootControlError, and RefusedError when nothing is offered that could help.
    """
    device = rescue.device
    rescue.reporter.stage(f"look for an image at {source_name}")
    follow_loader(device.store, device.boot_control, device.config, device.boot_id)
    committed, record = committed_generation(device.store), device.store.read()
    damaged: tuple[Slot, ...] = tuple(s for s in SLOTS if s not in rescue.whole)
    with (
        opened_source(source_name) as source,
        refreshed(
            source,
            anchor=device.anchor,
            state=device.store.root,
            built=device.config.built,
            now=now(),
        ) as repository,
    ):
        for choice in choices(
            _releases(device, repository),
            committed=committed,
            record=record,
            own_version=device.config.version,
            damaged=slot or next(iter(damaged), None),
        ):
            if slot is not None and choice.slot != slot:
                continue
            chosen = _plan(device, repository, choice)
            image = chosen.index.root
            if choice.in_place and committed and image.root_hash != committed.root_hash:
                # Published again under the same version: not what was committed.
                continue
            there = replace(rescue, device=replace(device, target=choice.slot))
            done = _install(choice, chosen, there, source, insist=insist)
            if done is not None:
                return done
    raise RefusedError(
        f"cannot reinstall from {source_name}: it has no version that could help",
        details="the committed version is whole or not offered, and no newer one is offered "
        "that has not failed here",
        resolution="publish a newer version, or bring one on a stick",
    )


def _install(
    choice: Choice, chosen: Plan, rescue: Rescue, source: Source, *, insist: bool
) -> Reinstalled | None:
    """Writes, verifies, activates; None when nothing was damaged and nobody insists."""
    device, reporter = rescue.device, rescue.reporter
    store, boot_control = device.store, device.boot_control
    committed = committed_generation(store)
    as_trial = committed is not None and not choice.in_place
    if as_trial:
        record = settle(store, boot_control, device.config, device.boot_id)
        if committed is None or record.committed != committed.number:
            raise StateError("cannot install: another generation is committed than a moment ago")
        apply(steps_of.release(record, choice.slot), store, boot_control)
    elif not choice.in_place:
        boot_control.mark_unbootable(choice.slot)
    # ↓ Power cut: nothing new can start; rescue comes again and keeps the pieces.
    try:
        root = write_root(chosen, device, source, None, reporter)
        boot = write_boot_artifact(chosen, device, source, None, reporter)
    except OSError as error:
        raise StateError(
            f"cannot write slot {choice.slot}: {error.strerror}",
            details=str(error.filename or ""),
            resolution="check the disk; it may be at the end of its life",
        ) from error
    written = root.written + boot.written
    # A visit that was cut may have written all of it already, under another name.
    if choice.in_place and not written and choice.slot in rescue.whole and not insist:
        return None
    # ↓ Power cut: the slot is whole, and the next visit finds that.
    if not insist:
        count_start(rescue.starts)
    other_whole = other_slot(choice.slot) in rescue.whole
    if as_trial and committed is not None:
        number = trial.start_trial(
            store,
            boot_control,
            trial.Image(chosen.index.system, chosen.version, chosen.index.root.root_hash),
            slot=choice.slot,
            origin="update",
            parent=committed.number,
            requested_by=_WHO,
            tries=device.config.trial.tries,
            boot_id=device.boot_id,
            reason=_WHO,
            packages=committed.packages,
            in_rescue=True,
            way_back=other_whole,
        ).number
    else:
        tries = device.config.trial.tries
        activate(boot_control, choice.slot, tries=tries, other_may_start=other_whole)
        number = committed.number if committed is not None else 0
    return Reinstalled(
        version=choice.release.version,
        slot=choice.slot,
        generation=number,
        in_place=choice.in_place,
        fetched=root.fetched + boot.fetched,
        kept=root.kept + boot.kept,
        written=written,
    )


def _releases(device: Device, repository: TrustedRepository) -> Releases:
    config = device.config
    data = repository.target(f"os/{config.system}/{config.board}/releases.json")
    if data is None:
        raise RefusedError(
            f"cannot reinstall: the source has nothing for system {config.system} on board "
            f"{config.board}",
            resolution="use the repository of this product",
        )
    return decode_releases(data)


def _plan(device: Device, repository: TrustedRepository, choice: Choice) -> Plan:
    """The plan for a choice. Raises RefusedError, SpaceError, TrustError."""
    index, digest = published_index(repository, device.config, choice.release.version)
    return plan(
        index,
        index_sha256=digest,
        version=choice.release.version,
        config=device.config,
        facts=replace(device, target=choice.slot).facts(),
        # What the slot holds may be this image, damaged: right pieces are kept.
        journal=Journal(digest, choice.slot, choice.release.version),
    )
