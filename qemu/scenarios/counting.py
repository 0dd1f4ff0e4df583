"""The counter of qemu/packages, as scenarios use it to see what becomes of state."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from qemu.device import Device
from qemu.variants import package_folder, service

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


def ballast(directory: Path, version: str) -> Path:
    """The counter's folder with a file that makes it large; little of it differs by version."""
    folder = directory / version
    shutil.copytree(package_folder("counter"), folder)
    data = bytearray(hashlib.shake_128(b"ballast").digest(2 << 20))
    data[500_000:500_032] = hashlib.sha256(version.encode()).digest()
    (folder / "tree/usr/lib/counter/ballast").write_bytes(data)
    return folder


def count(device: Device) -> int:
    """The counter's value, by its own program."""
    return int(device.run_program("counter", "value").output.split()[-1])
