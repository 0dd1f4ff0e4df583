"""A device of plain files under a loader's model, with the updater and recovery that ship.

    root-a, root-b           slots        boot-a, boot-b     boot artifacts (not with systemd-boot)
    boot/                    the loader's record (tests.recovery.loaders)
    state/orbital/           the state partition's records

The loader starts a slot; a boot artifact that is whole names its image; the slot must
hold that image (verity), else the start is over. Then early boot's own choice, the
agent's own settling, judging, commit and probation.
"""

from __future__ import annotations

import time as real_time
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest import mock

from recovery import decide, plan, service
from recovery.boot import BootReport, RunningImage, write_report
from recovery.device import DeviceConfig, HealthCheck, TrialPolicy
from recovery.early import PROBATION_FLAG, arm, choose
from recovery.generations import Generation
from recovery.observe import view_of
from recovery.reporter import SilentReporter
from recovery.rollback import request_rollback
from recovery.slots import SLOTS, BootControl, Slot
from recovery.state import StateRecord, StateStore
from recovery.steps import apply
from recovery.watch import ServiceState
from tests.recovery.loaders import BENCHES, SystemdBootBench
from tests.updater.images import BuiltImage
from tests.updater.packages.fakehost import FakeHost
from updater.device import Device
from updater.packages.device import PackageDevice
from updater.update import Request, update

SLOT_SIZE = 256 << 10
ARTIFACT_SIZE = 64 << 10
POLICY = TrialPolicy(tries=3, probation_seconds=1, probation_boots=99)
CHECK = HealthCheck("uplink", "exec", 1, command=("/bin/true",))

Health = Literal["good", "panics", "ill"]


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        """Now."""
        self.now = real_time.time()

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        """Waits."""
        self.now += seconds


class Wrong(Exception):
    """An outcome that breaks a promise."""


