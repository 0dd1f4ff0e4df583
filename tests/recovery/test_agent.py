"""The agent on real files: boots, verdicts and power cuts between any two durable operations.

A `Machine` is a state directory and a boot partition in a temporary folder;
its loader counts as systemd-boot does, early boot and the agent are the
product's own.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recovery import decide, service
from recovery.boot import BootReport, RunningImage
from recovery.bootcontrol.systemd_boot import SystemdBoot, entry_name
from recovery.device import DeviceConfig, HealthCheck
from recovery.early import PROBATION_FLAG, arm, choose
from recovery.errors import RefusedError
from recovery.generations import Generation, PackageEntry
from recovery.observe import view_of
from recovery.packages.host import PackageHost
from recovery.plan import give_up
from recovery.rollback import request_rollback
from recovery.service import Agent
from recovery.slots import BootControl, Slot, other_slot
from recovery.state import StateStore
from recovery.steps import apply
from recovery.trial import Image, cancel_trial, release_slot, start_trial
from recovery.watch import ServiceState
from tests.recovery.builders import CONFIG, POLICY, factory_store
from tests.recovery.loaders import make_esp
from tests.recovery.powercut import power_cut

HEALTHY = HealthCheck("uplink", "exec", 1, command=("/bin/true",))
UNHEALTHY = HealthCheck("uplink", "exec", 1, command=("/bin/false",))


class Machine:
    """A device below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.esp = root / "esp"
        self.store = StateStore(root / "state")
        self.said: list[str] = []
        self.restarts = 0
        self.boots = 0
        self.slot: Slot = "a"
        self.observations = 0
        self.crashing = False
        self.watching = False
        self.probation_boots = 1
        self.host: PackageHost | None = None

    @classmethod
    def factory(cls, root: Path) -> Machine:
        """Version 1.0 in slot a, committed."""
        make_esp(root / "esp")
        factory_store(root / "state")
        (root / "versions").mkdir()
        (root / "versions/a").write_text("1.0")
        return cls(root)

    def copy(self, root: Path) -> Machine:
        """The same device, powered off."""
        shutil.copytree(self.root, root)
        machine = Machine(root)
        machine.boots, machine.slot = self.boots, self.slot
        machine.probation_boots = self.probation_boots
        return machine

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    @property
    def control(self) -> BootControl:
        return SystemdBoot(self.esp, self.slot)

    def load(self) -> Slot:
        """The firmware and the loader: picks a slot and counts."""
        slot = self.control.active_slot()
        assert slot is not None, "no slot can start"
        left = self.control.slot_state(slot).tries_left
        if left is not None:
            entries = self.esp / "loader/entries"
            newest = max(
                entries.glob(f"orbital-{slot}+*.conf"),
                key=lambda path: path.read_text().split("version ")[1],
            )
            newest.rename(entries / f"orbital-{slot}+{left - 1}-1.conf")
        self.slot, self.boots = slot, self.boots + 1
        (self.root / "proc/sys/kernel/random").mkdir(parents=True, exist_ok=True)
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{self.boot_id}\n")
        return slot

    def boot(self, check: HealthCheck = HEALTHY) -> Agent | None:
        """A boot as far as userspace; None when early boot gave up and restarts."""
        slot = self.load()
        self.watching = False
        shutil.rmtree(self.root / "run", ignore_errors=True)
        (self.root / "run/orbital").mkdir(parents=True)
        version = (self.root / "versions" / slot).read_text()
        image = RunningImage(slot, f"hash-of-{version}")
        choice, generation = choose(self.store, image, self.root)
        if choice.give_up:
            view = view_of(self.store, self.control, generation, boot_id=self.boot_id)
            if isinstance(decide.give_up(view, choice.give_up), decide.GiveUp):
                apply(give_up(view, choice.give_up, 0), self.store, self.control)
                return None
        if not choice.trial:  # Its deadline is systemd's.
            arm(choice, self.root)
        report = BootReport(
            boot_id=self.boot_id,
            slot=slot,
            generation=generation.number,
            trial=choice.trial,
            volatile=False,
            root_hash=image.root_hash,
        )
        return self.agent(report, check)

    def agent(self, report: BootReport, check: HealthCheck) -> Agent:
        return Agent(
            self.config(check),
            self.store,
            self.control,
            report,
            root=self.root,
            manager=self,
            host=self.host,
        )

    # The service manager that the agent talks to.

    def services(self) -> dict[str, ServiceState]:
        self.observations += 1
        restarts = self.observations if self.crashing else 0
        return {"router.service": ServiceState(restarts, failed=False)}

    def pending_jobs(self) -> tuple[str, ...]:
        return ("slow.service",)

    def start_watch(self) -> None:
        self.watching = True

    def restart(self) -> None:
        self.restarts += 1

    def say(self, text: str) -> None:
        self.said.append(text)

    def config(self, check: HealthCheck) -> DeviceConfig:
        policy = dataclasses.replace(
            POLICY, probation_seconds=1, probation_boots=self.probation_boots
        )
        return dataclasses.replace(CONFIG, health=(check,), trial=policy)

    def run(self, check: HealthCheck = HEALTHY) -> bool:
        """A whole boot: health, commit. False when it ends in a restart."""
        agent = self.boot(check)
        if agent is None:
            return False
        before = self.restarts
        if agent.health() == 0:
            agent.commit()
            watched = (self.root / PROBATION_FLAG).exists()
            assert watched or self.store.load().probation is None, "nobody ends the probation"
        return self.restarts == before

    def install(self, version: str, packages: tuple[PackageEntry, ...] = ()) -> Generation:
        """An update to version, as the updater does it."""
        slot = release_slot(self.store, self.control)
        (self.root / "versions" / slot).write_text(version)
        (self.esp / f"EFI/orbital/{slot}.efi").write_bytes(version.encode())
        return start_trial(
            self.store,
            self.control,
            Image("gateway", version, f"hash-of-{version}"),
            slot=slot,
            origin="update",
            parent=self.store.load().committed,
            requested_by="tester",
            tries=2,
            boot_id=self.boot_id,
            packages=packages,
        )

    def running_version(self) -> str:
        return (self.root / "versions" / self.slot).read_text()

    def events(self) -> list[tuple[str, int]]:
        return [(event.event, event.generation) for event in self.store.history.events()]

    def ends(self) -> list[str]:
        """What the history says of generation 2 after its installation."""
        return [kind for kind, number in self.events() if number == 2 and kind != "installed"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A factory device that has booted once."""
    made = Machine.factory(tmp_path / "device")
    assert made.run()
    return made


def test_a_good_update_is_committed_and_passes_its_probation(machine: Machine) -> None:
    machine.install("2.0")
    agent = machine.boot()
    assert agent is not None
    assert agent.health() == 0
    assert machine.store.load().committed == 1, "committed before boot-complete.target"
    assert agent.commit() == 0
    record = machine.store.load()
    assert (record.committed, record.previous, record.trial) == (2, 1, None)
    assert machine.control.slot_state("b").successful
    assert record.probation is not None
    started = time.monotonic()
    assert agent.probation() == 0
    assert time.monotonic() - started >= 1
    assert machine.store.load().probation is None
    assert machine.events() == [("installed", 2), ("committed", 2), ("probation-passed", 2)]


def test_a_commit_that_was_cut_is_finished_and_its_probation_watched(machine: Machine) -> None:
    """Cut between the loader's record and ours: early boot still takes it for a trial."""
    machine.install("2.0")
    agent = machine.boot()
    assert agent is not None
    assert agent.health() == 0
    machine.control.mark_successful("b")
    agent = machine.boot()
    assert agent is not None
    assert agent.health() == 0
    assert machine.store.load().probation is not None
    assert machine.watching, "nobody ends the probation, and until then updates are refused"
    assert agent.commit() == 0
    assert agent.probation() == 0
    assert machine.store.load().probation is None
    assert machine.ends() == ["committed", "probation-passed"]


def test_an_unhealthy_trial_gives_up_at_once_and_the_old_side_tells(machine: Machine) -> None:
    machine.install("2.0")
    assert not machine.run(UNHEALTHY)
    assert machine.restarts == 1
    assert machine.run()
    assert machine.running_version() == "1.0"
    record = machine.store.load()
    assert (record.committed, record.trial) == (1, None)
    quarantine = record.quarantine_of("2.0")
    assert quarantine is not None
    assert "health check uplink" in quarantine.reason
    assert machine.ends() == ["rolled-back"]


def test_a_trial_that_panics_falls_back_when_its_tries_are_used_up(machine: Machine) -> None:
    machine.install("2.0")
    machine.load()
    machine.load()
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert machine.ends() == ["fell-back"]
    assert "never reached userspace" in machine.store.history.events()[-1].reason
    assert machine.store.load().quarantine_of("2.0") is not None


def test_a_trial_that_dies_in_userspace_says_how_far_it_came(machine: Machine) -> None:
    machine.install("2.0")
    machine.boot()
    machine.boot()
    assert machine.run()
    last = machine.store.history.events()[-1]
    assert last.event == "fell-back"
    assert "stopped before its services started (in 2 of 2 tries)" in last.reason


def test_what_hardware_kept_is_added_to_the_reason(machine: Machine) -> None:
    machine.install("2.0")
    machine.load()
    machine.load()
    watchdog = machine.root / "sys/class/watchdog/watchdog0"
    watchdog.mkdir(parents=True)
    (watchdog / "bootstatus").write_text("32\n")
    pstore = machine.root / "sys/fs/pstore"
    pstore.mkdir(parents=True)
    (pstore / "dmesg-efi-1").write_text("<0>Kernel panic - not syncing: No init found.\n<4>more")
    assert machine.run()
    reason = machine.store.history.events()[-1].reason
    assert "Kernel panic - not syncing: No init found." in reason
    assert "the watchdog reset the machine" in reason


def test_a_missed_deadline_names_how_far_the_trial_came(machine: Machine) -> None:
    machine.install("2.0")
    agent = machine.boot()
    assert agent is not None
    agent.trial_failed()
    assert machine.restarts == 1
    assert machine.run()
    last = machine.store.history.events()[-1]
    assert last.event == "rolled-back"
    assert "its health checks never began; still starting: slow.service" in last.reason


def test_a_deadline_after_the_commit_changes_nothing(machine: Machine) -> None:
    machine.install("2.0")
    agent = machine.boot()
    assert agent is not None
    agent.health()
    agent.commit()
    assert agent.trial_failed() == 0
    assert machine.restarts == 0
    assert machine.store.load().committed == 2


def test_a_crash_loop_in_probation_goes_back_without_userspace(machine: Machine) -> None:
    machine.install("2.0")
    assert machine.run()
    assert machine.boot() is not None
    assert machine.boot() is None, "one start more than the probation allows"
    assert machine.run()
    assert machine.running_version() == "1.0"
    record = machine.store.load()
    assert (record.committed, record.previous, record.probation) == (1, None, None)
    assert machine.ends() == ["committed", "rolled-back"]
    assert "crash loop" in machine.store.history.events()[-1].reason


def test_a_check_that_fails_on_probation_goes_back(machine: Machine) -> None:
    machine.install("2.0")
    assert machine.run()
    agent = machine.boot(UNHEALTHY)
    assert agent is not None
    agent.probation()
    assert machine.restarts == 1
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert "on probation: health check uplink" in machine.store.history.events()[-1].reason


def test_a_service_that_crashes_again_and_again_on_probation_goes_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WATCH_PAUSE_SECONDS", 0.01)
    machine.install("2.0")
    agent = machine.boot()
    assert agent is not None
    agent.health()
    agent.commit()
    assert machine.watching
    machine.crashing = True
    agent.probation()
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert "router.service crashes again and again" in machine.store.history.events()[-1].reason


def test_a_committed_generation_that_is_unhealthy_does_not_restart(machine: Machine) -> None:
    assert machine.run(UNHEALTHY)
    assert machine.run(UNHEALTHY)
    assert machine.restarts == 0


def test_a_rollback_by_hand_is_a_trial_of_its_own(machine: Machine) -> None:
    machine.install("2.0")
    assert machine.run()
    back = request_rollback(machine.store, machine.control, "root", tries=2)
    assert (back.number, back.slot, back.version, back.parent) == (3, "a", "1.0", 1)
    assert machine.run()
    record = machine.store.load()
    assert (record.committed, record.previous) == (3, 2)
    quarantine = record.quarantine_of("2.0")
    assert quarantine is not None
    assert quarantine.reason == "rolled back by root"
    again = request_rollback(machine.store, machine.control, "root", tries=2)
    assert (again.version, again.slot) == ("2.0", "b")
    # Found wanting this time: the newer committed one stays.
    assert not machine.run(UNHEALTHY)
    assert machine.run()
    assert machine.store.load().committed == 3


def test_nothing_can_be_rolled_back_on_a_factory_device(machine: Machine) -> None:
    with pytest.raises(RefusedError, match="no earlier generation"):
        request_rollback(machine.store, machine.control, "root")


def test_an_open_trial_or_probation_refuses_the_next_change(machine: Machine) -> None:
    machine.install("2.0")
    with pytest.raises(RefusedError, match="still on trial"):
        machine.install("3.0")
    assert machine.run()
    with pytest.raises(RefusedError, match="on probation"):
        machine.install("3.0")


def test_a_waiting_trial_can_be_cancelled(machine: Machine) -> None:
    machine.install("2.0")
    cancel_trial(machine.store, machine.control, boot_id=machine.boot_id)
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert machine.ends() == ["interrupted"]
    assert machine.store.load().quarantine_of("2.0") is None


def test_updates_go_back_and_forth_between_the_slots(machine: Machine) -> None:
    for number, version in ((2, "2.0"), (3, "3.0"), (4, "4.0")):
        machine.install(version)
        agent = machine.boot()
        assert agent is not None
        assert agent.health() == 0
        agent.commit()
        assert agent.probation() == 0
        assert machine.running_version() == version
        assert machine.store.load().committed == number
    assert machine.slot == "b"
    assert machine.store.generations.numbers() == (3, 4), "old generations are pruned"


def test_a_lost_state_record_is_made_again_from_what_runs(machine: Machine) -> None:
    machine.install("2.0")
    assert machine.run()
    machine.store.path.write_bytes(b"\0" * 512)
    assert machine.run()
    record = machine.store.load()
    assert (record.committed, record.trial, record.next_generation) == (2, None, 3)
    assert machine.events()[-1] == ("state-recovered", 2)


def test_a_state_lost_during_a_trial_does_not_leave_an_armed_slot(machine: Machine) -> None:
    machine.install("2.0")
    shutil.rmtree(machine.root / "state")
    (machine.root / "usr/lib/orbital").mkdir(parents=True)
    from recovery.device import encode

    (machine.root / "usr/lib/orbital/device.json").write_bytes(encode(machine.config(HEALTHY)))
    machine.load()
    machine.load()
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert machine.store.load().committed == 1
    assert not machine.control.slot_state("b").bootable
    assert not (machine.esp / "loader/entries" / entry_name("b", 0)).exists()


def test_a_loader_that_cannot_count_does_not_try_for_ever(machine: Machine) -> None:
    machine.install("2.0")
    entries = machine.esp / "loader/entries"
    for _ in range(3):
        stuck = (entries / "orbital-b+2.conf").read_bytes()
        machine.boot()
        for path in entries.glob("orbital-b+*.conf"):
            path.unlink()
            (entries / "orbital-b+2.conf").write_bytes(stuck)
    assert machine.run()
    assert machine.running_version() == "1.0"
    assert "more often than the 2 tries" in machine.store.history.events()[-1].reason


Scenario = tuple[Callable[[Machine], None], Callable[[Machine], object], set[tuple[str, ...]]]


def _nothing(_machine: Machine) -> None:
    """The factory device."""


def _installed(machine: Machine) -> None:
    machine.install("2.0")


def _exhausted(machine: Machine) -> None:
    machine.install("2.0")
    machine.load()
    machine.load()


def _committed(machine: Machine) -> None:
    machine.install("2.0")
    assert machine.run()


def _given_up(machine: Machine) -> None:
    _committed(machine)
    agent = machine.boot(UNHEALTHY)
    assert agent is not None
    agent.probation()


def _gives_up_on_probation(machine: Machine) -> None:
    agent = machine.boot(UNHEALTHY)
    if agent is not None:
        agent.probation()


def _rolls_back(machine: Machine) -> None:
    request_rollback(machine.store, machine.control, "root", tries=2)


# name → what happened before, what is cut, (version that runs in the end, ends of generation 2)
CUTS: dict[str, Scenario] = {
    "install": (
        _nothing,
        lambda machine: machine.install("2.0"),
        {("1.0",), ("1.0", "interrupted"), ("2.0", "committed")},
    ),
    "commit": (_installed, Machine.run, {("2.0", "committed")}),
    "unhealthy trial": (
        _installed,
        lambda machine: machine.run(UNHEALTHY),
        # Cut before the verdict was written: another try, and it is healthy now.
        {("1.0", "rolled-back"), ("2.0", "committed")},
    ),
    "fall back": (_exhausted, Machine.run, {("1.0", "fell-back")}),
    "failure on probation": (
        _committed,
        _gives_up_on_probation,
        {("1.0", "committed", "rolled-back"), ("2.0", "committed")},
    ),
    "after a failure on probation": (
        _given_up,
        Machine.run,
        {("1.0", "committed", "rolled-back")},
    ),
    "rollback by hand": (_committed, _rolls_back, {("2.0", "committed"), ("1.0", "committed")}),
}


@pytest.mark.parametrize("both_names", [False, True])
@pytest.mark.parametrize("name", CUTS)
def test_a_power_cut_anywhere_leads_to_one_of_two_outcomes(
    name: str, both_names: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, cut, outcomes = CUTS[name]
    template = Machine.factory(tmp_path / "template")
    template.probation_boots = 50  # starts after a cut are no crash loop here
    assert template.run()
    before(template)
    seen = set()
    for number in range(40):
        machine = template.copy(tmp_path / f"cut{number}")
        with power_cut(monkeypatch, number, both_names=both_names) as operations:
            cut(machine)
        up = 0
        for _ in range(8):
            up = up + 1 if machine.run() else 0
            if up == 2:
                break
        assert up == 2, f"cut before operation {number}: no rest: {machine.said}"
        record = machine.store.load()
        committed = machine.store.generations.load(record.committed)
        assert committed is not None
        assert record.trial is None
        assert committed.version == machine.running_version()
        assert not machine.control.slot_state(other_slot(machine.slot)).tries_left
        end = (machine.running_version(), *dict.fromkeys(machine.ends()))
        assert len(machine.ends()) == len(set(machine.ends())), "an outcome was told twice"
        assert end in outcomes, f"cut before operation {number}: {machine.events()}"
        seen.add(end)
        if not operations.happened:
            break
    else:
        raise AssertionError("the operation never ended")
    assert number >= 2
    assert seen <= outcomes
