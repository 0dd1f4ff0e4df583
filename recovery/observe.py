"""Gathers the view that `recovery.decide` looks at, from the device."""

from __future__ import annotations

from pathlib import Path

from recovery.boot import boot_id
from recovery.bootcontrol.open import open_boot_control
from recovery.decide import View
from recovery.device import load
from recovery.generations import Generation
from recovery.slots import BootControl
from recovery.state import StateRecord, StateStore


def observe(
    store: StateStore, running: Generation, *, volatile: bool, root: Path = Path("/")
) -> tuple[BootControl, View]:
    """The boot control of this device and the view of now. Raises OrbitalError."""
    boot_control = open_boot_control(load(root), root)
    return boot_control, view_of(
        store, boot_control, running, boot_id=boot_id(root), volatile=volatile
    )


def view_of(
    store: StateStore,
    boot_control: BootControl,
    running: Generation,
    *,
    boot_id: str,
    volatile: bool = False,
) -> View:
    """The view, from what is durable at this moment. Raises StateError or BootControlError."""
    record, generations = store.load(), store.generations.all()
    return view_with(record, generations, boot_control, running, boot_id=boot_id, volatile=volatile)


def view_with(
    record: StateRecord,
    generations: tuple[Generation, ...],
    boot_control: BootControl,
    running: Generation,
    *,
    boot_id: str,
    volatile: bool = False,
) -> View:
    """The view, of records that have been read. Raises BootControlError."""
    return View(
        boot_id=boot_id,
        running=running,
        record=record,
        generations=generations,
        active=boot_control.active_slot(),
        a=boot_control.slot_state("a"),
        b=boot_control.slot_state("b"),
        volatile=volatile,
    )
