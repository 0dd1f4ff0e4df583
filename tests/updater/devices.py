"""A device made of plain files: slots, boot partition, state, boot loader record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from recovery.bootcontrol.systemd_boot import SystemdBoot, entry_name, entry_text
from recovery.device import DeviceConfig, TrialPolicy
from recovery.generations import Generation
from recovery.reporter import SilentReporter
from recovery.slots import BootControl, Slot, SlotState, other_slot
from recovery.state import StateRecord, StateStore
from tests.updater.publisher import NOW
from updater.device import Device
from updater.update import Offer, Outcome, Request, check, update

SLOT_SIZE = 1 << 20
BOOT_ID = "boot-1"


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
        entries = esp / "loader" / "entries"
        entries.mkdir(parents=True)
        (entries / entry_name("a", None)).write_text(entry_text("a", 1))
        self.boot_control: BootControl = SystemdBoot(esp, "a")
        self.device = Device(
            config, store, self.boot_control, slots, esp, self.anchor, self.boot_id, 1
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
            boot_id, 1,
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
        slot = other_slot(self.boot_control.current_slot())
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
        slot = self.boot_control.current_slot()
        assert self.boot_control.active_slot() == slot
        assert self.boot_control.slot_state(slot).successful
        assert self.device.boot_artifact(slot).read_bytes() == b"boot artifact of 1.0"
        assert self.slot_bytes(slot, 17) == b"root image of 1.0"
