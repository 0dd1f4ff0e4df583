"""Putting a generation on trial: the only way a device starts to run something else.

The order of writes, for an update into the inactive slot:

1. `release_slot`: the record stops naming the slot's old generation as the one
   to go back to, then the slot loses its boot entry. From here until step 6 the
   loader can only start the committed slot.
2. The caller writes the image and the boot artifact and verifies both.
3. The generation record (a new file; nothing refers to it yet).
4. The state record names the trial.
5. History: "installed".
6. **Commit point**: `set_active`, one step in the loader's record.

A power cut before 6 leaves a trial that was never armed: the next boot drops
it as interrupted. After 6 the next boot tries it.
"""

from __future__ import annotations

import time

from recovery import plan
from recovery.errors import RefusedError
from recovery.generations import Generation, PackageEntry
from recovery.history import Event
from recovery.slots import BootControl, Slot, other_slot
from recovery.state import StateRecord, StateStore
from recovery.steps import MarkUnbootable, apply
from recovery.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.generations import Origin


class Image(Value):
    """An image as generations name it. root_hash: dm-verity root hash, hex."""

    system: str
    version: str
    root_hash: str


def require_idle(record: StateRecord) -> None:
    """Raises RefusedError while a trial or a probation is open: nothing may be changed then."""
    if record.trial is not None:
        raise RefusedError(
            f"cannot change this device: generation {record.trial.generation} is still on trial",
            resolution="reboot to start it, or wait for its verdict: 'orbital system status'",
        )
    if record.change is not None:
        raise RefusedError(
            "cannot change this device: a change of its packages has not been finished",
            resolution="finish it with 'orbital package gc', or reboot: it is dropped then",
        )
    if record.probation is not None:
        raise RefusedError(
            f"cannot change this device: generation {record.probation.generation} is on probation",
            details="until it ends, the generation before it is held ready in the other slot",
            resolution=f"try again after {record.probation.seconds} seconds of undisturbed running",
        )


def release_slot(store: StateStore, boot_control: BootControl) -> Slot:
    """Gives up what the inactive slot holds and returns the slot, ready to be written.

    The caller holds the lock. Raises RefusedError while a trial or probation
    is open, or when the running slot is not the committed one.
    """
    record = store.load()
    require_idle(record)
    slot = _inactive_slot(store, record, boot_control)
    apply(plan.release(record, slot), store, boot_control)
    return slot


def start_trial(
    store: StateStore,
    boot_control: BootControl,
    image: Image,
    *,
    slot: Slot,
    origin: Origin,
    parent: int,
    requested_by: str,
    tries: int,
    boot_id: str,
    reason: str = "",
    packages: tuple[PackageEntry, ...] = (),
    in_rescue: bool = False,
    way_back: bool = True,
) -> Generation:
    """Makes a new generation of the image in slot and lets the loader try it next (steps 3 to 6).

    The caller holds the lock and has verified the slot. parent: the generation
    whose /etc and package state the new one starts from. packages: in the
    versions that fit the image; each gets a state layer of the new generation.
    in_rescue: no slot runs, and the caller knows that nothing else is open. way_back:
    whether the loader may start the other slot when the trial fails.
    Raises RefusedError as `release_slot`, but not in_rescue.
    """
    record = store.load()
    if not in_rescue:
        require_idle(record)
        if slot != _inactive_slot(store, record, boot_control):
            raise RefusedError(f"cannot try slot {slot}: it holds the committed generation")
    committed = store.generations.load(record.committed)
    number = next_number(record, store)
    generation = Generation(
        number=number,
        slot=slot,
        system=image.system,
        version=image.version,
        root_hash=image.root_hash,
        parent=parent,
        created=int(time.time()),
        origin=origin,
        requested_by=requested_by,
        # Layers of its own: what services write in the trial goes with the trial.
        packages=tuple(replace(entry, state=number) for entry in packages),
    )
    steps = plan.install(
        record,
        generation,
        committed.version if committed else "",
        tries=tries,
        boot_id=boot_id,
        reason=reason or origin,
    )
    if not way_back:
        *records, commit_point = steps
        steps = (*records, MarkUnbootable(other_slot(slot)), commit_point)
    apply(steps, store, boot_control)
    return generation


def next_number(record: StateRecord, store: StateStore) -> int:
    """A number that no generation has or had."""
    return max((record.next_generation, *(n + 1 for n in store.generations.numbers())))


def cancel_trial(store: StateStore, boot_control: BootControl, *, boot_id: str) -> Generation:
    """Takes back a trial that has been installed and not been started yet; returns it.

    The loader's entry goes first: a power cut after it leaves a trial that is
    not armed, which the next boot drops. Raises RefusedError when no trial
    waits.
    """
    record = store.load()
    trial = record.trial
    generation = store.generations.load(trial.generation) if trial else None
    if trial is None or generation is None or boot_control.current_slot() == generation.slot:
        raise RefusedError("cannot cancel: no generation is waiting for its trial")
    boot_control.mark_unbootable(generation.slot)
    committed = store.generations.load(record.committed)
    store.history.record_once(
        Event(
            event="interrupted",
            generation=generation.number,
            from_version=committed.version if committed else "",
            to_version=generation.version,
            slot=generation.slot,
            reason="cancelled before it was started",
            requested_by=generation.requested_by,
            time=int(time.time()),
            boot_id=boot_id,
        )
    )
    store.save(replace(record, trial=None))
    return generation


def _inactive_slot(store: StateStore, record: StateRecord, boot_control: BootControl) -> Slot:
    """The slot that may be overwritten: neither running nor committed."""
    running = boot_control.current_slot()
    committed = store.generations.load(record.committed)
    if committed is not None and committed.slot != running:
        raise RefusedError(
            f"cannot change this device: slot {running} runs, slot {committed.slot} is committed",
            resolution="reboot into the committed slot first",
        )
    return other_slot(running)
