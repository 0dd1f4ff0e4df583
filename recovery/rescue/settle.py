"""Closing what is open in the state record, as the committed generation would at its boot.

Before a newer version is put on trial from the rescue system nothing else may be open.
What the committed generation would decide at its next start (`recovery.decide`) is
decided here: the same functions, with that generation in the place of the running one.
"""

from __future__ import annotations

import time

from recovery import decide, plan
from recovery.device import DeviceConfig
from recovery.errors import StateError
from recovery.observe import view_of
from recovery.slots import BootControl
from recovery.state import StateRecord, StateStore
from recovery.steps import MarkUnbootable, Save, apply
from recovery.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.generations import Generation

_REPAIRS_AT_MOST = 5
FOLLOWS = (decide.DropChange, decide.FinishCommit, decide.Adopt)
"""What may change which generation is committed, and a change of packages that would hide it."""


def committed_generation(store: StateStore) -> Generation | None:
    """The committed generation; None when the record, or its record, is lost."""
    record = store.read()
    return None if record is None else store.generations.load(record.committed)


def behind_loader(store: StateStore, boot_control: BootControl, boot_id: str) -> bool:
    """Whether `follow_loader` would write. Raises StateError, BootControlError."""
    found = _assessed(store, boot_control, boot_id)
    return found is not None and isinstance(found[1], FOLLOWS)


def follow_loader(
    store: StateStore, boot_control: BootControl, config: DeviceConfig, boot_id: str
) -> None:
    """Writes down what the loader has committed and the state record does not know yet.

    Before anything is chosen that will be overwritten: a power cut between the two leaves a
    committed version in the slot that the record calls the other one. Raises StateError,
    BootControlError.
    """
    for _ in range(_REPAIRS_AT_MOST):
        found = _assessed(store, boot_control, boot_id)
        if found is None:
            return
        view, verdict = found
        if not isinstance(verdict, FOLLOWS):
            return
        apply(plan.repair(verdict, view, config.trial, int(time.time())), store, boot_control)
    raise StateError("cannot follow the loader: repairs of the state record do not end")


def settle(
    store: StateStore, boot_control: BootControl, config: DeviceConfig, boot_id: str
) -> StateRecord:
    """Leaves the record without trial, probation or change. The caller holds the lock.

    A trial that waits to be started is taken back: its entry first, then the record,
    so that a cut in between leaves one that is dropped as interrupted. A probation
    ends: there will be no undisturbed time. Raises StateError, BootControlError.
    """
    for _ in range(_REPAIRS_AT_MOST):
        found = _assessed(store, boot_control, boot_id)
        if found is None:
            raise StateError("cannot settle: the record of the committed generation is lost")
        view, verdict = found
        now = int(time.time())
        if isinstance(verdict, decide.Waiting):
            waiting = view.find(verdict.generation)
            dropped = decide.DropTrial(verdict.generation, "taken back by the rescue system")
            entry = (MarkUnbootable(waiting.slot),) if waiting is not None else ()
            steps = (*entry, *plan.repair(dropped, view, config.trial, now))
        elif isinstance(verdict, decide.REPAIRS):
            steps = plan.repair(verdict, view, config.trial, now)
        else:
            record = replace(view.record, probation=None)
            if record != view.record:
                apply((Save(record),), store, boot_control)
            return record
        apply(steps, store, boot_control)
    raise StateError("cannot settle: repairs of the state record do not end")


def _assessed(
    store: StateStore, boot_control: BootControl, boot_id: str
) -> tuple[decide.View, decide.Verdict] | None:
    """What the committed generation would decide at its start; None when its record is lost."""
    committed = committed_generation(store)
    if committed is None:
        return None
    view = view_of(store, boot_control, committed, boot_id=boot_id)
    return view, decide.assess(view)
