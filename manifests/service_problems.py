"""What is wrong with the services and programs of a feature package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from manifests.capabilities import known_capabilities, unknown_capabilities
from manifests.feature import (
    ActiveHealth,
    BusHealth,
    ExecHealth,
    FeaturePackage,
    HttpHealth,
    Program,
    Service,
    TcpHealth,
)
from manifests.problem import Path as Place
from manifests.problem import Problem, repeated, unknown

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def service_problems(manifest: FeaturePackage) -> Iterator[Problem]:
    """What is wrong with a package's services and programs, each and together."""
    names = [service.name for service in manifest.services]
    yield from repeated(names, ("services",), "service", "name")
    for number, service in enumerate(manifest.services):
        yield from _service(service, manifest, ("services", number))
    yield from _order_problems(manifest.services)
    yield from repeated([item.name for item in manifest.programs], ("programs",), "program", "name")
    for number, program in enumerate(manifest.programs):
        place: Place = ("programs", number)
        yield from command_problems(program.command, (*place, "command"))
        yield from unknown_capabilities(program.capabilities, (*place, "capabilities"))
        if program.state_of is not None:
            yield from unknown(program.state_of, names, (*place, "state_of"), "one of the services")
        yield from _bus_problems(program, manifest, place)


def command_problems(command: Sequence[str], place: Place) -> Iterator[Problem]:
    """The program is a full path below /usr, and no argument has line breaks or the like."""
    program = command[0]
    if not program.startswith("/usr/") or ".." in program.split("/"):
        yield Problem(
            (*place, 0),
            "the full path of a program below /usr",
            f'"{program}"',
            f'write for example "/usr/bin/{program.rpartition("/")[2]}"',
        )
    for number, word in enumerate(command):
        if _CONTROL.search(word):
            yield Problem(
                (*place, number),
                "a program argument in one line",
                "control characters",
                "put what needs several lines into a file of the package",
            )


def _service(service: Service, manifest: FeaturePackage, place: Place) -> Iterator[Problem]:
    yield from command_problems(service.command, (*place, "command"))
    yield from unknown_capabilities(service.capabilities, (*place, "capabilities"))
    yield from repeated(service.capabilities, (*place, "capabilities"), "capability")
    yield from _environment_problems(service, place)
    if service.kind == "bus" and service.name not in {item.service for item in manifest.provides}:
        yield Problem(
            (*place, "kind"),
            "an interface in provides for a service of kind bus",
            "none",
            f"add one with service: {service.name}, or choose another kind",
        )
    if service.kind == "oneshot" and service.restart.when == "always":
        yield Problem(
            (*place, "restart", "when"),
            "on-failure or no for a service of kind oneshot",
            '"always"',
            "a oneshot service ends when it has done its work",
        )
    if service.kind == "oneshot" and service.watchdog_seconds:
        yield Problem(
            (*place, "watchdog_seconds"),
            "0 for a service of kind oneshot",
            f"{service.watchdog_seconds}",
            "a service that has ended pings nobody",
        )
    yield from _health_problems(service, manifest, place)
    if service.metrics and not _sees_network(service):
        yield _unreachable((*place, "metrics"))


def _bus_problems(program: Program, manifest: FeaturePackage, place: Place) -> Iterator[Problem]:
    """Who calls others over the bus is a service's user: the bus knows no other, nor what it may.

    In a package with `requires` that is every program: none could tell by itself
    that it does not call.
    """
    calling = [name for name in program.capabilities if _opens_bus(name)]
    if program.state_of is None:
        if manifest.requires or calling:
            why = f'"{calling[0]}"' if calling else "requires"
            yield Problem(
                (*place, "state_of"),
                f"one of the services, for a program that may call others over the bus ({why})",
                "none",
                "the bus knows a package's callers by the users of its services; name the service "
                "whose user the program shares",
            )
        return
    has = {
        name
        for service in manifest.services
        if service.name == program.state_of
        for name in service.capabilities
    }
    for number, name in enumerate(program.capabilities):
        if name in calling and name not in has:
            yield Problem(
                (*place, "capabilities", number),
                f"for calls over the bus, a capability of the service {program.state_of}",
                f'"{name}"',
                f"the bus grants calls to the service's user; add {name} to {program.state_of}",
            )


def _opens_bus(name: str) -> bool:
    found = known_capabilities().find(name)
    return found is not None and bool(found.bus)


def _health_problems(service: Service, manifest: FeaturePackage, place: Place) -> Iterator[Problem]:
    at: Place = (*place, "health")
    match service.health:
        case ExecHealth(command=command):
            yield from command_problems(command, (*at, "command"))
        case HttpHealth() | TcpHealth():
            if not _sees_network(service):
                yield _unreachable((*at, "kind"))
        case BusHealth(bus_name=bus_name):
            owned = [item.bus_name for item in manifest.provides if item.service == service.name]
            yield from unknown(
                bus_name, owned, (*at, "bus_name"), "a bus name that provides gives this service"
            )
        case ActiveHealth() if service.kind == "simple":
            yield Problem(
                (*at, "kind"),
                "exec, http, tcp or bus for a service of kind simple",
                '"active"',
                "systemd calls a simple service active before it has done anything; check what "
                "it does, or let it say when it is ready (kind notify)",
            )


def _environment_problems(service: Service, place: Place) -> Iterator[Problem]:
    for name, value in service.environment.items():
        if not _VARIABLE.fullmatch(name):
            yield Problem(
                (*place, "environment", name),
                "the name of a variable (letters, digits and _)",
                f'"{name}"',
            )
        if _CONTROL.search(value):
            yield Problem((*place, "environment", name), "text in one line", "control characters")


def _order_problems(services: Sequence[Service]) -> Iterator[Problem]:
    """`after` names other services, and none waits for itself through others."""
    names = [service.name for service in services]
    waits = {service.name: service.after for service in services}
    for number, service in enumerate(services):
        place: Place = ("services", number, "after")
        yield from repeated(service.after, place)
        for at, name in enumerate(service.after):
            yield from unknown(name, names, (*place, at), "one of the services")
        circle = _circle(service.name, waits)
        # Each circle once, at its first service.
        if circle and number == min(names.index(name) for name in circle):
            yield Problem(
                place,
                "services that do not wait for each other in a circle",
                " after ".join((*circle, circle[0])),
                "remove one of them",
            )


def _circle(start: str, waits: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The services by which start waits for itself, start first; empty when it does not."""
    trails: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while trails:
        trail = trails.pop()
        for name in waits.get(trail[-1], ()):
            if name == start:
                return trail
            if name not in seen:
                seen.add(name)
                trails.append((*trail, name))
    return ()


def _sees_network(service: Service) -> bool:
    found = (known_capabilities().find(name) for name in service.capabilities)
    return any(item is not None and item.network == "host" for item in found)


def _unreachable(place: Place) -> Problem:
    return Problem(
        place,
        "a service that sees the device's network",
        "one without such a capability",
        "its own network is empty, so nobody could ask it; add net.server to capabilities",
    )
