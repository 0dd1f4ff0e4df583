"""pytest fixtures for tests that boot. Use: `pytest_plugins = ["qemu.fixtures"]`.

Each test gets a directory for its machines' and servers' files. It is removed
when the test passes, and kept and named in the report when it fails:

    ARTIFACTS/TEST/machine-1/{command,console.log,shell.log,qmp.log,qemu.log,...}
    ARTIFACTS/TEST/server-1/{access.log,nginx.log}

Options: --artifacts DIR (default: artifacts), --keep-artifacts (passed tests, too).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from qemu import promises, snapshot
from qemu.hardware import Forward, Hardware
from qemu.machine import Machine
from qemu.server import Server
from qemu.snapshot import Snapshot

_FAILED = pytest.StashKey[bool]()
_DIRECTORY = pytest.StashKey[Path]()
_TAIL_LINES = 40
# Disks are large and their content is in the logs' story; a failed test keeps its logs.
_LARGE = ("disk.qcow2", "variables.fd")


class MachineFactory(Protocol):
    """Makes machines that end with the test."""

    def __call__(self, hardware: Hardware, disk: Path, **options: Any) -> Machine:
        """A machine that is on; options are those of `Machine`."""

    def restore(self, saved: Snapshot, *, forwards: Sequence[Forward] = ()) -> Machine:
        """A machine that continues from a snapshot."""


class SnapshotStore:
    """Snapshots made once a session, by name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, name: str, make: Callable[[Path], Machine]) -> Snapshot:
        """The snapshot of that name.

        make: called the first time with a directory for the machine; must
            return a running machine that has settled.
        """
        directory = self._directory / name
        saved = snapshot.load(directory)
        if saved is None:
            work = directory / "machine"
            work.mkdir(parents=True, exist_ok=True)
            machine = make(work)
            try:
                saved = snapshot.save(machine, directory)
            finally:
                machine.kill()
        return saved


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds our options."""
    group = parser.getgroup("orbital")
    group.addoption(
        "--artifacts", type=Path, default=Path("artifacts"), help="where files of machines go"
    )
    group.addoption(
        "--keep-artifacts", action="store_true", help="keep files of tests that pass, too"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begins a new file of promises, in the process that starts the others."""
    # Not in a worker, nor in a pytest that one of our tests runs.
    if not hasattr(config, "workerinput") and "PYTEST_CURRENT_TEST" not in os.environ:
        (config.getoption("--artifacts") / promises.FILE).unlink(missing_ok=True)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints which board kept which promise, and how long that took."""
    kept = promises.read(config.getoption("--artifacts") / promises.FILE)
    if kept:
        terminalreporter.section("boards")
        for line in promises.summary(kept):
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes failures, and adds to their report where the files are and how the consoles end."""
    report = yield
    if report.failed and call.when != "teardown":
        item.stash[_FAILED] = True
        directory = item.stash.get(_DIRECTORY, None)
        if directory:
            report.sections.append(("artifacts", str(directory)))
            for log in sorted(directory.glob("*/console.log")):
                lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
                report.sections.append((f"console of {log.parent.name}", "\n".join(lines)))
    return report


@pytest.fixture
def artifacts(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The test's directory."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.nodeid).strip("-")[-100:]
    directory = (request.config.getoption("--artifacts") / name).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    request.node.stash[_DIRECTORY] = directory
    yield directory
    if request.config.getoption("--keep-artifacts"):
        return
    if request.node.stash.get(_FAILED, False):
        for path in directory.rglob("*"):
            if path.name in _LARGE:
                path.unlink()
    else:
        shutil.rmtree(directory, ignore_errors=True)


class _Machines:
    """The `MachineFactory` of one test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.made: list[Machine] = []
        self._count = 0

    def __call__(self, hardware: Hardware, disk: Path, **options: Any) -> Machine:
        machine = Machine(hardware, disk, self._next(), **options)
        self.made.append(machine)
        machine.start()
        return machine

    def restore(self, saved: Snapshot, *, forwards: Sequence[Forward] = ()) -> Machine:
        machine = snapshot.restore(saved, self._next(), forwards=forwards)
        self.made.append(machine)
        return machine

    def _next(self) -> Path:
        self._count += 1
        directory = self._directory / f"machine-{self._count}"
        directory.mkdir()
        return directory


@pytest.fixture
def machines(artifacts: Path) -> Iterator[MachineFactory]:
    """Makes machines; all are cut off at the end of the test."""
    factory = _Machines(artifacts)
    yield factory
    for machine in factory.made:
        machine.kill()


@pytest.fixture
def serve(artifacts: Path) -> Iterator[Callable[[Path], Server]]:
    """Starts web servers for directories; all are stopped at the end of the test."""
    servers: list[Server] = []

    def start(root: Path) -> Server:
        logs = artifacts / f"server-{len(servers) + 1}"
        logs.mkdir()
        server = Server(root, logs)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> SnapshotStore:
    """Snapshots that the tests of this session share."""
    return SnapshotStore(tmp_path_factory.mktemp("snapshots"))
