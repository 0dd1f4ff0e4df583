"""Installing an image into the inactive slot, up to its one commit point.

The write order is the design; `recovery.trial` has its first and last steps.
What a power cut means is said at each arrow. In short: before the commit point
the device boots the running, committed slot as if nothing had happened, and
the next update continues; after it, it boots the new image on trial.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from recovery import durable, trial
from recovery.errors import OrbitalError, StateError, TrustError
from recovery.generations import PackageEntry
from recovery.reporter import Reporter
from recovery.slots import Slot
from updater import journal, medium
from updater.base import FileBase
from updater.device import Device
from updater.journal import Journal
from updater.medium import Medium
from updater.plan import Plan
from updater.source import Source
from updater.transfer import Maker, Transferred, transfer
from updater.verity import HashTree
from updater.ways import Search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.making import Making

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Installed:
    """What was installed, in bytes.

    way: how it came. fetched: what came from the source. full: what it would have been in
    full. kept: found in place. copied: came from the running image. written: to slot and boot
    artifact. wasted: part of fetched that was of no use. notes: why something was not, for people.
    """

    version: str
    slot: Slot
    generation: int
    way: Literal["delta", "chunks", "full"]
    fetched: int
    kept: int
    copied: int
    full: int
    written: int
    wasted: int
    notes: tuple[str, ...]


def install(
    plan: Plan,
    device: Device,
    source: Source,
    *,
    requested_by: str,
    reporter: Reporter,
    packages: tuple[PackageEntry, ...] = (),
) -> Installed:
    """Carries the plan out. The caller holds the lock of device.store.

    packages: the set that goes on trial with the image; the store has its images.
    Raises what source, medium and state raise, and TrustError for data that
    is not what was signed. After any error the running system is untouched
    and the inactive slot does not boot.
    """
    store, boot_control = device.store, device.boot_control
    slot = trial.release_slot(store, boot_control)
    # ↓ Power cut: the slot has no boot entry; its content is still the old
    #   image. The device boots the committed slot.
    entry = Journal(plan.index_sha256, slot, plan.version)
    if not plan.resume:
        journal.save(store.root, entry)
    # ↓ Power cut: as above; the next update of this image looks for pieces in
    #   the slot and finds few or none.
    maker = _maker(plan, device, source)
    root = write_root(plan, device, source, maker, reporter)
    # ↓ Power cut while writing or after: pieces of the new image are in the
    #   slot, nothing boots them; the next update keeps those that are right.
    #   From here on the slot has been read back whole.
    boot = write_boot_artifact(plan, device, source, maker, reporter)
    # ↓ Power cut while writing: a file that no entry names, or a partition that
    #   nothing boots. In the rename: the old or the new artifact, or (FAT keeps no
    #   journal) a damaged name; no entry of the slot exists, so none can boot.
    generation = _start_trial(plan, device, requested_by, packages)
    # ↓ Power cut inside, before the commit point: a trial without a boot
    #   entry, which the next boot drops as interrupted. After it: the new
    #   image boots on trial. The journal that may be left behind names an
    #   image that is complete: harmless.
    journal.clear(store.root)
    return Installed(
        version=plan.version,
        slot=slot,
        generation=generation,
        way=plan.way.kind,
        fetched=root.fetched + boot.fetched + (maker.fetched if maker else 0),
        kept=root.kept + boot.kept,
        copied=maker.made if maker else 0,
        full=plan.full_bytes,
        written=root.written + boot.written,
        wasted=maker.wasted if maker else 0,
        notes=maker.notes if maker else (),
    )


def drop_unarmed_trial(device: Device) -> bool:
    """Takes back a trial whose install died in this boot before its commit point.

    After a power cut the next boot does this; here a process was killed and
    the same boot goes on. Returns whether there was one. The caller holds the lock.
    """
    record = device.store.read()
    if record is None or record.trial is None or record.trial.armed_boot != device.boot_id:
        return False
    generation = device.store.generations.load(record.trial.generation)
    if generation is None or generation.slot == device.boot_control.current_slot():
        return False
    if device.boot_control.slot_state(generation.slot).bootable:
        return False
    trial.cancel_trial(device.store, device.boot_control, boot_id=device.boot_id)
    return True


def write_root(
    plan: Plan, device: Device, source: Source, maker: Maker | None, reporter: Reporter
) -> Transferred:
    """Fills the slot and verifies all of it from what the disk gives back."""
    reporter.stage(f"install {plan.version} into slot {plan.slot}")
    tree = HashTree(plan.index.root)
    with (
        Medium(device.slots[plan.slot]) as slot,
        # Without a maker there need not be a slot that runs: in the rescue system none does.
        _base(device.slots[device.boot_control.current_slot()] if maker else None) as base,
    ):
        moved = transfer(
            plan.way.root,
            source,
            slot,
            resume=plan.resume,
            check=tree.add,
            progress=reporter.progress,
            maker=maker,
            base=base,
            workers=device.workers,
        )
        _write_tree(tree, slot)
    return moved


def _write_tree(tree: HashTree, slot: Medium) -> None:
    """Puts the hash tree behind the data that it was computed from, and reads it back."""
    memory, scratch = medium.buffer(_BLOCK), medium.buffer(_BLOCK)
    parts = list(tree.parts())
    for offset, content in parts:
        for start in range(0, len(content), _BLOCK):
            block = memory[: min(_BLOCK, len(content) - start)]
            block[:] = content[start : start + _BLOCK]
            slot.write_changed(offset + start, block, scratch)
    slot.flush()
    for offset, content in parts:
        for start in range(0, len(content), _BLOCK):
            wanted = memoryview(content)[start : start + _BLOCK]
            size = slot.read_back(offset + start, memory)
            if bytes(memory[: min(size, len(wanted))]) != bytes(wanted):
                raise StateError(
                    "cannot use the written slot: its hash tree reads back differently",
                    details=f"at byte {offset + start}",
                    resolution="run the update again; if this repeats, the disk is bad",
                )


def _maker(plan: Plan, device: Device, source: Source) -> Making | None:
    way, slices = plan.way, plan.slices
    if way.kind == "full":
        return None
    # Decoders are loaded where they are needed.
    from updater.making import Making

    look = None
    if slices is not None and way.kind == "delta":
        search = Search(device, source, plan.index, slices)
        # Nobody waits for this alone: the other segments come meanwhile.
        look = partial(search.look, lambda _done, _total: None)
    return Making(source, way, plan.full_bytes, look=look, map_size=plan.looked_up)


@contextlib.contextmanager
def _base(path: Path | None) -> Iterator[FileBase | None]:
    """The running image; None when there is none, or none that can be opened."""
    try:
        base = FileBase(path) if path is not None else None
    except OSError:
        base = None
    try:
        yield base
    finally:
        if base is not None:
            base.close()


def write_boot_artifact(
    plan: Plan, device: Device, source: Source, maker: Maker | None, reporter: Reporter
) -> Transferred:
    """Puts the boot artifact in place: into the slot's own partition, or as a whole new file."""
    stream = plan.index.boot.stream
    final = device.boot_artifact(plan.slot)
    if final.exists():
        with Medium(final) as artifact:
            whole = bool(device.boot_slots) or artifact.size == stream.size
            if whole and _digest(artifact, stream.size) == stream.sha256:
                return Transferred(fetched=0, kept=stream.size, written=0)
    reporter.stage("install boot artifact")
    if device.boot_slots:
        # Nothing boots the slot, so it is written in place. What an older, longer artifact
        # left behind the end is not read: an artifact says itself how long it is.
        return _transfer_artifact(plan, device, final, source, maker=maker, reporter=reporter)
    staged = device.staged_artifact(plan.slot)
    durable.make_directory(final.parent)
    if any(action.kind == "remove-boot-artifact" for action in plan.actions):
        # Power cut: the slot has neither an entry nor an artifact.
        durable.remove_file(final)
    moved = _transfer_artifact(plan, device, staged, source, maker=maker, reporter=reporter)
    durable.publish_file(staged, final)
    return moved


