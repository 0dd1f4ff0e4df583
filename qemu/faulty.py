"""Bad releases, made the way a device maker would make them by mistake.

A fault is a change of manifests: a kernel argument, a package, a health check.
The image is then built, signed and published like any other, and no test code
reaches a good image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from manifests.catalogue import Product, load_system_package
from manifests.health import ExecCheck, HealthCheck

PACKAGES = Path(__file__).parent / "bad_packages"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a release.

    summary: for people. kernel_command_line: arguments to add. packages: folders
    below qemu/bad_packages to add. health: checks to add. deadline_seconds: of
    the trial, where the product's own would only make the fault slow to watch.
    """

    summary: str
    kernel_command_line: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    health: tuple[HealthCheck, ...] = ()
    deadline_seconds: int | None = None


FAULTS: Mapping[str, Fault] = {
    "panic": Fault(
        "the kernel finds no init in the initramfs and panics",
        kernel_command_line=("rdinit=/missing",),
    ),
    "hang-before-watchdog-driver": Fault(
        "the initramfs waits for input before any driver is loaded",
        kernel_command_line=("rdinit=/bin/sh",),
    ),
    "hang-initramfs": Fault("an initramfs hook never returns", packages=("fault-hang-initramfs",)),
    "hang-userspace": Fault(
        "a service never starts", packages=("fault-hang-userspace",), deadline_seconds=100
    ),
    "init-dies": Fault("PID 1 crashes", packages=("fault-init-dies",)),
    "unhealthy": Fault(
        "a health check fails",
        health=(ExecCheck(name="uplink", deadline_seconds=5, command=("/usr/bin/false",)),),
    ),
    "health-hangs": Fault(
        "a health check never answers",
        health=(
            ExecCheck(name="endless", deadline_seconds=8, command=("/usr/bin/sleep", "infinity")),
        ),
    ),
    "crash-loop": Fault("a service crash-loops after the commit", packages=("fault-crash-loop",)),
}


def version_of(product: Product, version: str) -> Product:
    """The same product as another version."""
    return replace(product, manifest=msgspec.structs.replace(product.manifest, version=version))


def faulty(product: Product, name: str, version: str) -> Product:
    """The product as a bad release with the named fault."""
    fault = FAULTS[name]
    trial = product.manifest.trial
    if fault.deadline_seconds is not None:
        trial = msgspec.structs.replace(trial, deadline_seconds=fault.deadline_seconds)
    manifest = msgspec.structs.replace(
        product.manifest,
        version=version,
        kernel_command_line=product.manifest.kernel_command_line + fault.kernel_command_line,
        health=product.manifest.health + fault.health,
        trial=trial,
        system_packages=product.manifest.system_packages + fault.packages,
    )
    files = tuple(PACKAGES / folder / "package.yaml" for folder in fault.packages)
    return replace(
        product,
        manifest=manifest,
        packages=product.packages + tuple(load_system_package(path) for path in files),
        files=product.files + files,
    )


def patient(product: Product, deadline_seconds: int = 900) -> Product:
    """The same product for machines that are slow to emulate: merely slow is not broken."""
    trial = msgspec.structs.replace(product.manifest.trial, deadline_seconds=deadline_seconds)
    return replace(product, manifest=msgspec.structs.replace(product.manifest, trial=trial))
