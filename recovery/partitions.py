"""Partitions by their GPT label, from sysfs: works before udev has made any link."""

from __future__ import annotations

import os
from pathlib import Path

from recovery.errors import StateError


def find_partition(label: str, root: Path = Path("/")) -> Path:
    """The device node of the partition, e.g. /dev/vda4. Raises StateError when there is none."""
    directory = root / "sys/class/block"
    wanted = f"PARTNAME={label}"
    for name in sorted(os.listdir(directory)):  # noqa: PTH208 - names are all that is needed
        if wanted in _uevent(directory / name):
            return root / "dev" / name
    raise StateError(
        f"cannot find a partition labelled {label!r}",
        details=f"searched {directory}",
        resolution="check the partition table; labels are set in the board's manifest",
    )


def partition_number(label: str, root: Path = Path("/")) -> int:
    """Number of the partition in its table, from 1. Raises StateError when there is none."""
    node = find_partition(label, root)
    for line in _uevent(root / "sys/class/block" / node.name):
        if line.startswith("PARTN="):
            return int(line.removeprefix("PARTN="))
    raise StateError(f"cannot tell the number of the partition labelled {label!r}")


def backing_labels(major_minor: str, root: Path = Path("/")) -> tuple[str, ...]:
    """Labels of the partitions below a device-mapper device ("253:0"); empty when unknown."""
    slaves = root / "sys/dev/block" / major_minor / "slaves"
    if not slaves.is_dir():
        return ()
    labels = []
    for slave in sorted(slaves.iterdir()):
        for line in _uevent(slave):
            if line.startswith("PARTNAME="):
                labels.append(line.removeprefix("PARTNAME="))
    return tuple(labels)


def _uevent(block: Path) -> list[str]:
    try:
        return (block / "uevent").read_text().splitlines()
    except OSError:
        return []
