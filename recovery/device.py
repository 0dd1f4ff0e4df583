"""What this device is: the document that the imager bakes into the image for device programs.

`/usr/lib/orbital/device.json`, inside the verified root, so it needs no
signature of its own. Written by `imager`, read by `recovery` and `updater`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recovery.errors import ManifestError

DEVICE_FILE = Path("/usr/lib/orbital/device.json")
FORMAT = 1

CheckKind = Literal["exec", "http", "tcp", "unit"]


@dataclass(frozen=True)
class HealthCheck:
    """One check of the running system.

    kind: exec (command exits 0), http (GET url answers status), tcp (host:port
        accepts), unit (systemd unit is active).
    deadline_seconds: time from the start of the health check run within which
        the check must have passed once; retried until then.
    """

    name: str
    kind: CheckKind
    deadline_seconds: int
    command: tuple[str, ...] = ()
    url: str = ""
    status: int = 200
    host: str = ""
    port: int = 0
    unit: str = ""


@dataclass(frozen=True)
class TrialPolicy:
    """How a new generation is tried.

    tries: boots that the loader grants. deadline_seconds: from boot to
    boot-complete.target. probation_seconds: after the commit, while the
    previous generation is still held ready. probation_boots: boots within
    the probation before it counts as a crash loop.
    """

    tries: int = 3
    deadline_seconds: int = 300
    probation_seconds: int = 600
    probation_boots: int = 3


Preference = Literal["bytes", "time"]
"""What an update spares where both cannot be had."""


@dataclass(frozen=True)
class UpdatePolicy:
    """Where updates come from and when they may be installed unattended.

    window_start, window_end: "HH:MM" local time; both empty means any time.
    budget_update, budget_month: bytes that may be fetched over a network for one update,
    and in a calendar month; 0 is without limit. prefer: time counts
    only without a budget.
    """

    source: str = ""
    automatic: bool = False
    window_start: str = ""
    window_end: str = ""
    reboot: bool = True
    budget_update: int = 0
    budget_month: int = 0
    prefer: Preference = "bytes"


@dataclass(frozen=True)
class RescuePolicy:
    """The rescue system of the device, and what it may do by itself.

    partition: label of its partition; empty: the device has none. record: label
    of the partition that holds the start record (`recovery.starts`). network: it
    may fetch an image. state: what becomes of a state partition that cannot be
    repaired: "renew", a new file system, or "keep", left as it is for a person.
    login: public SSH keys of those who may log in over the network.
    """

    partition: str = ""
    record: str = "environment"
    network: bool = True
    state: Literal["renew", "keep"] = "renew"
    login: tuple[str, ...] = ()


@dataclass(frozen=True)
class SystemPackage:
    """A feature that is part of the image."""

    name: str
    version: str
    summary: str


@dataclass(frozen=True)
class DeviceConfig:
    """The whole document.

    built: seconds since the epoch (SOURCE_DATE_EPOCH of the image).
    boot_control: name of a module in recovery.bootcontrol, e.g. "systemd-boot".
    slots: partition label of each slot. state: label of the state partition.
    boot_partition: label of the partition with the boot artifacts, e.g. "esp".
    watchdog: seconds the hardware watchdog waits, 0 when the board has none.
    environment: label of the partition with the boot control's record; empty
        where the record is on the boot partition.
    boot_slots: label of each slot's raw boot partition; empty where the boot
        artifacts are files on the boot partition.
    """

    system: str
    version: str
    board: str
    architecture: str
    built: int
    boot_control: str
    boot_partition: str
    state: str
    slots: dict[str, str]
    watchdog: int = 0
    health: tuple[HealthCheck, ...] = ()
    trial: TrialPolicy = TrialPolicy()
    update: UpdatePolicy = UpdatePolicy()
    packages: tuple[SystemPackage, ...] = ()
    environment: str = ""
    boot_slots: dict[str, str] = dataclasses.field(default_factory=dict)
    rescue: RescuePolicy = RescuePolicy()


def encode(config: DeviceConfig) -> bytes:
    """The document as deterministic JSON."""
    document = {"format": FORMAT, **dataclasses.asdict(config)}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def decode(data: bytes, name: str = str(DEVICE_FILE)) -> DeviceConfig:
    """The document read back. Raises ManifestError when it is not valid."""
    try:
        raw = json.loads(data)
        if raw.pop("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        raw["health"] = tuple(
            HealthCheck(**{**check, "command": tuple(check.get("command", ()))})
            for check in raw.get("health", ())
        )
        raw["trial"] = TrialPolicy(**raw.get("trial", {}))
        raw["update"] = UpdatePolicy(**raw.get("update", {}))
        rescue = raw.get("rescue", {})
        raw["rescue"] = RescuePolicy(**{**rescue, "login": tuple(rescue.get("login", ()))})
        raw["packages"] = tuple(SystemPackage(**item) for item in raw.get("packages", ()))
        return DeviceConfig(**raw)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"cannot use {name}: {error}",
            resolution="this file is made by 'orbital image build'; rebuild the image",
        ) from error


def load(root: Path = Path("/")) -> DeviceConfig:
    """The document of the running system. Raises ManifestError when absent or invalid."""
    path = root / DEVICE_FILE.relative_to("/")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"cannot read {path}: {error.strerror}",
            resolution="run this command on a device whose image was built by Orbital",
        ) from error
    return decode(data, str(path))
