"""A trial of the OS that brings packages: the package is blamed and reverted before the image."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from recovery import durable
from recovery.decide import passed
from recovery.generations import Earlier, Generation, PackageEntry
from recovery.packages.host import Activation
from recovery.packages.model import Package
from recovery.value import replace
from tests.recovery.powercut import power_cut
from tests.recovery.test_agent import Machine


def entry(version: str, state: int, earlier: Earlier | None = None) -> PackageEntry:
    return PackageEntry(
        name="vpn",
        version=version,
        kind="feature",
        digest=f"vpn-{version}",
        uid=50000,
        state=state,
        installed=1,
        updated=1,
        earlier=earlier,
    )


class Host:
    """Packages that run or do not; digests in bad fail their checks."""

    def __init__(self, machine: Machine, *bad: str) -> None:
        self.machine = machine
        self.bad = bad
        self.active: Generation | None = None
        self.calls: list[str] = []

    def manifest(self, digest: str) -> Package:
        name, _, version = digest.rpartition("-")
        return Package(name, version, "feature", "acme", "all", "A package")

    def activate(self, generation: Generation) -> Activation:
        self.active = generation
        self.calls.append("activate")
        return Activation(generation.number)

    def stop(self, packages: Collection[str]) -> None:
        self.calls.append(f"stop {' '.join(packages)}")

    def start(self, packages: Collection[str]) -> None:
        self.calls.append(f"start {' '.join(packages)}")

    def check(self, packages: Collection[str]) -> dict[str, str]:
        number = self.machine.store.load().trial
        assert number is not None
        running = self.active or self.machine.store.generations.load(number.generation)
        assert running is not None
        found = {item.name: item.digest for item in running.packages if item.name in packages}
        return {name: "no answer" for name, digest in found.items() if digest in self.bad}

    def migrate(self, entry: PackageEntry, source: int, target: int) -> None:
        raise NotImplementedError

    def in_use(self) -> frozenset[str]:
        return frozenset()

    def retire(self) -> None:
        return


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A device with vpn 1.0 installed, about to try image 2.0 with vpn 2.0."""
    made = Machine.factory(tmp_path / "device")
    assert made.run()
    store = made.store
    old = store.generations.load(1)
    assert old is not None
    with_vpn = replace(old, number=2, parent=1, etc=1, packages=(entry("1.0", 2),))
    store.generations.write(with_vpn)
    store.save(replace(store.load(), committed=2, next_generation=3))
    return made


def update(machine: Machine, *bad: str, fits: bool = True) -> Host:
    machine.install("2.0", (entry("2.0", 0, Earlier("1.0", "vpn-1.0", 2, fits=fits)),))
    machine.host = host = Host(machine, *bad)
    return host


def test_healthy_packages_are_committed_with_the_image(machine: Machine) -> None:
    update(machine)
    assert machine.run()
    record = machine.store.load()
    committed = machine.store.generations.load(record.committed)
    assert committed is not None
    assert (committed.version, committed.packages[0].version) == ("2.0", "2.0")
    assert committed.packages[0].state == committed.number == 3
    assert (record.previous, record.undo) == (2, None)


def test_what_was_checked_is_durable_before_the_trial_has_passed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []

    def noted(path: Path) -> None:
        trial = machine.store.load().trial
        met.append((path, trial is not None and not passed(trial)))

    update(machine)
    monkeypatch.setattr(durable, "sync_filesystem", noted)
    assert machine.run()
    assert met[-1] == (machine.store.root, True)


def test_a_package_that_fails_is_reverted_and_the_image_is_committed(machine: Machine) -> None:
    host = update(machine, "vpn-2.0")
    assert machine.run()
    record = machine.store.load()
    committed = machine.store.generations.load(record.committed)
    assert committed is not None
    assert machine.restarts == 0
    assert (committed.number, committed.version) == (4, "2.0")
    vpn = committed.packages[0]
    assert (vpn.version, vpn.state, committed.etc) == ("1.0", 4, 3)
    assert host.calls == ["stop vpn", "activate", "start vpn"]
    quarantine = record.quarantine_of("2.0", "vpn")
    assert quarantine is not None
    assert quarantine.reason == "no answer"
    assert record.quarantine_of("2.0") is None, "the image is not to blame"
    assert [kind for kind, _ in machine.events()] == ["installed", "package-reverted", "committed"]


@pytest.mark.parametrize(("bad", "fits"), [(("vpn-2.0", "vpn-1.0"), True), (("vpn-2.0",), False)])
def test_the_image_goes_when_the_old_package_does_not_work_on_it(
    machine: Machine, bad: tuple[str, ...], fits: bool
) -> None:
    update(machine, *bad, fits=fits)
    assert not machine.run()
    machine.host = None
    assert machine.run()
    record = machine.store.load()
    assert machine.running_version() == "1.0"
    assert (record.committed, record.trial) == (2, None), "with its packages and their state"
    quarantine = record.quarantine_of("2.0")
    assert quarantine is not None
    assert "package vpn: no answer" in quarantine.reason


def test_a_power_cut_anywhere_in_a_reverting_trial_ends_well(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(machine, "vpn-2.0")
    cuts = 0
    for step in range(200):
        device = machine.copy(tmp_path / f"cut-{step}")
        device.host = Host(device, "vpn-2.0")
        with power_cut(monkeypatch, step) as cut:
            device.run()
        if not cut.happened:
            break
        cuts += 1
        for _ in range(4):
            device.host = Host(device, "vpn-2.0")
            device.run()
        record = device.store.load()
        committed = device.store.generations.load(record.committed)
        assert committed is not None
        assert record.trial is None
        # Two cut starts use the tries up; else the image stays, without the bad package.
        assert committed.packages[0].version == "1.0"
    assert cuts > 5
