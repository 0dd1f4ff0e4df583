"""What is installed and how it does: for `list`, `info` and `why`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from recovery.errors import OrbitalError, RefusedError
from recovery.generations import Earlier, Generation, PackageEntry
from recovery.packages.active import load_active
from recovery.packages.host import Activation, Active
from recovery.packages.model import Package, unit_name
from recovery.packages.paths import Paths
from recovery.state import StateRecord
from recovery.value import fields
from updater.packages.device import PackageDevice
from updater.packages.metrics import ask_systemd, services_of

# Words for what systemd calls ActiveState.
_STATES = {"active": "running", "activating": "starting", "deactivating": "stopping"}


@dataclass(frozen=True)
class ServiceStatus:
    """state: running, starting, stopping, stopped, failed, disabled, waiting for
    configuration, or "refused: CAPABILITY"."""

    name: str
    state: str
    unit: str
    restarts: int = 0
    summary: str = ""


@dataclass(frozen=True)
class PackageStatus:
    """One package of the committed set.

    state: of its services, the worst one; "installed" when it has none. failure:
    why it is not active. needs, needed_by: names. quarantined: its versions that
    failed here, with the reason. earlier: what its rollback goes back to.
    old_in_use: versions that are not installed any more and still run.
    """

    name: str
    version: str
    kind: str
    summary: str
    publisher: str
    state: str
    failure: str
    enabled: bool
    requested: bool
    installed: int
    updated: int
    services: tuple[ServiceStatus, ...]
    programs: tuple[str, ...]
    capabilities: tuple[str, ...]
    needs: tuple[str, ...]
    needed_by: tuple[str, ...]
    quarantined: tuple[tuple[str, str], ...]
    earlier: Earlier | None
    old_in_use: tuple[str, ...]
    digest: str

    def document(self) -> dict[str, object]:
        """As JSON."""
        earlier = fields(self.earlier) if self.earlier else None
        return {**asdict(replace(self, earlier=None)), "earlier": earlier}


def inspect(device: PackageDevice) -> tuple[PackageStatus, ...]:
    """Every package, sorted by name. Raises StateError when there is no usable record."""
    record = device.store.load()
    generation = device.committed(record)
    manifests = _manifests(device, generation)
    activation = load_active(Paths(device.root))
    states = ask_systemd(services_of(device, generation))
    old = _old_in_use(device, generation)
    depends = depends_of(generation, manifests)
    return tuple(
        status_of(
            entry,
            manifests.get(entry.digest),
            _active(activation, entry),
            states,
            record,
            depends=depends,
            old_in_use=old.get(entry.name, ()),
        )
        for entry in generation.packages
    )


def find(device: PackageDevice, name: str) -> tuple[PackageStatus, ...]:
    """The package of that name; several versions of a library. Raises RefusedError."""
    found = tuple(item for item in inspect(device) if item.name == name)
    if not found:
        raise RefusedError(
            f"cannot show package {name}: it is not installed",
            resolution="'orbital package list' shows what is",
        )
    return found


def status_of(
    entry: PackageEntry,
    manifest: Package | None,
    active: Active | None,
    states: Mapping[str, Mapping[str, str]],
    record: StateRecord,
    *,
    depends: Mapping[str, Collection[str]],
    old_in_use: tuple[str, ...] = (),
) -> PackageStatus:
    """The status of one package from all that is known of it. Pure."""
    services = _services(entry, manifest, active, states)
    failure = active.failure if active is not None else ""
    if manifest is None and not failure:
        failure = "its image cannot be read"
    return PackageStatus(
        name=entry.name,
        version=entry.version,
        kind=entry.kind,
        summary=manifest.summary if manifest else "",
        publisher=manifest.publisher if manifest else "",
        state="failed" if failure else _worst(entry, services),
        failure=failure,
        enabled=entry.enabled,
        requested=entry.requested,
        installed=entry.installed,
        updated=entry.updated,
        services=services,
        programs=tuple(item.name for item in manifest.programs) if manifest else (),
        capabilities=manifest.capabilities if manifest else (),
        needs=tuple(sorted(depends.get(entry.name, ()))),
        needed_by=tuple(sorted(name for name, needs in depends.items() if entry.name in needs)),
        quarantined=tuple(
            (item.version, item.reason) for item in record.quarantined if item.package == entry.name
        ),
        earlier=entry.earlier,
        old_in_use=old_in_use,
        digest=entry.digest,
    )


def depends_of(
    generation: Generation, manifests: Mapping[str, Package]
) -> dict[str, frozenset[str]]:
    """Names that each installed package needs."""
    found: dict[str, frozenset[str]] = {}
    for entry in generation.packages:
        manifest = manifests.get(entry.digest)
        needs = manifest.needs if manifest is not None else frozenset[str]()
        found[entry.name] = found.get(entry.name, frozenset()) | needs
    return found


def chains(
    name: str, generation: Generation, depends: Mapping[str, Collection[str]]
) -> tuple[tuple[str, ...], ...]:
    """Why a package is there: from a package that somebody asked for down to it. Pure.

    Shortest first; every package that was asked for and needs it has one.
    """
    asked = {entry.name for entry in generation.packages if entry.requested}
    found: list[tuple[str, ...]] = []
    paths: list[tuple[str, ...]] = [(name,)]
    seen = {name}
    while paths:
        path = paths.pop(0)
        if path[0] in asked:
            found.append(path)
        for other in sorted(depends):
            if path[0] in depends[other] and other not in seen:
                seen.add(other)
                paths.append((other, *path))
    return tuple(found)


def why(device: PackageDevice, name: str) -> tuple[tuple[str, ...], ...]:
    """Chains to the package. Raises RefusedError when it is not installed."""
    generation = device.committed(device.store.load())
    if generation.package(name) is None:
        raise RefusedError(
            f"cannot explain package {name}: it is not installed",
            resolution="'orbital package list' shows what is",
        )
    return chains(name, generation, depends_of(generation, _manifests(device, generation)))


def _manifests(device: PackageDevice, generation: Generation) -> dict[str, Package]:
    found = {}
    for entry in generation.packages:
        try:
            found[entry.digest] = device.host.manifest(entry.digest)
        except OrbitalError:
            continue
    return found


def _old_in_use(device: PackageDevice, generation: Generation) -> dict[str, tuple[str, ...]]:
    """Versions, by package, that run on although the set has another."""
    present = {entry.digest for entry in generation.packages}
    found: dict[str, list[str]] = {}
    for digest in sorted(device.host.in_use() - present):
        try:
            manifest = device.host.manifest(digest)
        except OrbitalError:
            continue
        found.setdefault(manifest.name, []).append(manifest.version)
    return {name: tuple(versions) for name, versions in found.items()}


def _active(activation: Activation | None, entry: PackageEntry) -> Active | None:
    packages = activation.packages if activation else ()
    return next((item for item in packages if item.digest == entry.digest), None)


def _services(
    entry: PackageEntry,
    manifest: Package | None,
    active: Active | None,
    states: Mapping[str, Mapping[str, str]],
) -> tuple[ServiceStatus, ...]:
    refused: dict[str, list[str]] = {}
    for name, capability in active.refused if active else ():
        refused.setdefault(name, []).append(capability)
    waiting = active.waiting if active else ()
    found = []
    for service in manifest.services if manifest else ():
        unit = unit_name(entry.name, service.name)
        known = states.get(unit, {})
        systemd = known.get("ActiveState", "")
        if not entry.enabled:
            state = "disabled"
        elif service.name in refused:
            state = f"refused: {', '.join(refused[service.name])}"
        elif service.name in waiting and systemd != "active":
            state = "waiting for configuration"
        else:
            state = _STATES.get(systemd, "failed" if systemd == "failed" else "stopped")
        restarts = known.get("NRestarts", "")
        count = int(restarts) if restarts.isdigit() else 0
        found.append(ServiceStatus(service.name, state, unit, count, service.summary))
    return tuple(found)


def _worst(entry: PackageEntry, services: Sequence[ServiceStatus]) -> str:
    """One word for all services."""
    if not entry.enabled:
        return "disabled"
    states = [service.state for service in services]
    refused = next((state for state in states if state.startswith("refused")), "")
    order = ("failed", refused, "waiting for configuration", "starting", "stopping", "stopped")
    return next((state for state in order if state and state in states), "") or (
        "running" if states else "installed"
    )
