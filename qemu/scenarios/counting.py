"""The counter of qemu/packages, as scenarios use it to see what becomes of state."""

from __future__ import annotations

from qemu.device import Device
from qemu.variants import service

MIGRATIONS = [
    {
        "service": "count",
        "source": source,
        "target": target,
        "command": ["/usr/bin/sh", "/usr/lib/counter/migrate", way],
    }
    for source, target, way in ((1, 2, "up"), (2, 1, "down"))
]


def schema(number: int, **more: str) -> list[dict[str, object]]:
    """The counter's services with another schema of their state."""
    return service("counter", environment={"COUNTER_SCHEMA": str(number), **more})


def count(device: Device) -> int:
    """The counter's value, by its own program."""
    return int(device.run_program("counter", "value").output.split()[-1])
