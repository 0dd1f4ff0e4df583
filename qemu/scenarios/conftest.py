"""What the scenarios share: one lab, one settled device that each scenario continues from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemu import snapshot
from qemu.device import Device
from qemu.fixtures import MachineFactory, SnapshotStore
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.scenarios.rescuing import Bench, Station
from qemu.server import Server
from qemu.snapshot import Snapshot


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Keys, releases, repository and factory disk of the reference product."""
    yield Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def factory_device(lab: Lab, snapshots: SnapshotStore) -> Snapshot:
    """The factory disk after its first boot, running and settled: where scenarios begin."""

    def make(directory: Path) -> Machine:
        machine = lab.machine(directory)
        machine.start()
        device = Device(machine)
        device.settle()
        device.rest()
        machine.run("sync")
        return machine

    return snapshots.get("factory", make)


@pytest.fixture
def device(factory_device: Snapshot, machines: MachineFactory) -> Device:
    """A device that runs version 1.0 from the factory in slot a."""
    return Device(machines.restore(factory_device))


@pytest.fixture
def server(lab: Lab, serve: Callable[[Path], Server]) -> Server:
    """A web server with the lab's repository."""
    lab.repository.parent.mkdir(parents=True, exist_ok=True)
    lab.offer(lab.version)
    return serve(lab.repository)


# In the order in which they are built: what others need comes first.
STOCK = (
    "servicekit", "libnl", "wireguard", "hotspot", "firewall",
    "counter", "crasher", "hungry", "probe",
    "libgreet", "greeter-old", "teller", "listener", "stranger",
)  # fmt: skip


# Not all at once: the deadlines of their checks run while all of them start on one slow processor.
INSTALLED = (
    ("wireguard", "hotspot", "firewall"),
    ("greetings", "listener", "stranger"),
    ("counter", "crasher", "probe"),
)


@pytest.fixture(scope="session")
def stock(lab: Lab) -> Lab:
    """The lab with the shipped packages and those of qemu/packages on offer."""
    files = [lab.build_package(name) for name in STOCK]
    second = {"directories": ["second"]}
    files.append(lab.build_package("libgreet", version="2.0", content=second))
    files += [lab.build_package(name) for name in ("greeter-new", "greetings")]
    lab.publish(*files)
    return lab


@pytest.fixture(scope="session")
def stocked_device(factory_device: Snapshot, stock: Lab, snapshots: SnapshotStore) -> Snapshot:
    """The settled factory device with packages installed: where scenarios of packages begin."""

    def make(directory: Path) -> Machine:
        machine = snapshot.restore(factory_device, directory)
        server = Server(stock.repository, directory)
        server.start()
        try:
            for names in INSTALLED:
                Device(machine).install(server.url, *names)
        finally:
            server.close()
        machine.run("sync")
        return machine

    return snapshots.get("stocked", make)


@pytest.fixture
def stocked(stocked_device: Snapshot, machines: MachineFactory) -> Device:
    """A device with packages installed, as `stocked_device`."""
    return Device(machines.restore(stocked_device))


@pytest.fixture
def shop(stock: Lab, serve: Callable[[Path], Server]) -> Server:
    """A web server with the packages."""
    return serve(stock.repository)


@pytest.fixture(scope="session")
def stations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Station]]:
    """The product with a rescue system, by board; each made once a session."""
    made: dict[str, Station] = {}

    def station(board: str) -> Station:
        if board not in made:
            made[board] = Station(tmp_path_factory.mktemp("station"), board)
        return made[board]

    yield station
    for station_made in made.values():
        station_made.close()


@pytest.fixture
def bench(
    request: pytest.FixtureRequest, artifacts: Path, stations: Callable[[str], Station]
) -> Iterator[Callable[..., Bench]]:
    """Makes a machine, off, of the board that is the parameter; see `Bench.of`."""
    made: list[Bench] = []

    def make(*, settled: bool, **options: Any) -> Bench:
        directory = artifacts / f"machine-{len(made) + 1}"
        made.append(Bench.of(stations(request.param), directory, settled=settled, **options))
        return made[-1]

    yield make
    for bench_made in made:
        bench_made.machine.kill()
