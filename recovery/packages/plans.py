"""From verified packages to what is written for them: units, sandboxes, users, bus. Pure."""

from __future__ import annotations

from recovery.packages import bus, layers, model, users
from recovery.packages.sandbox import Sandbox
from recovery.packages.units import ServicePlan, runtime_directory
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from recovery.generations import Generation, PackageEntry
    from recovery.packages.capabilities import Capability, Policy
    from recovery.packages.model import Package, Service
    from recovery.packages.paths import Paths


class Ready(Value):
    """A package whose image is verified and mounted.

    view: directory that it sees as /usr, "" when nothing of it runs. layer: its
    state, None without any. configured: its configure program has run. migrate:
    its state is of another schema version than its programs.
    """

    entry: PackageEntry
    package: Package
    view: str = ""
    layer: Path | None = None
    configured: bool = False
    migrate: bool = False


def service_plans(
    item: Ready, ready: Sequence[Ready], paths: Paths, policy: Policy
) -> list[ServicePlan]:
    """The services of a package, if it is enabled. ready: all packages of the set."""
    if not item.entry.enabled:
        return []
    package = item.package
    needed = {dependency.package for dependency in package.depends}
    before = [
        model.unit_name(other.entry.name, service.name)
        for other in ready
        if other.entry.name in needed and other.entry.enabled
        for service in other.package.services
    ]
    marker = str(layers.configured_marker(item.layer)) if item.layer is not None else ""
    return [
        ServicePlan(
            package=package.name,
            version=package.version,
            service=service,
            sandbox=service_sandbox(paths, item, index, policy),
            after=(*before, *(model.unit_name(package.name, name) for name in service.after)),
            bus_names=owned_names(package, service.name),
            configured=marker if service.configure_first else "",
            waiting=service.configure_first and not item.configured,
            refused=granted(policy, service.capabilities)[1],
            migrate=item.migrate,
        )
        for index, service in enumerate(package.services)
    ]


def bus_users(item: Ready, ready: Sequence[Ready], policy: Policy) -> list[bus.BusUser]:
    """The services of the package that are on the bus."""
    calls = calls_of_package(item.package, [other.package for other in ready])
    found: list[bus.BusUser] = []
    for service, (name, _) in zip(item.package.services, service_users(item), strict=True):
        capabilities, refused = granted(policy, service.capabilities)
        rules = [rule for capability in capabilities for rule in capability.bus]
        owns = owned_names(item.package, service.name)
        if not refused and (owns or calls or rules):
            found.append(bus.BusUser(name, owns, (*calls, *bus.calls_of(rules))))
    return found


def associations(ready: Sequence[Ready]) -> list[dict[str, str]]:
    """What enabled packages open, sorted."""
    found = [
        {
            "kind": item.kind,
            "match": item.match,
            "package": package.entry.name,
            "program": item.program,
        }
        for package in ready
        if package.entry.enabled
        for item in package.package.associations
    ]
    return sorted(found, key=lambda item: tuple(item.values()))


def activations(package: Package, plan: ServicePlan) -> dict[str, str]:
    """Activation files of the service that a plan starts: text by name."""
    return {
        f"{item.bus_name}.service": bus.activation(item.bus_name, plan.unit)
        for item in package.provides
        if item.service == plan.service.name and item.activatable
    }


def layered_digests(generation: Generation, opened: Mapping[str, object]) -> tuple[str, ...]:
    """Images of the system packages that lie over the OS image, in every view."""
    return tuple(
        entry.digest
        for entry in generation.packages
        if entry.kind == "system" and entry.digest in opened
    )


def view_digests(entry: PackageEntry, layered: Sequence[str]) -> tuple[str, ...]:
    """What a package's view is made of, topmost first."""
    found = (entry.digest, *entry.uses)
    return (*found, *(digest for digest in layered if digest not in found))


def has_layer(package: Package) -> bool:
    """Whether the package keeps anything on the device."""
    state = any(service.state for service in package.services)
    return bool(state or package.slices or package.configure)


def granted(
    policy: Policy, wanted: Sequence[str]
) -> tuple[tuple[Capability, ...], tuple[str, ...]]:
    """Capabilities that the system grants, and the names of those that it does not."""
    found = [(name, policy.find(name)) for name in wanted]
    return (
        tuple(item for _, item in found if item is not None),
        tuple(name for name, item in found if item is None),
    )


def service_sandbox(paths: Paths, item: Ready, index: int, policy: Policy) -> Sandbox:
    """The sandbox of a service, with what the system grants of what it asks for."""
    service = item.package.services[index]
    capabilities, _ = granted(policy, service.capabilities)
    return Sandbox(
        package=item.package.name,
        uid=item.entry.uid + index,
        view=item.view,
        config=str(paths.config / item.package.name),
        state=str(item.layer / "state" / service.name) if service.state and item.layer else "",
        runtime=runtime_directory(item.package.name, service.name),
        capabilities=capabilities,
        bus=is_on_bus(item.package, service, capabilities),
        loopback=service.check.kind in ("http", "tcp") or bool(service.metrics),
    )


def is_on_bus(package: Package, service: Service, capabilities: Sequence[Capability]) -> bool:
    """Whether the service has a use for the system bus."""
    rules = any(item.bus for item in capabilities)
    return bool(owned_names(package, service.name) or package.requires or rules)


def service_users(item: Ready) -> list[tuple[str, int]]:
    """Name and number of the user of each service, in the manifest's order."""
    return [
        (users.user_name(item.package.name, service.name, uid), uid)
        for uid, service in enumerate(item.package.services, item.entry.uid)
    ]


def owned_names(package: Package, service: str) -> tuple[str, ...]:
    """Bus names that the service owns, in the manifest's order."""
    found = [item.bus_name for item in package.provides if item.service == service]
    return tuple(dict.fromkeys(found))


def calls_of_package(package: Package, others: Sequence[Package]) -> tuple[bus.Call, ...]:
    """What the services of the package may call of other packages."""
    return tuple(
        call
        for required in package.requires
        for other in others
        if other.name == required.package
        for provided in other.provides
        if provided.interface == required.interface
        for call in bus.calls_to(provided.bus_name, provided.interface)
    )
