"""A device made of plain files: slots, boot partition, state, boot loader record."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from recovery import durable
from recovery.device import DeviceConfig, TrialPolicy
from recovery.generations import Generation
from recovery.reporter import SilentReporter
from recovery.slots import Slot, SlotState, other_slot
from recovery.state import StateRecord, StateStore
from tests.updater.publisher import NOW
from updater.device import Device
from updater.update import Offer, Outcome, Request, check, update

SLOT_SIZE = 1 << 20
BOOT_ID = "boot-1"


class FileBootControl:
    """A boot loader's record in one JSON file, replaced durably like a real one's."""

    def __init__(self, path: Path, current: Slot) -> None:
        """Creates the record with the current slot successful and the other unbootable."""
        self.path = path
        self.current: Slot = current
        self._write({current: {"version": 1, "tries": None}})

    def current_slot(self) -> Slot:
        """The slot given at the start."""
        return self.current

    def active_slot(self) -> Slot | None:
        """The bootable slot with the highest activation number."""
        bootable = {s: e["version"] for s, e in self._read().items() if e["tries"] != 0}
        slot = max(bootable, key=lambda name: bootable[name] or 0, default=None)
        return None if slot is None else ("a" if slot == "a" else "b")

    def slot_state(self, slot: Slot) -> SlotState:
        """From the record."""
        entry = self._read().get(slot)
        if entry is None:
            return SlotState(False, False, None)
        return SlotState(entry["tries"] != 0, entry["tries"] is None, entry["tries"])

    def set_active(self, slot: Slot, tries: int) -> None:
        """Gives the slot the highest activation number."""
        record = self._read()
        highest = max((entry["version"] or 0 for entry in record.values()), default=0)
        self._write({**record, slot: {"version": highest + 1, "tries": tries}})

    def mark_successful(self, slot: Slot) -> None:
        """Stops counting."""
        record = self._read()
        self._write({**record, slot: {**record[slot], "tries": None}})

    def mark_unbootable(self, slot: Slot) -> None:
        """Drops the entry."""
        record = self._read()
        if slot in record:
            del record[slot]
            self._write(record)

    def _read(self) -> dict[str, dict[str, int | None]]:
        record: dict[str, dict[str, int | None]] = json.loads(self.path.read_bytes())
        return record

    def _write(self, record: dict[str, dict[str, int | None]]) -> None:
        durable.replace_file(self.path, json.dumps(record, sort_keys=True).encode())


@dataclass
class FileDevice:
    """A device that runs version 1.0 from slot a, in generation 1."""

    root: Path
    anchor: Path
    version: str = "1.0"
    system: str = "gateway"
    board: str = "testboard"
    architecture: str = "x86_64"
    slot_size: int = SLOT_SIZE
    boot_id: str = BOOT_ID
    clock: float = NOW.timestamp()
    source: str = ""
    device: Device = field(init=False)

    def __post_init__(self) -> None:
        """Makes the files."""
        config = DeviceConfig(
            system=self.system,
            version=self.version,
            board=self.board,
            architecture=self.architecture,
            built=1_700_000_000,
            boot_control="file",
            boot_partition="esp",
            state="state",
            slots={"a": "root-a", "b": "root-b"},
            trial=TrialPolicy(tries=3),
        )
        esp, state = self.root / "esp", self.root / "state" / "orbital"
        (esp / "EFI" / "orbital").mkdir(parents=True)
        state.mkdir(parents=True)
        (esp / "EFI" / "orbital" / "a.efi").write_bytes(b"boot artifact of 1.0")
        slots: dict[Slot, Path] = {"a": self.root / "root-a", "b": self.root / "root-b"}
        slots["a"].write_bytes(b"root image of 1.0".ljust(self.slot_size, b"\1"))
        slots["b"].write_bytes(b"root image of 0.9".ljust(self.slot_size, b"\2"))
        store = StateStore(state)
        store.generations.write(
            Generation(1, "a", self.system, self.version, "11" * 32, None, 0, "factory", "imager")
        )
        store.save(StateRecord(next_generation=2, committed=1))
        self.boot_control = FileBootControl(esp / "loader.json", "a")
        self.device = Device(
            config, store, self.boot_control, slots, esp, self.anchor, self.boot_id
        )

    @property
    def store(self) -> StateStore:
        """The state."""
        return self.device.store

    def reopened(self, boot_id: str = "boot-2") -> None:
        """The same disk after a reboot into the same slot."""
        self.boot_id = boot_id
        old = self.device
        self.device = Device(
            old.config, old.store, old.boot_control, old.slots, old.boot_directory, old.anchor,
            boot_id,
        )  # fmt: skip

    def update(self, to: str | None = None, source: str | None = None) -> Outcome:
        """Runs an update now."""
        request = Request(source or self.source, to, "tester")
        return update(self.device, request, SilentReporter(), now=lambda: self.clock)

    def check(self, to: str | None = None, source: str | None = None) -> Offer:
        """Looks for an update now."""
        request = Request(source or self.source, to, "tester")
        return check(self.device, request, now=lambda: self.clock)

    def snapshot(self) -> dict[str, str]:
        """Digest of every file that matters; the lock's text and metadata caches do not."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name != "lock" and path.parent.name != "tuf"
        }

    def slot_bytes(self, slot: Slot, size: int) -> bytes:
        """The first bytes of a slot."""
        with self.device.slots[slot].open("rb") as file:
            return file.read(size)

    def assert_on_trial(self, root: bytes, boot: bytes, version: str) -> None:
        """The other slot holds the image, whole, and is what boots next, on trial."""
        slot = other_slot(self.boot_control.current)
        assert self.slot_bytes(slot, len(root)) == root
        assert self.device.boot_artifact(slot).read_bytes() == boot
        assert self.boot_control.active_slot() == slot
        assert self.boot_control.slot_state(slot) == SlotState(True, False, 3)
        record = self.store.load()
        assert record.trial is not None and record.committed == 1
        generation = self.store.generations.load(record.trial.generation)
        assert generation is not None
        assert (generation.version, generation.slot) == (version, slot)
        assert generation.requested_by == "tester"

    def assert_unaffected(self) -> None:
        """The running slot is whole and is what boots next."""
        slot = self.boot_control.current
        assert self.boot_control.active_slot() == slot
        assert self.boot_control.slot_state(slot).successful
        assert self.device.boot_artifact(slot).read_bytes() == b"boot artifact of 1.0"
        assert self.slot_bytes(slot, 17) == b"root image of 1.0"
