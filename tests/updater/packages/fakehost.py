"""A running system made of directories, and a device whose packages run on it.

`FakeHost` keeps the contract of `recovery.packages.host.PackageHost`: state
layers are real directories, services are entries in a table that a reboot
empties. A service that starts notes its version in its state layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from recovery.boot import BootReport, write_report
from recovery.device import DeviceConfig
from recovery.errors import RefusedError, StateError
from recovery.generations import Generation, PackageEntry
from recovery.packages.host import Activation, Active
from recovery.packages.model import Check, Dependency, Migration, Package, Service
from recovery.reporter import SilentReporter
from recovery.state import StateRecord, StateStore
from recovery.value import replace
from updater.packages.device import PackageDevice
from updater.packages.transaction import Asked, Outcome, Planner, Wanted, change


def digest_of(name: str, version: str) -> str:
    """A digest that follows from the name."""
    from hashlib import sha256

    return sha256(f"{name} {version}".encode()).hexdigest()


def package(
    name: str, version: str, *, depends: tuple[str, ...] = (), state_version: int = 1
) -> Package:
    """A feature with one service that has state, with all migrations up to its schema."""
    steps = range(1, state_version)
    migrations = [Migration("main", n, n + 1, ("/usr/bin/up",)) for n in steps]
    migrations += [Migration("main", n + 1, n, ("/usr/bin/down",)) for n in steps]
    return Package(
        name=name,
        version=version,
        kind="feature",
        publisher="publisher",
        architecture="all",
        summary="",
        depends=tuple(Dependency(other, "*") for other in depends),
        services=(Service("main", (f"/usr/bin/{name}",), Check("active"), state=True),),
        state_version=state_version,
        migrations=tuple(migrations),
    )


@dataclass
class FakeHost:
    """See the module.

    sick: digests whose services fail their check. broken: digests that cannot
    be activated. step: called before everything that could be cut. running:
    name → digest of what runs. users: digests that a program holds.
    """

    root: Path
    known: dict[str, Package] = field(default_factory=dict)
    sick: set[str] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    step: Callable[[], None] = lambda: None
    running: dict[str, str] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)
    active: Generation | None = None
    calls: list[str] = field(default_factory=list)

    def manifest(self, digest: str) -> Package:
        """See PackageHost."""
        if not (self.root / "store" / digest).exists():
            raise StateError(f"cannot read {digest[:8]}: no such image")
        return self.known[digest]

    def layer(self, entry: PackageEntry) -> Path:
        """The state layer of an entry."""
        return self.root / "layers" / entry.name / str(entry.state)

    def activate(self, generation: Generation) -> Activation:
        """See PackageHost."""
        self._note(f"activate {generation.number}")
        store = StateStore(self.root).generations
        parent = store.load(generation.parent) if generation.parent else None
        done = []
        for entry in generation.packages:
            self.step()
            target = self.layer(entry)
            old = parent.package(entry.name) if parent else None
            if not target.is_dir():
                fresh = target.with_name(f"{target.name}.new")
                shutil.rmtree(fresh, ignore_errors=True)
                if old is not None and self.layer(old).is_dir():
                    shutil.copytree(self.layer(old), fresh)
                else:
                    fresh.mkdir(parents=True)
                    schema = self.known[entry.digest].state_version
                    (fresh / "schema").write_text(str(schema))
                fresh.rename(target)
            done.append(
                Active(
                    entry.name,
                    entry.version,
                    entry.digest,
                    failure=self.broken.get(entry.digest, ""),
                    refused=self.refused.get(entry.digest, ()),
                )
            )
        self.active = generation
        return Activation(generation.number, tuple(done))

    def stop(self, packages: Collection[str]) -> None:
        """See PackageHost."""
        self._note(f"stop {' '.join(sorted(packages))}")
        for name in packages:
            self.step()
            self.running.pop(name, None)

    def start(self, packages: Collection[str]) -> None:
        """See PackageHost."""
        self._note(f"start {' '.join(sorted(packages))}")
        assert self.active is not None
        for entry in self.active.packages:
            if entry.name in packages and entry.digest not in self.broken:
                self.step()
                self.running[entry.name] = entry.digest
                schema = (self.layer(entry) / "schema").read_text()
                assert schema == str(self.known[entry.digest].state_version), "wrong schema"
                with (self.layer(entry) / "log").open("a") as log:
                    log.write(f"{entry.version}\n")

    def check(self, packages: Collection[str]) -> dict[str, str]:
        """See PackageHost."""
        self._note(f"check {' '.join(sorted(packages))}")
        return {
            name: "answers 500, not 200" for name in packages if self.running.get(name) in self.sick
        }

    def migrate(self, entry: PackageEntry, source: int, target: int) -> None:
        """See PackageHost."""
        self._note(f"migrate {entry.name} {source} {target}")
        self.step()
        assert entry.name not in self.running
        file = self.layer(entry) / "schema"
        assert file.read_text() == str(source)
        file.write_text(str(target))

    def in_use(self) -> frozenset[str]:
        """See PackageHost."""
        active = self.active.digests() if self.active else frozenset()
        mounted = {entry.digest for entry in self.active.packages} if self.active else set()
        return frozenset((mounted & active) | self.users)

    def retire(self) -> None:
        """See PackageHost."""
        self._note("retire")

    def reboot(self, generation: Generation) -> None:
        """What early boot and systemd do."""
        self.step = lambda: None
        self.running.clear()
        self.users.clear()
        self.activate(generation)
        self.start([entry.name for entry in generation.packages if entry.enabled])

    def _note(self, call: str) -> None:
        self.step()
        self.calls.append(call)


class Bench:
    """A device in a directory, booted from its factory image."""

    def __init__(self, base: Path) -> None:
        self.root = base / "state" / "orbital"
        self.store = StateStore(self.root)
        self.host = FakeHost(self.root)
        self.base = base
        self.clock = 1_800_000_000.0
        (self.root / "store").mkdir(parents=True)
        self.store.generations.write(
            Generation(1, "a", "gateway", "1.0", "11" * 32, None, 0, "factory", "imager")
        )
        self.store.save(StateRecord(next_generation=2, committed=1))
        self.boots = 0
        self.reboot()

    def reboot(self) -> None:
        """Power off, power on."""
        self.boots += 1
        report = BootReport(
            f"boot-{self.boots}",
            "a",
            self.store.load().committed,
            False,
            False,
            root_hash="11" * 32,
        )
        write_report(report, self.base)
        config = DeviceConfig(
            system="gateway",
            version="1.0",
            board="testboard",
            architecture="x86_64",
            built=1_700_000_000,
            boot_control="file",
            boot_partition="esp",
            state="state",
            slots={"a": "root-a", "b": "root-b"},
        )
        self.device = PackageDevice(
            config, self.store, self.host, "a", f"boot-{self.boots}", self.base
        )
        self.host.reboot(self.committed)

    @property
    def committed(self) -> Generation:
        """The committed generation."""
        found = self.store.generations.load(self.store.load().committed)
        assert found is not None
        return found

    def publish(self, *packages: Package) -> None:
        """Makes packages known; a transaction's fetch puts them into the store."""
        for item in packages:
            self.host.known[digest_of(item.name, item.version)] = item

    def change(self, what: str, planner: Planner) -> Outcome:
        """Runs one transaction."""
        return change(
            self.device, planner, Asked(what, "ada"), SilentReporter(), now=lambda: self.clock
        )

    def install(self, name: str, version: str, **options: bool) -> Outcome:
        """Installs a version, or updates to it."""
        return self.change(f"install {name}", self.installer(name, version, **options))

    def remove(self, name: str) -> Outcome:
        """Removes a package."""

        def plan(old: Generation, _record: StateRecord, _number: int) -> Wanted:
            return Wanted(tuple(entry for entry in old.packages if entry.name != name))

        return self.change(f"remove {name}", plan)

    def switch(self, name: str, enabled: bool) -> Outcome:
        """Enables or disables a package."""

        def plan(old: Generation, _record: StateRecord, _number: int) -> Wanted:
            return Wanted(
                tuple(
                    replace(entry, enabled=enabled) if entry.name == name else entry
                    for entry in old.packages
                )
            )

        return self.change(f"{'enable' if enabled else 'disable'} {name}", plan)

    def undo(self) -> Outcome:
        """Goes back to the set before the last change."""

        def plan(_old: Generation, record: StateRecord, _number: int) -> Wanted:
            if record.undo is None:
                raise RefusedError("cannot roll back")
            before = self.store.generations.load(record.undo)
            assert before is not None
            return Wanted(before.packages)

        return self.change("roll back", plan)

    def installer(self, name: str, version: str, *, fetch: bool = True) -> Planner:
        """A plan that puts one version of a package into the set."""

        def plan(old: Generation, _record: StateRecord, number: int) -> Wanted:
            present = old.package(name)
            digest = digest_of(name, version)
            now = int(self.clock)
            entry = PackageEntry(
                name,
                version,
                "feature",
                digest,
                uid=present.uid if present else 50000,
                state=number,
                installed=present.installed if present else now,
                updated=now,
            )
            others = tuple(item for item in old.packages if item.name != name)
            if present is not None and present.version == version:
                return Wanted(old.packages)

            def bring() -> None:
                if fetch:
                    self.host.step()
                    (self.root / "store" / digest).write_text(f"{name} {version}")

            return Wanted((*others, entry), fetch=bring)

        return plan

    def log_of(self, name: str) -> list[str]:
        """Versions that started on the state of the package as it is now."""
        entry = self.committed.package(name)
        assert entry is not None
        file = self.host.layer(entry) / "log"
        return file.read_text().split() if file.exists() else []
