"""The system: what a product ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from manifests.capabilities import unknown_capabilities
from manifests.fields import (
    CapabilityName,
    DebianPackage,
    HostName,
    KernelArgument,
    Module,
    Name,
    ProgramPath,
    Soname,
    Summary,
    TimeOfDay,
    Unit,
    Url,
    Version,
    matching,
)
from manifests.health import HealthCheck, check_problems
from manifests.problem import Problem, listed, repeated
from manifests.sizes import Size
from recovery import device

Seconds = Annotated[int, Meta(ge=0, le=86400, extra={"expected": "seconds from 0 to 86400"})]
TrialDeadline = Annotated[int, Meta(ge=30, le=3600, extra={"expected": "seconds from 30 to 3600"})]
Tries = Annotated[int, Meta(ge=1, le=9, extra={"expected": "a number from 1 to 9"})]
PublicKey = Annotated[
    str,
    matching(
        r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp[0-9]+) [A-Za-z0-9+/=]+( [^\n]*)?$",
        'a public key such as "ssh-ed25519 AAAA... name"',
    ),
]
PathText = Annotated[str, Meta(min_length=1, extra={"expected": "a path"})]


class DebianBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A root file system made of Debian packages.

    suite: Debian's name of the release.
    packages: what to install, beside Debian's essential packages.
    without_scripts: packages that are only unpacked, although what their installation
    scripts do is not known to the imager, which runs none; a system package may do it.
    """

    suite: Literal["trixie"]
    packages: tuple[DebianPackage, ...] = ()
    without_scripts: tuple[DebianPackage, ...] = ()


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the root file system starts from: exactly one of the three.

    debian: Debian packages.
    tar: a tar archive of a root file system (Yocto, Buildroot, ...); a path
        relative to the manifest's folder.
    directory: the same as a folder.
    """

    debian: DebianBase | None = None
    tar: PathText | None = None
    directory: PathText | None = None


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a new generation is tried.

    tries: boots that the loader grants it.
    deadline_seconds: from boot to boot-complete.target, health checks included.
    probation_seconds: after the commit, during which a crash loop still rolls back.
    probation_boots: boots within the probation that count as a crash loop.
    """

    tries: Tries = 3
    deadline_seconds: TrialDeadline = 300
    probation_seconds: Seconds = 600
    probation_boots: Tries = 3


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When unattended updates may be installed; may pass midnight.

    start: local time, HH:MM.
    end: local time, HH:MM.
    """

    start: TimeOfDay
    end: TimeOfDay


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What updates may fetch over a network; a stick is free.

    per_update: for one update; absent is without limit.
    per_month: in a calendar month, all updates together; absent is without limit.
    """

    per_update: Size | None = None
    per_month: Size | None = None


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where updates come from.

    source: address of the repository; absent means that it is named on each update.
    automatic: whether updates are installed unattended.
    window: when; absent means at any time.
    reboot: whether an unattended update also reboots into the new generation.
    budget: what it may cost.
    prefer: what an update spares where both cannot be had: bytes, as deltas do, or time. Without
        effect where there is a budget.
    """

    source: Url | None = None
    automatic: bool = False
    window: Window | None = None
    reboot: bool = True
    budget: Budget = Budget()
    prefer: device.Preference = "bytes"


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The root image.

    compression: of its erofs. none: fastest to read and to update. zstd: 40 % of the size,
        with deltas as small, which take more work on the device. lz4hc: fast to read, but
        what changed is fetched from the first change to the end of each file.
    """

    compression: Literal["none", "lz4hc", "zstd"] = "none"