def _transfer_artifact(
    plan: Plan,
    device: Device,
    target: Path,
    source: Source,
    *,
    maker: Maker | None,
    reporter: Reporter,
) -> Transferred:
    """Writes the boot artifact and verifies it from what the disk gives back."""
    running = device.boot_artifact(device.boot_control.current_slot()) if maker else None
    stream = plan.index.boot.stream
    block = target.is_block_device()
    with (
        Medium(target, create=not block) as artifact,
        _base(running) as base,
    ):
        if not block:
            artifact.truncate(stream.size)
        moved = transfer(
            plan.way.boot,
            source,
            artifact,
            resume=plan.resume,
            # It is read back as a whole below.
            check=None,
            progress=reporter.progress,
            maker=maker,
            base=base,
            workers=device.workers,
        )
        if _digest(artifact, stream.size) != stream.sha256:
            raise TrustError(
                f"cannot use the written boot artifact {target}: it is not what was signed",
                resolution="run the update again; if this repeats, the disk is bad",
            )
    return moved


def _start_trial(
    plan: Plan, device: Device, requested_by: str, packages: tuple[PackageEntry, ...]
) -> int:
    """Generation record → state record → commit point. Returns the generation's number."""
    root = plan.index.root
    try:
        generation = trial.start_trial(
            device.store,
            device.boot_control,
            trial.Image(plan.index.system, plan.version, root.root_hash),
            slot=plan.slot,
            origin="update",
            parent=device.store.load().committed,
            requested_by=requested_by,
            tries=device.config.trial.tries,
            boot_id=device.boot_id,
            packages=packages,
        )
    except (OSError, OrbitalError):
        # Not a power cut but an error, e.g. of the boot partition: this boot
        # goes on, so take back what was recorded before the commit point.
        # When that fails too, the next boot does it.
        with contextlib.suppress(OSError, OrbitalError):
            drop_unarmed_trial(device)
        raise
    return generation.number


def _digest(target: Medium, size: int) -> str:
    """The digest of the first size bytes of what the target holds, read back."""
    digest = hashlib.sha256()
    memory = medium.buffer(_BLOCK)
    offset = 0
    while offset < size and (count := target.read_back(offset, memory)):
        digest.update(memory[: min(count, size - offset)])
        offset += count
    return digest.hexdigest()
