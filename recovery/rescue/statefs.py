"""The state file system: checked, repaired, mounted on /state, or made anew.

Like early boot's repair (`recovery.early.mount_state`), with one means more: where
nothing helps and the policy is `renew`, an empty file system. A device with an empty
state starts as at its first boot: what runs is committed, /etc and /var are the
image's, no packages; and it knows nothing of the metadata that it has seen.
"""

from __future__ import annotations

import os
from pathlib import Path

from recovery import durable, mounts, process, superblock
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError, StateError, ToolError
from recovery.partitions import find_partition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from recovery.rescue.decide import Condition

MOUNT_POINT = "state"
CHECK_SECONDS = 3600
# Also the factory's (imager/disk.py). verity is for signed packages. The defaults for a file
# system that is as small as this one is at first (1 KiB blocks) do not suit the disk that it
# grows to.
MKFS_OPTIONS = ("-q", "-F", "-L", "state", "-O", "verity", "-T", "default", "-b", "4096")
# e2fsck(8): a sum of these. 4 and above: errors are left, or it could not work.
_CORRECTED = 3
_MAGIC = b"\x53\xef"
_MAGIC_AT = 1024 + 56


class StateFileSystem:
    """Of this device; the partition is found by its label each time."""

    def __init__(self, config: DeviceConfig, root: Path = Path("/")) -> None:
        """root: where /sys, /dev and /state are found."""
        self._config = config
        self._root = root
        self.directory = root / MOUNT_POINT

    @property
    def mounted(self) -> bool:
        """Whether it is mounted here."""
        return os.path.ismount(self.directory)

    def device(self) -> Path:
        """Its partition. Raises StateError when there is none."""
        return find_partition(self._config.state, self._root)

    def condition(self, say: Callable[[str], None]) -> Condition:
        """What it is like; says what is wrong. Changes nothing; mounts nothing."""
        if self.mounted:
            return "whole"
        try:
            device = self.device()
        except (OrbitalError, OSError):
            say(f"state: there is no partition {self._config.state!r}")
            return "lost"
        try:
            check = process.run(["e2fsck", "-n", device], timeout=CHECK_SECONDS, check=False)
        except ToolError as error:
            say(f"state: {error.brief}")
            return "damaged"
        if check.returncode == 0:
            return "whole"
        say("state: the file system has to be checked" if has_magic(device) else "state: no ext4")
        return "damaged"

    def mount(self) -> None:
        """Mounts it, if it is not. Raises StateError."""
        if self.mounted:
            return
        try:
            self.directory.mkdir(exist_ok=True)
            mounts.mount(self.device(), self.directory, "ext4", mounts.NOSUID | mounts.NODEV)
        except OSError as error:
            raise StateError(
                f"cannot mount the state partition: {error.strerror}",
                resolution="repair it: orbital rescue repair",
            ) from error

    def unmount(self) -> None:
        """Unmounts it, if it is mounted. Raises OSError."""
        if self.mounted:
            durable.sync_filesystem(self.directory)
            mounts.unmount(self.directory)

    def repair(self, say: Callable[[str], None]) -> None:
        """Repairs and mounts it. Raises StateError when it cannot be used after all.

        e2fsck -p repairs what is safe, -y everything. A power cut in either, or in
        making it anew, leaves something that the next visit does again.
        """
        self.unmount()
        device = self.device()
        try:
            if superblock.reseal(device):
                say("state: the superblock was torn; its checksum is right again")
        except OSError as error:
            say(f"state: cannot read {device}: {error.strerror}")
        for mode in ("-p", "-y"):
            check = process.run(["e2fsck", "-f", mode, device], timeout=CHECK_SECONDS, check=False)
            if check.returncode <= _CORRECTED:
                if check.returncode:
                    say(f"state: e2fsck {mode} has repaired the file system")
                try:
                    self.mount()
                    return
                except StateError as error:
                    say(f"state: {error.brief}")
        if self._config.rescue.state != "renew":
            raise StateError(
                "cannot repair the state file system, and may not make a new one",
                details="rescue.state in the system manifest is keep",
                resolution="save what can be saved, then: orbital rescue reset --erase",
            )
        self.renew(say)

    def renew(self, say: Callable[[str], None]) -> None:
        """Makes an empty file system and mounts it. Raises ToolError, StateError."""
        self.unmount()
        process.run(["mkfs.ext4", *MKFS_OPTIONS, self.device()], timeout=CHECK_SECONDS)
        say("state: a new, empty file system has been made")
        self.mount()


def has_magic(device: Path) -> bool:
    """Whether an ext4 superblock is where it should be: damage, not noise."""
    try:
        with device.open("rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(2) == _MAGIC
    except OSError:
        return False
