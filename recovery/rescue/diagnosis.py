"""What rescue finds on this device: gathered for `recovery.rescue.decide` and for people."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from recovery.artifacts.check import KINDS
from recovery.boot import boot_id
from recovery.bootcontrol.open import BOOT_DIRECTORY, open_in_rescue
from recovery.decide import refusal
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError, RefusedError
from recovery.partitions import find_partition
from recovery.rescue.bootenv import BootEnvironment
from recovery.rescue.decide import Diagnosis, SlotDiagnosis
from recovery.rescue.settle import behind_loader, committed_generation
from recovery.rescue.slot import Content, inspect
from recovery.rescue.statefs import StateFileSystem
from recovery.rescue.story import Story, tell
from recovery.rescue.visit import Visit, begin
from recovery.slots import SLOTS, BootControl, Slot
from recovery.starts import StartFile, open_starts
from recovery.state import StateStore
from recovery.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recovery.generations import Generation
    from recovery.reporter import Reporter
    from recovery.rescue.decide import Condition, Name

LOCK = "run/orbital/rescue.lock"
# Where records go when the state cannot be used; gone with the restart.
SPARE_STATE = "run/orbital/rescue-state"
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


class Site:
    """This device as the rescue system sees it. Reads nothing until it is asked."""

    def __init__(self, config: DeviceConfig, reporter: Reporter, root: Path = Path("/")) -> None:
        """root: where /sys, /dev, /run, /state are found."""
        self.config = config
        self.reporter = reporter
        self.root = root
        self.boot = BootEnvironment(config, root)
        self.state = StateFileSystem(config, root)
        self.tried: set[Name] = set()
        self._contents: dict[Slot, Content] = {}
        self._visit: Visit | None = None

    @property
    def visit(self) -> Visit:
        """Why rescue runs."""
        if self._visit is None:
            self._visit = begin(self.config, self.root)
        return self._visit

    def forget_person(self) -> None:
        """Nobody has been seen: the visit goes on as if nobody had asked."""
        self._visit = replace(self.visit, person=False, reason=self.visit.reason or "nobody came")

    @property
    def starts(self) -> StartFile | None:
        """The start record; None when it cannot be found."""
        with suppress(OrbitalError, OSError):
            return open_starts(self.config, self.root)
        return None

    @property
    def store(self) -> StateStore:
        """The records: on the state partition, or in memory while that cannot be used."""
        if self.state.mounted or self.root != Path("/"):
            return StateStore(self.state.directory / "orbital")
        return StateStore(self.root / SPARE_STATE)

    def require_state(self) -> None:
        """Raises StateError when there is no state partition that could be changed."""
        if self.root == Path("/"):
            self.state.mount()

    def boot_control(self) -> BootControl:
        """Raises BootControlError."""
        return open_in_rescue(self.config, self.root)

    def committed(self) -> Generation | None:
        """The committed generation, as far as a record tells."""
        return committed_generation(self.store)

    def content(self, slot: Slot) -> Content:
        """What the slot holds; verified once, until `changed`."""
        if slot not in self._contents:
            self._contents[slot] = self._inspect(slot)
        return self._contents[slot]

    def changed(self) -> None:
        """Slots or boot artifacts may have been written: they are verified again."""
        self._contents.clear()

    def whole(self) -> frozenset[Slot]:
        """The slots that are whole."""
        return frozenset(slot for slot in SLOTS if self.content(slot).whole)

    def diagnose(self, *, slots: bool = True) -> Diagnosis:
        """All that is known now. slots: verified too, which reads all of them."""
        unknown = SlotDiagnosis(whole=False, damage="not verified yet")
        found = Diagnosis(
            action=self.visit.action,
            person=self.visit.person,
            rescued=self.visit.rescued,
            boot=self.boot.condition(self.reporter.message),
            state=self._state_condition(),
            a=unknown,
            b=unknown,
            first=self._first(),
            tried=frozenset(self.tried),
            behind=self._behind(),
        )
        return self.verify(found) if slots else found

    def verify(self, found: Diagnosis) -> Diagnosis:
        """What was found, and besides what the slots hold."""
        visit, first = self.visit, found.first
        verified = replace(found, a=self._slot("a"), b=self._slot("b"))
        # A visit in which something had to be repaired is not one by menu or button.
        untold = not visit.reason and not visit.rescued and not self.tried
        by_menu = untold and first is not None and verified.slot(first).whole
        return replace(verified, person=found.person or (by_menu and self._would_start(first)))

    def story(self) -> Story:
        """How it came to this, from the records."""
        control: BootControl | None = None
        with suppress(OrbitalError):
            control = self.boot_control()
        return tell(self.store, control)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The right to change this device. Raises RefusedError while another program has it."""
        path = self.root / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            yield
        except BlockingIOError as error:
            raise RefusedError(
                "cannot start: another rescue program is changing this device",
                resolution="wait until it has finished",
            ) from error
        finally:
            os.close(fd)

    def artifact(self, slot: Slot) -> Path:
        """The slot's boot artifact: a partition, or a file. Raises StateError."""
        if self.config.boot_slots:
            return find_partition(self.config.boot_slots[slot], self.root)
        return self.root / BOOT_DIRECTORY / "EFI/orbital" / f"{slot}.efi"

    def _inspect(self, slot: Slot) -> Content:
        try:
            root = find_partition(self.config.slots[slot], self.root)
            found = inspect(
                slot,
                root,
                self.artifact(slot),
                self.reporter,
                kind=KINDS.get(self.config.boot_control, ""),
                must_be_signed=secure_boot(self.root),
            )
        except (OrbitalError, OSError) as error:
            return Content(slot, "", str(error).splitlines()[0])
        if found.whole and found.unchecked:
            self.reporter.message(
                f"slot {slot}: its boot artifact cannot be checked further: {found.unchecked}"
            )
        return found

    def _state_condition(self) -> Condition:
        condition = self.state.condition(self.reporter.message)
        if condition == "whole" and self.root == Path("/"):
            try:
                self.state.mount()
            except OrbitalError as error:
                self.reporter.message(f"state: {error.brief}")
                return "damaged"
        return condition

    def _slot(self, slot: Slot) -> SlotDiagnosis:
        content = self.content(slot)
        return SlotDiagnosis(content.whole, content.damage, self._refused(content))

    def _refused(self, content: Content) -> str:
        """Why a slot that may be whole is not started by itself; empty when it may be."""
        record = self.store.read()
        known = [
            generation
            for generation in self.store.generations.all()
            if (generation.slot, generation.root_hash) == (content.slot, content.root_hash)
        ]
        if record is None or not known:
            return ""
        if any(generation.number == record.committed for generation in known):
            return ""
        for generation in known:
            quarantine = record.quarantine_of(generation.version)
            if quarantine is not None:
                return f"version {generation.version} is quarantined: {quarantine.reason}"
        trial = record.trial
        mine = trial is not None and any(item.number == trial.generation for item in known)
        if trial is not None and mine and (refusal(trial) or self._exhausted(content.slot)):
            return f"generation {trial.generation} failed its trial"
        return ""

    def _exhausted(self, slot: Slot) -> bool:
        with suppress(OrbitalError):
            return self.boot_control().slot_state(slot).tries_left == 0
        return False

    def _first(self) -> Slot | None:
        """The committed slot; where no record tells it, the one that the loader prefers."""
        committed = self.committed()
        if committed is not None:
            return committed.slot
        with suppress(OrbitalError):
            return self.boot_control().active_slot()
        return None

    def _behind(self) -> bool:
        with suppress(OrbitalError, OSError):
            return behind_loader(self.store, self.boot_control(), boot_id(self.root))
        return False

    def _would_start(self, slot: Slot | None) -> bool:
        with suppress(OrbitalError):
            return self.boot_control().active_slot() == slot
        return False


def secure_boot(root: Path = Path("/")) -> bool:
    """Whether the firmware starts only what is signed (UEFI specification 3.3)."""
    # Four bytes of attributes stand before the value, one byte.
    with suppress(OSError):
        return (root / _SECURE_BOOT).read_bytes()[4:] == b"\1"
    return False
