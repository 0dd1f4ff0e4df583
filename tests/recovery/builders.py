"""Builders of the values that the tests of recovery talk about."""

from __future__ import annotations

from pathlib import Path

from recovery.device import DeviceConfig, TrialPolicy
from recovery.generations import Generation, Origin
from recovery.slots import Slot, SlotState
from recovery.state import StateRecord, StateStore

SUCCESSFUL = SlotState(bootable=True, successful=True, tries_left=None)
EXHAUSTED = SlotState(bootable=False, successful=False, tries_left=0)
NO_ENTRY = SlotState(bootable=False, successful=False, tries_left=None)
POLICY = TrialPolicy(tries=2, deadline_seconds=60, probation_seconds=60, probation_boots=1)

CONFIG = DeviceConfig(
    system="gateway",
    version="1.0",
    board="qemu-x86_64",
    architecture="x86-64",
    built=0,
    boot_control="systemd-boot",
    boot_partition="esp",
    state="state",
    slots={"a": "root-a", "b": "root-b"},
)


def counting(tries: int) -> SlotState:
    """A slot with tries left."""
    return SlotState(bootable=True, successful=False, tries_left=tries)


def generation(
    number: int, slot: Slot, version: str = "", origin: Origin = "update", parent: int | None = None
) -> Generation:
    """Generation `number` of the product, whose root hash follows from its version."""
    version = version or f"{number}.0"
    return Generation(
        number=number,
        slot=slot,
        system="gateway",
        version=version,
        root_hash=f"hash-of-{version}",
        parent=parent,
        created=1000 + number,
        origin=origin,
        requested_by="tester",
    )


def factory_store(root: Path) -> StateStore:
    """The state of a device that has booted its factory image, version 1.0 in slot a."""
    store = StateStore(root)
    store.generations.write(generation(1, "a", origin="factory"))
    store.save(StateRecord(next_generation=2, committed=1))
    return store
