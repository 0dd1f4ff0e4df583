"""Packages, entries and generations that the tests talk about."""

from __future__ import annotations

from recovery.generations import Generation, PackageEntry
from recovery.packages.capabilities import BusRule, Capability, Policy
from recovery.packages.model import Check, Package, Provided, Service
from tests.recovery.builders import generation

POLICY = Policy(
    (
        Capability("net.client", "connect", network="host", families=("AF_INET", "AF_INET6")),
        Capability("net.configure", "configure", ("CAP_NET_ADMIN",), "host", ("AF_NETLINK",)),
        Capability(
            "system.reboot", "restart", bus=(BusRule("org.freedesktop.systemd1", "M", "R"),)
        ),
        Capability("net.tunnel", "tunnels", devices=("/dev/net/tun rw",)),
    ),
    refused=("net.tunnel",),
)


def service(name: str = "main", **changes: object) -> Service:
    """A service that runs /usr/bin/tool."""
    values: dict[str, object] = {"command": ("/usr/bin/tool",), "check": Check("active"), **changes}
    return Service(name=name, **values)  # type: ignore[arg-type]


def package(name: str = "vpn", *services: Service, **changes: object) -> Package:
    """A feature package, version 1.0."""
    values: dict[str, object] = {
        "version": "1.0",
        "kind": "feature",
        "publisher": "acme",
        "architecture": "all",
        "summary": "",
        **changes,
    }
    return Package(name=name, services=services, **values)  # type: ignore[arg-type]


def provided(bus_name: str = "org.acme.Vpn", service: str = "main") -> Provided:
    """An interface that a service offers."""
    return Provided(f"{bus_name}1", "1.0", bus_name, service, "usr/share/vpn.xml")


def entry(name: str = "vpn", digest: str = "ab" * 32, **changes: object) -> PackageEntry:
    """An entry of version 1.0, its state made by generation 2."""
    values: dict[str, object] = {
        "version": "1.0",
        "kind": "feature",
        "uid": 50000,
        "state": 2,
        "installed": 1,
        "updated": 1,
        **changes,
    }
    return PackageEntry(name=name, digest=digest, **values)  # type: ignore[arg-type]


def with_packages(number: int, *entries: PackageEntry, parent: int | None = 1) -> Generation:
    """A generation with these packages, of the image in slot a."""
    base = generation(number, "a", version="1.0", origin="package", parent=parent)
    from recovery.value import replace

    return replace(base, packages=tuple(entries))
