"""A product as the document that device programs read."""

from __future__ import annotations

import dataclasses

from manifests.catalogue import Product
from manifests.health import device_check
from manifests.system import device_rescue, device_trial, device_update
from recovery import device


def device_config(product: Product, built: int) -> device.DeviceConfig:
    """What goes into the image as device.json.

    built: seconds since the epoch (SOURCE_DATE_EPOCH of the image).
    """
    board, manifest = product.board, product.manifest
    environment = board.environment_partition
    # Where the boot control's record is in the environment, nothing else is mounted.
    files = board.boot_control in ("systemd-boot", "tryboot")
    # The Raspberry Pi's firmware tries once; records shall not promise more.
    trial = device_trial(manifest.trial)
    return device.DeviceConfig(
        system=manifest.system,
        version=manifest.version,
        board=board.board,
        architecture=board.architecture,
        built=built,
        boot_control=board.boot_control,
        boot_partition=board.boot_partition.label if files else "",
        environment=environment.label if environment else "",
        boot_slots=board.boot_slot_labels,
        state=board.state_partition.label,
        slots=board.slot_labels,
        watchdog=board.watchdog.timeout_seconds if board.watchdog else 0,
        health=tuple(device_check(check) for check in product.health),
        trial=dataclasses.replace(trial, tries=1) if board.boot_control == "tryboot" else trial,
        update=device_update(manifest.update),
        rescue=device_rescue(
            manifest.rescue,
            board.rescue_partition.label if board.rescue_partition else "",
            environment.label if environment else "",
        ),
        packages=tuple(
            device.SystemPackage(
                package.manifest.package, package.manifest.version, package.manifest.summary
            )
            for package in product.packages
        ),
    )
