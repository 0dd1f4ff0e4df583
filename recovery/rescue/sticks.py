"""Sticks: repositories on disks that are not the device's own.

Every partition without one of the device's labels is mounted read-only, and kept
mounted while the rescue system runs. A repository is a directory with
metadata/timestamp.json, at the top or one level below.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from recovery import mounts
from recovery.device import DeviceConfig

DIRECTORY = "run/orbital/stick"
KINDS = ("vfat", "exfat", "ext4", "iso9660", "erofs")
_TIMESTAMP = "metadata/timestamp.json"
# Kinds of block devices that no stick is.
_NOT = ("dm-", "loop", "ram", "zram", "nbd", "mtdblock")


def repositories(config: DeviceConfig, root: Path = Path("/")) -> tuple[Path, ...]:
    """The repositories on all sticks that are plugged in."""
    found: list[Path] = []
    for device in candidates(config, root):
        directory = root / DIRECTORY / device.name
        if mounted(device, directory):
            found += repositories_in(directory)
    return tuple(found)


def repositories_in(directory: Path) -> list[Path]:
    """Directories that hold a repository: this one, or some just below it."""
    if (directory / _TIMESTAMP).is_file():
        return [directory]
    with suppress(OSError):
        return [path for path in sorted(directory.iterdir()) if (path / _TIMESTAMP).is_file()]
    return []


def candidates(config: DeviceConfig, root: Path = Path("/")) -> tuple[Path, ...]:
    """Device nodes of what may be a stick: partitions that are not ours, disks without any."""
    ours = {
        *config.slots.values(),
        *config.boot_slots.values(),
        config.state,
        config.boot_partition,
        config.environment,
        config.rescue.partition,
        config.rescue.record,
        "firmware",
    }
    blocks = root / "sys/class/block"
    found = []
    with suppress(OSError):
        names = sorted(os.listdir(blocks))  # noqa: PTH208 - names are all that is needed
        for name in names:
            if name.startswith(_NOT):
                continue
            words = dict(
                line.partition("=")[::2] for line in _lines(blocks / name / "uevent") if line
            )
            parts = [other for other in names if other != name and other.startswith(name)]
            if words.get("PARTNAME") in ours or (words.get("DEVTYPE") == "disk" and parts):
                continue
            found.append(root / "dev" / name)
    return tuple(found)


def mounted(device: Path, directory: Path) -> bool:
    """Whether the device is mounted on the directory, read-only, now or already."""
    if os.path.ismount(directory):
        with suppress(OSError):
            if any(directory.iterdir()):
                return True
        # Pulled out, perhaps replaced.
        with suppress(OSError):
            mounts.unmount(directory)
    flags = mounts.READ_ONLY | mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
    for kind in KINDS:
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            mounts.mount(device, directory, kind, flags)
            return True
    return False


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
