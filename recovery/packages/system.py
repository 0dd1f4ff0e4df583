"""The running system as packages change it: systemd, the bus, mounts (`host.PackageHost`).

systemd is asked over its own socket (`manager`), one connection for each step;
programs are started through `recovery.process`.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from recovery import process
from recovery.errors import RefusedError, StateError, ToolError
from recovery.generations import GenerationStore
from recovery.packages import (
    capabilities,
    inuse,
    layers,
    model,
    names,
    plans,
    programs,
    trust,
    views,
)
from recovery.packages.activate import Activator
from recovery.packages.active import load_active
from recovery.packages.boot import tell
from recovery.packages.checking import Checking
from recovery.packages.manager import Manager, UnitRefusedError
from recovery.packages.paths import Paths
from recovery.packages.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from recovery.generations import Generation, PackageEntry
    from recovery.packages.host import Activation
    from recovery.packages.manager import Verb
    from recovery.packages.model import Package

_JOB_SECONDS = 300
_KEEP_SECONDS = 2.0
_RELOAD_SECONDS = 90
_MIGRATION_SECONDS = 300


class SystemHost:
    """This device. The caller holds the device's lock for everything that changes it."""

    def __init__(self, root: Path = Path("/"), who: str = "orbital") -> None:
        """who: for the audit trail. Raises ManifestError when the image's policy is not valid."""
        self.paths = Paths(root)
        self.who = who
        self.policy = capabilities.load(root)
        self.publishers = trust.load(root)
        self.notes: list[str] = []
        # An image that was verified and is still mounted is not verified again; an
        # activation verifies all of its own.
        self._store = Store(self.paths, self.publishers)
        self._manager: Manager | None = None
        self._used = 0.0

    def manifest(self, digest: str) -> Package:
        """The manifest of an image in the store, verified first. Raises TrustError, StateError."""
        try:
            package = self._store.manifest(digest)
        except OSError as error:
            raise StateError(f"cannot read image {digest}: {error}") from error
        names.check_manifest(package)
        return package

    def activate(self, generation: Generation) -> Activation:
        """See `host.PackageHost`. What was left undone for a reason is in `notes`."""
        before = load_active(self.paths)
        parent = self._generation(generation.parent)
        activator = Activator(self.paths, generation, parent, self.policy, self.publishers)
        activation, changes = activator.run()
        self.notes = activator.notes
        if changes.units:
            with self._systemd() as manager:
                manager.reload()
        if changes.bus:
            bus = "org.freedesktop.DBus"
            process.run(
                ["busctl", "--system", "call", bus, "/org/freedesktop/DBus", bus, "ReloadConfig"],
                timeout=_RELOAD_SECONDS,
            )
        if changes.restart and before is not None:
            self._run("TryRestartUnit", changes.restart)
        tell(self.paths, changes, self.who)
        return activation

    def stop(self, packages: Collection[str]) -> None:
        """Stops the services of these packages, dependents first; returns when they have ended."""
        order = list(reversed(self._ordered(packages)))
        if not order:
            return
        with self._systemd() as manager:
            units = [
                unit.name
                for unit in manager.loaded([f"orbital.{name}.*" for name in order])
                if unit.job or unit.active not in ("inactive", "failed")
            ]
            # Jobs begin when they are asked for: After= orders only those that wait.
            units.sort(key=lambda unit: order.index(unit.split(".")[1]))
            jobs = {manager.enqueue("StopUnit", unit): unit for unit in units}
            results = manager.finish(jobs, _JOB_SECONDS)
        left = sorted(f"{jobs[job]}: {why}" for job, why in results.items() if why != "done")
        if left:
            raise ToolError("cannot stop services", details="; ".join(left))

    def start(self, packages: Collection[str]) -> None:
        """Starts what may start of these packages; returns when the jobs are over."""
        self._run("StartUnit", self._units(packages))

    def check(self, packages: Collection[str]) -> dict[str, str]:
        """Waits for the checks of these packages' services; why by package, if they failed."""
        wanted = []
        failures: dict[str, str] = {}
        active = load_active(self.paths)
        for item in active.packages if active is not None else ():
            if item.name not in packages:
                continue
            if item.failure:
                failures[item.name] = item.failure
                continue
            services = {
                model.unit_name(item.name, service.name): service
                for service in self._mounted(item.digest).services
            }
            wanted += [(item.name, services[unit]) for unit in item.units if unit in services]
        with self._systemd() as manager:
            return {**Checking(manager, wanted).run(), **failures}

    def migrate(self, entry: PackageEntry, source: int, target: int) -> None:
        """Runs the declared migrations on the entry's state layer, with its image's programs."""
        item = self._ready(entry)
        wanted = programs.steps(item.package.migrations, source, target)
        if item.layer is not None:
            layers.begin_migration(item.layer)
        for migration in wanted:
            lines = programs.migration_properties(item, migration, self.paths)
            process.run(
                programs.command(lines, migration.command, terminal=False),
                timeout=_MIGRATION_SECONDS,
            )
        if item.layer is not None:
            layers.end_migration(item.layer, target)

    def migrate_pending(self, generation: Generation, name: str) -> None:
        """Migrates the package's state if it is of another schema version than its programs.

        Raises ToolError, RefusedError or StateError.
        """
        entry = generation.package(name)
        if entry is None:
            raise StateError(f"cannot migrate the state of {name}: it is not in the running set")
        item = self._ready(entry)
        if item.layer is not None and layers.must_migrate(item.layer, item.package):
            self.migrate(entry, layers.schema(item.layer), item.package.state_version)

    def program(
        self,
        entry: PackageEntry,
        name: str,
        arguments: Sequence[str],
        *,
        terminal: bool,
        opened: Path | None = None,
    ) -> list[str]:
        """The command that runs a program of an active package in its sandbox.

        opened: a file of the device that it sees, read-only, as its last argument.
        Raises RefusedError when there is no such program, or for its capabilities.
        """
        item = self._ready(entry)
        program = next((found for found in item.package.programs if found.name == name), None)
        if program is None:
            known = ", ".join(found.name for found in item.package.programs)
            raise RefusedError(
                f"cannot run {name!r}: package {entry.name} has no such program",
                resolution=f"its programs: {known}" if known else "it has no programs",
            )
        lines = programs.program_properties(item, program, self.paths, self.policy)
        words = [*program.command, *arguments]
        if opened is not None:
            words.append(f"/run/opened/{opened.name}")
            lines.append(f"BindReadOnlyPaths={opened}:{words[-1]}")
        return programs.command(lines, words, terminal=terminal)

    def in_use(self) -> frozenset[str]:
        """Digests of images that the active set or a running program still has mounted."""
        used = set(self._active_digests())
        for view in inuse.users_of_views(self.paths):
            used.update(inuse.images_of_view(self.paths, view))
        return frozenset(used)

    def users(self, digest: str) -> tuple[int, ...]:
        """Ids of the processes that have the image in their view."""
        found: set[int] = set()
        for view, processes in inuse.users_of_views(self.paths).items():
            if digest in inuse.images_of_view(self.paths, view):
                found.update(processes)
        return tuple(sorted(found))

    def retire(self) -> None:
        """Unmounts views and images that the active set does not have and no process uses."""
        views.retire(self.paths, self._active_digests())

    def _active_digests(self) -> frozenset[str]:
        active = load_active(self.paths)
        found = {item.digest for item in active.packages} if active is not None else set()
        generation = self._generation(active.generation) if active is not None else None
        for entry in generation.packages if generation is not None else ():
            found.update(entry.uses)
        return frozenset(found)

    def _ready(self, entry: PackageEntry) -> plans.Ready:
        """The entry's package with its view, made if the present set does not have it."""
        names.check_entry(entry)
        store = self._store
        package = store.open(entry.digest, entry.name, entry.version)
        names.check_manifest(package)
        for digest in entry.uses:
            store.manifest(digest)
        active = load_active(self.paths)
        generation = self._generation(active.generation) if active is not None else None
        if generation is None:
            raise StateError("cannot run anything of a package: no set is active in this boot")
        opened = {found.digest: found.name for found in generation.packages}
        layered = plans.layered_digests(generation, opened)
        digests = plans.view_digests(entry, layered)
        view = views.ensure_view(self.paths, generation.root_hash, digests)
        layer = self.paths.layer(entry.name, entry.state)
        keeps = layer if plans.has_layer(package) and layer.is_dir() else None
        configured = keeps is not None and layers.is_configured(keeps)
        return plans.Ready(entry, package, str(view), keeps, configured)

    def _ordered(self, packages: Collection[str]) -> list[str]:
        """The packages of the active set among these, what others depend on first."""
        active = load_active(self.paths)
        known = {item.name: item for item in active.packages} if active is not None else {}
        found: list[str] = []

        def add(name: str, above: tuple[str, ...]) -> None:
            if name in found or name in above or name not in known:
                return
            try:
                needs = self._mounted(known[name].digest).needs
            except StateError:
                needs = frozenset()
            for dependency in sorted(needs):
                add(dependency, (*above, name))
            found.append(name)

        for name in sorted(packages):
            add(name, ())
        return [name for name in found if name in packages] + sorted(set(packages) - set(found))

    @contextlib.contextmanager
    def _systemd(self) -> Iterator[Manager]:
        """The connection of the step before, if that was just now, else a new one.

        Connecting costs more than most calls. But systemd ends a connection whose
        signals nobody reads: so none is kept over anything that takes long.
        """
        if self._manager is not None and time.monotonic() - self._used > _KEEP_SECONDS:
            self._hang_up()
        if self._manager is None:
            self._manager = Manager(self.paths.root)
        try:
            yield self._manager
        except BaseException:
            # An answer may still come: it would be taken for that of the next call.
            self._hang_up()
            raise
        self._used = time.monotonic()

    def _hang_up(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _run(self, verb: Verb, units: Sequence[str]) -> None:
        """Returns when systemd has done it, or could not: their states tell."""
        if not units:
            return
        with self._systemd() as manager:
            jobs = []
            for unit in units:
                if verb == "StartUnit":
                    # Starts of an earlier version must not count against this one.
                    with contextlib.suppress(UnitRefusedError):
                        manager.reset_failed(unit)
                with contextlib.suppress(UnitRefusedError):
                    jobs.append(manager.enqueue(verb, unit))
            manager.finish(jobs, _JOB_SECONDS)

    def _units(self, packages: Collection[str]) -> list[str]:
        active = load_active(self.paths)
        known = {item.name: item for item in active.packages} if active is not None else {}
        ordered = [name for name in self._ordered(packages) if name in known]
        return [unit for name in ordered for unit in known[name].units]

    def _mounted(self, digest: str) -> Package:
        """The manifest of an image that was verified and mounted by an activation."""
        path = self.paths.image(digest) / model.MANIFEST
        try:
            return model.decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StateError(f"cannot read {path}: {error}") from error

    def _generation(self, number: int | None) -> Generation | None:
        return GenerationStore(self.paths.state).load(number) if number is not None else None
