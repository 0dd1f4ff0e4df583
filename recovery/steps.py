"""What a decision does to the device: durable steps, prepared as values, applied in order.

Each step is durable and whole when it returns, so the only states that a power
cut can leave are those between two steps. The model check in
`tests/recovery/test_model.py` cuts every plan at every step.
"""

from __future__ import annotations

from recovery.generations import Generation
from recovery.history import Event
from recovery.state import StateRecord, StateStore
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from recovery.slots import BootControl, Slot


class WriteGeneration(Value):
    """Adds the immutable record of a generation that nothing refers to yet."""

    generation: Generation


class Tell(Value):
    """Adds an outcome to the history, once for each kind of event and generation."""

    event: Event


class Save(Value):
    """Replaces the state record."""

    record: StateRecord


class SetActive(Value):
    """Lets the loader start slot next, at most tries times. Commit point of an installation."""

    slot: Slot
    tries: int


class MarkSuccessful(Value):
    """Lets the loader start slot without counting. Commit point of a trial."""

    slot: Slot


class MarkUnbootable(Value):
    """Takes the slot's boot entry. Commit point of giving a generation up."""

    slot: Slot


Step = WriteGeneration | Tell | Save | SetActive | MarkSuccessful | MarkUnbootable


def apply(steps: Iterable[Step], store: StateStore, boot_control: BootControl) -> None:
    """Does the steps, in order. The caller holds the lock.

    Raises OSError, StateError or BootControlError where a step fails; the
    steps before it are done, those after it are not, as with a power cut.
    """
    for step in steps:
        if isinstance(step, Save):
            store.save(step.record)
        elif isinstance(step, Tell):
            store.history.record_once(step.event)
        elif isinstance(step, WriteGeneration):
            store.generations.write(step.generation)
        elif isinstance(step, SetActive):
            boot_control.set_active(step.slot, step.tries)
        elif isinstance(step, MarkSuccessful):
            boot_control.mark_successful(step.slot)
        else:
            boot_control.mark_unbootable(step.slot)
