"""Going back because somebody asked: the previous image as a new generation on trial."""

from __future__ import annotations

from recovery.boot import boot_id
from recovery.errors import RefusedError
from recovery.generations import Generation
from recovery.slots import BootControl
from recovery.state import StateStore
from recovery.trial import Image, require_idle, start_trial
from recovery.value import replace


def request_rollback(
    store: StateStore,
    boot_control: BootControl,
    requested_by: str,
    *,
    tries: int = 3,
    reason: str = "",
) -> Generation:
    """Puts the previous generation's image and /etc on trial as a new generation.

    The caller holds the lock; the device goes back at the next reboot. If the
    trial fails, the generation that is committed now stays. A probation ends
    here: whoever asks has made the judgement. Raises RefusedError when there
    is nothing to go back to or a trial is open.
    """
    record = store.load()
    if record.trial is not None:
        require_idle(record)
    previous = store.generations.load(record.previous) if record.previous is not None else None
    if previous is None:
        raise RefusedError(
            "cannot roll back: no earlier generation is kept",
            details="the other slot is empty, failed, or has been released for an update",
            resolution="install the version you want: 'orbital system update --to VERSION'",
        )
    if not boot_control.slot_state(previous.slot).bootable:
        raise RefusedError(
            f"cannot roll back: slot {previous.slot} has no boot entry",
            resolution="install the version you want: 'orbital system update --to VERSION'",
        )
    if record.probation is not None:
        # Cut after this: the newer generation stays, unwatched; the request is made again.
        store.save(replace(record, probation=None))
    image = Image(previous.system, previous.version, previous.root_hash)
    return start_trial(
        store,
        boot_control,
        image,
        slot=previous.slot,
        origin="rollback",
        parent=previous.number,
        requested_by=requested_by,
        tries=tries,
        boot_id=boot_id(),
        reason=reason,
        packages=previous.packages,
    )