class Units(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """systemd units of the image.

    enable: start at boot, beside those that packages enable.
    mask: never start.
    """

    enable: tuple[Unit, ...] = ()
    mask: tuple[Unit, ...] = ()


class FeaturePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What feature packages may do on this product.

    refuse: named capabilities (see capabilities.yaml) that no package is granted.
    """

    refuse: tuple[CapabilityName, ...] = ()


class Interface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What images of this system promise to feature packages.

    libraries: sonames that packages may link to; their symbol versions are read
        from the image.
    programs: interpreters and commands below /usr that packages may start.
    """

    libraries: tuple[Soname, ...] = ()
    programs: tuple[ProgramPath, ...] = ()


class Rescue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the rescue system may do, on boards that have one.

    network: whether it may fetch an image from update.source.
    state: what it does with a state file system that cannot be repaired. renew: makes a new,
        empty one; keep: leaves it to a person.
    login: public keys (lines of authorized_keys) that may log in as root over the network;
        without any, nobody can.
    packages: Debian packages in it, beside its own.
    """

    network: bool = True
    state: Literal["renew", "keep"] = "renew"
    login: tuple[PublicKey, ...] = ()
    packages: tuple[DebianPackage, ...] = ()


class SystemManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A product's operating system.

    system: name of the system and of its file.
    version: of the image; devices compare it with their own.
    summary: one line for people.
    base: what the root file system starts from.
    system_packages: packages merged into the image, in this order.
    boards: names of the boards it is made for; absent or empty means any.
    hostname: of the device.
    kernel_command_line: kernel arguments beside the board's.
    health: checks that a boot must pass, beside those of the packages.
    trial: how a new generation is tried.
    update: where updates come from.
    rescue: what the rescue system may do.
    image: the root image.
    units: systemd units to enable and to mask.
    packages: what feature packages may do.
    interface: what images promise to feature packages.
    kernel_modules: kept in the image for feature packages, beside those of the
        board and of the system packages.
    """

    system: Name
    version: Version
    summary: Summary
    base: Base
    hostname: HostName
    system_packages: tuple[Name, ...] = ()
    boards: tuple[Name, ...] = ()
    kernel_command_line: tuple[KernelArgument, ...] = ()
    health: tuple[HealthCheck, ...] = ()
    trial: Trial = Trial()
    update: Update = Update()
    rescue: Rescue = Rescue()
    image: Image = Image()
    units: Units = Units()
    packages: FeaturePolicy = FeaturePolicy()
    interface: Interface = Interface()
    kernel_modules: tuple[Module, ...] = ()


def system_problems(manifest: SystemManifest) -> Iterator[Problem]:
    """What is wrong with a system whose values have the right types."""
    base = manifest.base
    bases = ("debian", "tar", "directory")
    chosen = [name for name in bases if getattr(base, name) is not None]
    if len(chosen) != 1:
        yield Problem(
            ("base",),
            f"exactly one of {listed(bases)}",
            " and ".join(chosen) or "none of them",
            "keep one of them",
        )
    yield from repeated(manifest.system_packages, ("system_packages",))
    for number, unit in enumerate(manifest.units.mask):
        if unit in manifest.units.enable:
            yield Problem(
                ("units", "mask", number),
                "a unit that is not enabled too",
                f'"{unit}", which units.enable names',
                "a masked unit cannot start; remove it from one of the lists",
            )
    yield from unknown_capabilities(manifest.packages.refuse, ("packages", "refuse"))
    for key in ("libraries", "programs"):
        yield from repeated(getattr(manifest.interface, key), ("interface", key))
    yield from check_problems(manifest.health)
    yield from late_checks(manifest.health, manifest.trial)
    window = manifest.update.window
    if window and window.start == window.end:
        yield Problem(
            ("update", "window", "end"),
            "another time than start",
            f'"{window.end}"',
            "for updates at any time, remove window",
        )
    if manifest.update.automatic and not manifest.update.source:
        yield Problem(
            ("update", "source"),
            "an address when updates are automatic",
            "nothing",
            "add update.source, or set automatic: false",
        )


def late_checks(checks: tuple[HealthCheck, ...], trial: Trial) -> Iterator[Problem]:
    """Checks whose deadline lies after the trial's: they could never decide anything."""
    for number, check in enumerate(checks):
        if check.deadline_seconds > trial.deadline_seconds:
            yield Problem(
                ("health", number, "deadline_seconds"),
                f"at most {trial.deadline_seconds}, the trial's deadline",
                str(check.deadline_seconds),
                "lower it, or raise trial.deadline_seconds",
            )


def device_trial(trial: Trial) -> device.TrialPolicy:
    """The policy as device programs read it."""
    return device.TrialPolicy(
        tries=trial.tries,
        deadline_seconds=trial.deadline_seconds,
        probation_seconds=trial.probation_seconds,
        probation_boots=trial.probation_boots,
    )


def device_update(update: Update) -> device.UpdatePolicy:
    """The policy as device programs read it."""
    return device.UpdatePolicy(
        source=update.source or "",
        automatic=update.automatic,
        window_start=update.window.start if update.window else "",
        window_end=update.window.end if update.window else "",
        reboot=update.reboot,
        budget_update=update.budget.per_update or 0,
        budget_month=update.budget.per_month or 0,
        prefer=update.prefer,
    )


def device_rescue(rescue: Rescue, partition: str, record: str) -> device.RescuePolicy:
    """The policy as device programs read it. partition, record: labels on the board's disk."""
    return device.RescuePolicy(
        partition=partition,
        record=record,
        network=rescue.network,
        state=rescue.state,
        login=rescue.login,
    )
