"""Metrics of packages and their services: from systemd, and from the services themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recovery import process, unitstates
from recovery.errors import OrbitalError, RefusedError
from recovery.generations import Generation
from recovery.packages.model import unit_name
from recovery.value import replace
from updater.packages.device import PackageDevice
from updater.packages.exposition import OURS, Family, Sample, labelled, merge, parse, render

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROPERTIES = (
    "Id",
    "ActiveState",
    "Result",
    "NRestarts",
    "CPUUsageNSec",
    "MemoryCurrent",
    "TasksCurrent",
    "IOReadBytes",
    "IOWriteBytes",
    "ExecMainStartTimestamp",
)
_ENDPOINT_SECONDS = 2.0
_ENDPOINT_BYTES = 1 << 20
# systemd's word for "unknown" where it does not say "[not set]".
_UNSET = 2**64 - 1


@dataclass(frozen=True)
class ServiceRef:
    """A service of the committed set. endpoint: its own metrics, or ""."""

    package: str
    version: str
    service: str
    endpoint: str = ""

    @property
    def unit(self) -> str:
        """Its unit."""
        return unit_name(self.package, self.service)

    @property
    def labels(self) -> dict[str, str]:
        """What its samples are told apart by."""
        return {"package": self.package, "service": self.service}


# name, type, help, property, units of the property in one unit of the metric
_FROM_SYSTEMD = (
    ("cpu_seconds_total", "counter", "CPU time used.", "CPUUsageNSec", 1e9),
    ("memory_bytes", "gauge", "Memory in use, page cache included.", "MemoryCurrent", 1),
    ("tasks", "gauge", "Processes and threads.", "TasksCurrent", 1),
    ("io_read_bytes_total", "counter", "Bytes read from disks.", "IOReadBytes", 1),
    ("io_written_bytes_total", "counter", "Bytes written to disks.", "IOWriteBytes", 1),
    ("restarts_total", "counter", "Restarts by systemd since it was started.", "NRestarts", 1),
)


def collect(device: PackageDevice, only: str | None = None) -> str:
    """The whole document, or what it says of one package.

    Raises OrbitalError when systemd cannot be asked or there is no such package.
    """
    generation = device.store.generations.load(device.store.load().committed)
    if generation is None:
        return ""
    if only is not None:
        chosen = tuple(entry for entry in generation.packages if entry.name == only)
        if not chosen:
            raise RefusedError(f"cannot show metrics of package {only}: it is not installed")
        generation = replace(generation, packages=chosen)
    services = services_of(device, generation)
    states = ask_systemd(services)
    found = [*package_families(generation, device), *service_families(services, states)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=4) as pool:
        own = list(pool.map(_own, services))
    up = tuple(
        Sample(f"{OURS}service_metrics_up", tuple(ref.labels.items()), "0" if problem else "1")
        for ref, (_, problem) in zip(services, own, strict=True)
        if ref.endpoint
    )
    found.append(
        Family(f"{OURS}service_metrics_up", "gauge", "Whether its endpoint could be read.", up)
    )
    for families, _ in own:
        found += families
    return render(merge(found))


def services_of(device: PackageDevice, generation: Generation) -> tuple[ServiceRef, ...]:
    """Services of the enabled packages whose manifests can be read."""
    found = []
    for entry in generation.packages:
        if not entry.enabled:
            continue
        try:
            manifest = device.host.manifest(entry.digest)
        except OrbitalError:
            continue
        found += [
            ServiceRef(entry.name, entry.version, service.name, service.metrics)
            for service in manifest.services
        ]
    return tuple(found)


def ask_systemd(services: Iterable[ServiceRef]) -> dict[str, dict[str, str]]:
    """Properties by unit. Raises ToolError."""
    units = [ref.unit for ref in services]
    if not units:
        return {}
    done = process.run(
        ["systemctl", "show", "--timestamp=unix", f"--property={','.join(PROPERTIES)}", *units],
        timeout=30,
    )
    return unitstates.parse(done.stdout)


def package_families(generation: Generation, device: PackageDevice) -> tuple[Family, ...]:
    """What is installed, with versions and dates."""
    record = device.store.load()
    info, installed, updated, held = [], [], [], []
    for entry in generation.packages:
        name = (("package", entry.name), ("version", entry.version))
        labels = (*name, ("kind", entry.kind), ("enabled", "true" if entry.enabled else "false"))
        info.append(Sample(f"{OURS}package_info", labels, "1"))
        installed.append(
            Sample(f"{OURS}package_installed_timestamp_seconds", name, str(entry.installed))
        )
        updated.append(Sample(f"{OURS}package_updated_timestamp_seconds", name, str(entry.updated)))
    for item in record.quarantined:
        if item.package:
            version = (("package", item.package), ("version", item.version))
            held.append(Sample(f"{OURS}package_quarantined", version, "1"))
    number = Sample(f"{OURS}generation", (), str(generation.number))
    return (
        Family(f"{OURS}generation", "gauge", "Number of the committed generation.", (number,)),
        Family(f"{OURS}package_info", "gauge", "Installed packages.", tuple(info)),
        Family(
            f"{OURS}package_installed_timestamp_seconds",
            "gauge",
            "When it was first installed.",
            tuple(installed),
        ),
        Family(
            f"{OURS}package_updated_timestamp_seconds",
            "gauge",
            "When its version last changed.",
            tuple(updated),
        ),
        Family(f"{OURS}package_quarantined", "gauge", "Versions that failed here.", tuple(held)),
    )


def service_families(
    services: Iterable[ServiceRef], states: Mapping[str, Mapping[str, str]]
) -> tuple[Family, ...]:
    """What systemd says of the services; a value that it does not know is left out. Pure."""
    services = tuple(services)
    found = []
    for name, kind, text, prop, scale in _FROM_SYSTEMD:
        samples = []
        for ref in services:
            value = _number(states.get(ref.unit, {}).get(prop, ""))
            if value is not None:
                shown = f"{value / scale:.9f}".rstrip("0").rstrip(".") if scale != 1 else str(value)
                labels = tuple(ref.labels.items())
                samples.append(Sample(f"{OURS}service_{name}", labels, shown))
        found.append(Family(f"{OURS}service_{name}", kind, text, tuple(samples)))
    started, healthy = [], []
    for ref in services:
        state = states.get(ref.unit, {})
        labels = tuple(ref.labels.items())
        moment = _number(state.get("ExecMainStartTimestamp", "").removeprefix("@"))
        if moment:
            started.append(Sample(f"{OURS}service_start_timestamp_seconds", labels, str(moment)))
        good = state.get("ActiveState") == "active" and state.get("Result", "success") == "success"
        healthy.append(Sample(f"{OURS}service_healthy", labels, "1" if good else "0"))
    return (
        *found,
        Family(
            f"{OURS}service_start_timestamp_seconds",
            "gauge",
            "When its main process was started.",
            tuple(started),
        ),
        Family(
            f"{OURS}service_healthy",
            "gauge",
            "1: it runs, and its watchdog and checks have nothing against it.",
            tuple(healthy),
        ),
    )


def own_families(ref: ServiceRef, text: str) -> tuple[Family, ...]:
    """What a service says of itself, labelled as its own. Raises ValueError."""
    families = parse(text)
    for family in families:
        if family.name.startswith(OURS):
            raise ValueError(f"{family.name}: names that start with {OURS} are the system's")
    return tuple(labelled(family, ref.labels) for family in families)


def _own(ref: ServiceRef) -> tuple[tuple[Family, ...], str]:
    """Families of the service's endpoint, or why there are none."""
    # Imported late, with all that only scraping needs: 'list' asks this module, too.
    import http.client

    if not ref.endpoint:
        return (), ""
    try:
        return own_families(ref, _get(ref.endpoint)), ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        return (), str(error) or type(error).__name__


def _get(address: str) -> str:
    """GET of an endpoint on this device. Raises OSError, ValueError, HTTPException."""
    import http.client
    import ipaddress
    from urllib.parse import urlsplit

    url = urlsplit(address)
    host = url.hostname or ""
    if url.scheme != "http" or not (host == "localhost" or ipaddress.ip_address(host).is_loopback):
        raise ValueError(f"{address} is not on this device")
    connection = http.client.HTTPConnection(host, url.port or 80, timeout=_ENDPOINT_SECONDS)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        data = answer.read(_ENDPOINT_BYTES + 1)
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"{address} answered {answer.status}")
    if len(data) > _ENDPOINT_BYTES:
        raise ValueError(f"{address} says more than {_ENDPOINT_BYTES} bytes")
    return data.decode("utf-8")


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit():
        return None
    value = int(text)
    return None if value >= _UNSET else value
