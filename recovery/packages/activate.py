"""Makes /run agree with a generation's packages: images, views, state, units, users, bus.

Used at boot, before systemd starts, and by `recovery.packages.system` in a
running system; what must be told to systemd and the bus is told by the
caller. Nothing here decides who may start: that is in the units.

A package that cannot be activated (altered, not signed, a manifest that says
too much) is left out with the reason; the others do not notice. Everything is
below /run and made anew in each boot, except the state layers.
"""

from __future__ import annotations

import json

from recovery.errors import OrbitalError, RefusedError, TrustError
from recovery.packages import bus, layers, model, names, plans, store, users, views
from recovery.packages.active import Changes, load_active, news, save_active
from recovery.packages.files import children, write_files
from recovery.packages.host import Activation, Active
from recovery.packages.plans import Ready
from recovery.packages.units import TARGET, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recovery.generations import Generation, PackageEntry
    from recovery.packages.capabilities import Policy
    from recovery.packages.model import Package
    from recovery.packages.paths import Paths
    from recovery.packages.trust import Publishers
    from recovery.packages.units import ServicePlan


class Activator:
    """One activation of one generation."""

    def __init__(
        self,
        paths: Paths,
        generation: Generation,
        parent: Generation | None,
        policy: Policy,
        publishers: Publishers,
    ) -> None:
        """parent: the generation whose state layers are copied where one is missing."""
        self.paths = paths
        self.generation = generation
        self.parent = parent
        self.policy = policy
        self.store = store.Store(paths, publishers)
        self.notes: list[str] = []

    def run(self) -> tuple[Activation, Changes]:
        """Activates everything; what has changed with it. Raises OSError for the system's own."""
        before = load_active(self.paths)
        views.ensure_base(self.paths)
        failures: dict[PackageEntry, str] = {}
        opened = self._open(failures)
        ready = self._prepare(opened, failures)
        overlaid = self._overlay(ready)
        services = {
            item.entry.digest: plans.service_plans(item, ready, self.paths, self.policy)
            for item in ready
        }
        self._configure(ready)
        changes = self._write(ready, services)
        activation = Activation(
            self.generation.number,
            tuple(self._active(entry, services, failures) for entry in self._entries()),
        )
        # Last: who reads it finds all of it true.
        save_active(self.paths, activation)
        return activation, Changes(
            units=changes.units or overlaid,
            bus=changes.bus,
            restart=self._restarts(before, activation),
            news=news(before, activation),
        )

    def _entries(self) -> tuple[PackageEntry, ...]:
        return self.generation.packages

    def _open(self, failures: dict[PackageEntry, str]) -> dict[str, Package]:
        """Verifies and mounts every image; manifests by digest."""
        opened: dict[str, Package] = {}
        for entry in self._entries():
            try:
                names.check_entry(entry)
                package = self.store.open(entry.digest, entry.name, entry.version)
                names.check_manifest(package)
                if package.kind != entry.kind:
                    raise TrustError(f"cannot use package {entry.name}: it is a {package.kind}")
                opened[entry.digest] = package
            except (OrbitalError, OSError) as error:
                failures[entry] = store.reason(error)
        return opened

    def _prepare(
        self, opened: dict[str, Package], failures: dict[PackageEntry, str]
    ) -> list[Ready]:
        """Views and state layers."""
        layered = plans.layered_digests(self.generation, opened)
        found: list[Ready] = []
        for entry in self._entries():
            # Not by its image alone: another entry may have opened the same one.
            if entry in failures:
                continue
            package = opened[entry.digest]
            try:
                found.append(self._ready(entry, package, opened, layered))
            except (OrbitalError, OSError) as error:
                failures[entry] = store.reason(error)
        return found

    def _ready(
        self,
        entry: PackageEntry,
        package: Package,
        opened: Mapping[str, Package],
        layered: Sequence[str],
    ) -> Ready:
        missing = [digest for digest in entry.uses if digest not in opened]
        if missing:
            raise RefusedError(
                f"cannot activate package {entry.name}: a library it uses is not active",
                details=missing[0],
            )
        view, layer = "", None
        if package.services or package.programs:
            digests = plans.view_digests(entry, layered)
            view = str(views.ensure_view(self.paths, self.generation.root_hash, digests))
        if plans.has_layer(package):
            layer = layers.prepare(self.paths, entry, package, self.parent)
        configured = layer is not None and layers.is_configured(layer)
        migrate = layer is not None and layers.must_migrate(layer, package)
        return Ready(entry, package, view, layer, configured, migrate)

    def _overlay(self, ready: Sequence[Ready]) -> bool:
        """Switches the system's /usr; whether it changed."""
        wanted = [item for item in ready if item.package.overlay]
        if not wanted and not (self.paths.run / "overlaid").exists():
            return False
        from recovery.packages.overlay import Overlay, addition

        overlay = Overlay(self.paths)
        before = overlay.mounted()
        additions = [addition(item.package, item.entry.digest) for item in wanted]
        try:
            refused = overlay.apply(self.generation.root_hash, additions)
        except OSError as error:
            refused = {item.package: str(error) for item in additions}
        self.notes += [f"{name}: not added to /usr: {why}" for name, why in refused.items()]
        (self.paths.run / "overlaid").touch()
        return overlay.mounted() != before

    def _configure(self, ready: Sequence[Ready]) -> None:
        """Renders configuration; every package has a directory, as its sandbox binds it."""
        wanted: dict[str, dict[str, str]] = {}
        for item in ready:
            if item.package.services or item.package.programs:
                slices: dict[str, str] = {}
                if item.layer is not None:
                    slices, problems = layers.rendered(item.layer, item.package)
                    self.notes += problems
                wanted[item.entry.name] = slices
        for name, slices in wanted.items():
            files = {f"{key}.json": text for key, text in slices.items()}
            directory = self.paths.config / name
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)
            write_files(directory, files, _any)
        for directory in children(self.paths.config):
            if directory.name not in wanted:
                write_files(directory, {}, _any)
                directory.rmdir()

    def _write(
        self, ready: Sequence[Ready], services: Mapping[str, Sequence[ServicePlan]]
    ) -> Changes:
        """Users first, since bus policy and units name them; then bus files; then units."""
        records: dict[str, str] = {}
        links: dict[str, str] = {}
        policies: dict[str, str] = {}
        activations: dict[str, str] = {}
        unit_texts: dict[str, str] = {}
        wants: dict[str, str] = {}
        for item in ready:
            for name, uid in plans.service_users(item):
                records.update(users.records(name, uid))
                links.update(users.links(name, uid))
            on_bus = plans.bus_users(item, ready, self.policy)
            if on_bus and item.entry.enabled:
                policies[f"orbital.{item.entry.name}.conf"] = bus.policy(on_bus)
            for plan in services[item.entry.digest]:
                unit_texts.update(texts(plan))
                if plan.may_start:
                    wants[plan.unit] = f"../{plan.unit}"
                    activations.update(plans.activations(item.package, plan))
        write_files(self.paths.users, records, users.is_ours, links)
        told = write_files(self.paths.policy, policies, _any)
        told |= write_files(self.paths.activation, activations, _any)
        registered = json.dumps({"format": 1, "associations": plans.associations(ready)}, indent=1)
        name = self.paths.associations.name
        write_files(self.paths.run, {name: registered + "\n"}, lambda other: other == name)
        changed = write_files(self.paths.units, unit_texts, is_unit)
        wanted = self.paths.units / f"{TARGET}.wants"
        changed |= write_files(wanted, {}, is_unit, wants)
        return Changes(units=changed, bus=told)

    def _active(
        self,
        entry: PackageEntry,
        services: Mapping[str, Sequence[ServicePlan]],
        failures: Mapping[PackageEntry, str],
    ) -> Active:
        if entry in failures:
            why = failures[entry]
            return Active(entry.name, entry.version, entry.digest, failure=why)
        mine = services[entry.digest]
        return Active(
            entry.name,
            entry.version,
            entry.digest,
            units=tuple(plan.unit for plan in mine if plan.may_start),
            waiting=tuple(plan.service.name for plan in mine if plan.waiting and not plan.refused),
            refused=tuple((plan.service.name, name) for plan in mine for name in plan.refused),
        )

    def _restarts(self, before: Activation | None, now: Activation) -> tuple[str, ...]:
        """Units of the image that run other files than before."""
        old = {item.digest for item in before.packages if not item.failure} if before else set()
        new = {item.digest for item in now.packages if not item.failure}
        found: set[str] = set()
        for digest in (old ^ new) if before else set():
            try:
                package = model.decode((self.paths.image(digest) / model.MANIFEST).read_bytes())
            except (OSError, ValueError):
                continue
            if package.kind == "system":
                found.update(package.restart_units)
        return tuple(sorted(found))


def is_unit(name: str) -> bool:
    """Whether a file below /run/systemd/system was made by an activation."""
    return name.startswith("orbital.") and name.endswith((".service", ".timer"))


def _any(_name: str) -> bool:
    return True