class SoakDevice:
    """See the module. images: by version. health: how a version behaves here."""

    def __init__(self, root: Path, kind: str, anchor: Path, first: BuiltImage) -> None:
        """Version `first` in slot a, committed."""
        self.root, self.kind, self.anchor = root, kind, anchor
        (root / "boot").mkdir(parents=True)
        self.bench = BENCHES[kind](root / "boot")
        self.images = {first.index.version: first}
        self.health: dict[str, Health] = {}
        self.store = StateStore(root / "state/orbital")
        (self.store.root / "store").mkdir(parents=True)
        self.host = FakeHost(self.store.root)
        self.clock = Clock()
        self.slot: Slot = "a"
        self.boots = self.restarts = 0
        self.config = DeviceConfig(
            system="gateway",
            version=first.index.version,
            board="testboard",
            architecture="x86_64",
            built=1_700_000_000,
            boot_control="file",
            boot_partition="esp",
            state="state",
            slots={"a": "root-a", "b": "root-b"},
            trial=POLICY,
            health=(CHECK,),
        )
        for slot in SLOTS:
            self.slot_path(slot).write_bytes(bytes(SLOT_SIZE))
            if not isinstance(self.bench, SystemdBootBench):
                self.artifact(slot).write_bytes(bytes(ARTIFACT_SIZE))
        self.slot_path("a").write_bytes(first.root.ljust(SLOT_SIZE, b"\0"))
        self.artifact("a").write_bytes(first.boot.ljust(ARTIFACT_SIZE, b"\0"))
        self.store.generations.write(
            Generation(
                1, "a", "gateway", first.index.version, first.index.root.root_hash, None, 0,
                "factory", "imager",
            )
        )  # fmt: skip
        self.store.save(StateRecord(next_generation=2, committed=1))

    def slot_path(self, slot: Slot) -> Path:
        """A slot's root image."""
        return self.root / f"root-{slot}"

    def artifact(self, slot: Slot) -> Path:
        """A slot's boot artifact."""
        if isinstance(self.bench, SystemdBootBench):
            return self.bench.esp / f"EFI/orbital/{slot}.efi"
        return self.root / f"boot-{slot}"

    @property
    def control(self) -> BootControl:
        """The boot control of the running system."""
        return self.bench.control

    @property
    def boot_id(self) -> str:
        """Of this boot."""
        return f"boot-{self.boots}"

    def version_in(self, slot: Slot) -> str:
        """The version whose artifact is whole in the slot and whose root verifies; or ""."""
        data = self.artifact(slot).read_bytes()
        for version, image in self.images.items():
            if data.startswith(image.boot):
                return version if self.slot_path(slot).read_bytes().startswith(image.root) else ""
        return ""

    def boot(self) -> bool:
        """One boot to its end. True when it stays up."""
        self.boots += 1
        slot = self.bench.boot()
        if slot is None:
            raise Wrong("no slot can start")
        self.slot = slot
        path = self.root / "proc/sys/kernel/random/boot_id"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self.boot_id}\n")
        version = self.version_in(slot)
        if not version:
            raise Wrong(f"slot {slot} is started and is not whole")
        health = self.health.get(version, "good")
        if health == "panics":
            return False
        image = RunningImage(slot, self.images[version].index.root.root_hash)
        choice, generation = choose(self.store, image, self.root)
        if choice.give_up:
            view = view_of(self.store, self.control, generation, boot_id=self.boot_id)
            if isinstance(decide.give_up(view, choice.give_up), decide.GiveUp):
                apply(plan.give_up(view, choice.give_up, 0), self.store, self.control)
                return False
        (self.root / PROBATION_FLAG).unlink(missing_ok=True)
        if not choice.trial:  # Its deadline is systemd's.
            arm(choice, self.root)
        report = BootReport(
            boot_id=self.boot_id, slot=slot, generation=generation.number, trial=choice.trial,
            volatile=False, root_hash=image.root_hash,
        )  # fmt: skip
        write_report(report, self.root)
        return self.userspace(report, generation, failed="" if health == "good" else "uplink")

    def userspace(self, report: BootReport, generation: Generation, failed: str) -> bool:
        """systemd and the agent."""
        self.host.reboot(generation)
        agent = service.Agent(
            self.config, self.store, self.control, report, root=self.root, manager=self,
            host=self.host,
        )  # fmt: skip
        before = self.restarts
        with (
            mock.patch.object(service, "run_checks", lambda _: failed),
            mock.patch.object(service, "time", self.clock),
        ):
            if agent.health() == 0:
                agent.commit()
            # Otherwise the unit's condition is not met.
            if self.restarts == before and (self.root / PROBATION_FLAG).exists():
                agent.probation()
        return self.restarts == before

    def update(self, source: Path, now: float) -> None:
        """The updater that ships, to the newest version."""
        raw = not isinstance(self.bench, SystemdBootBench)
        device = Device(
            config=replace(self.config, version=self.version_in(self.slot)),
            store=self.store,
            boot_control=self.control,
            slots={slot: self.slot_path(slot) for slot in SLOTS},
            boot_directory=None if raw else self.artifact("a").parents[2],
            anchor=self.anchor,
            boot_id=self.boot_id,
            generation=self.store.load().committed,
            root=self.root,
            host=self.host,
            boot_slots={slot: self.artifact(slot) for slot in SLOTS} if raw else {},
        )
        update(device, Request(str(source), None, "soak"), SilentReporter(), now=lambda: now)

    def roll_back(self) -> None:
        """By hand."""
        with self.store.lock("soak"):
            request_rollback(self.store, self.control, "soak")

    def packages(self) -> PackageDevice:
        """The device as a change of its packages sees it."""
        return PackageDevice(self.config, self.store, self.host, self.slot, self.boot_id, self.root)

    # The service manager that the agent talks to.

    def services(self) -> dict[str, ServiceState]:
        """Nothing crashes by itself."""
        return {"router.service": ServiceState(0, failed=False)}

    def pending_jobs(self) -> tuple[str, ...]:
        """None."""
        return ()

    def start_watch(self) -> None:
        """The probation is run by `userspace`."""

    def restart(self) -> None:
        """The boot is over."""
        self.restarts += 1

    def say(self, _text: str) -> None:
        """To nobody."""
