"""The boot control environment: what firmware and loader read before any slot.

On UEFI and the Raspberry Pi a FAT with the loader's files and its record; elsewhere
the loader in a partition `firmware` and the record in a partition `environment`.
The rescue system carries copies of what the factory wrote there:

    /usr/lib/orbital/loader/EFI/BOOT/BOOTX64.EFI …   as they lie on the FAT
    /usr/lib/orbital/loader/firmware.img             a whole partition `firmware`

Repairs, in order: the FAT's own structure (fsck.vfat, a new FAT when that does not
help), the loader's files, the record. Each can be cut and done again: the loader
that is being written is one that did not work.

The boot artifacts are not among the copies. A FAT that had to be made anew has none,
so no slot is whole until they have been installed again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from recovery import durable, mounts, process
from recovery.artifacts.content import Artifact, DamageError
from recovery.artifacts.fat import same_files
from recovery.bootcontrol.open import BOOT_DIRECTORY, open_in_rescue
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError, ToolError
from recovery.fat import sectors_per_cluster
from recovery.partitions import find_partition
from recovery.slots import SLOTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recovery.rescue.decide import Condition

LOADER = "usr/lib/orbital/loader"
FIRMWARE_IMAGE = "firmware.img"
FIRMWARE = "firmware"
_BLOCK = 4096
# Records, which firmware and device write: never put back from a copy.
_RECORDS = ("autoboot.txt",)
# dosfstools: 1 is "errors were found", and with -a "and corrected".
_FSCK_ERRORS = 1


class BootEnvironment:
    """Of this device."""

    def __init__(self, config: DeviceConfig, root: Path = Path("/")) -> None:
        """root: with another one than "/", the boot directory is a plain directory (tests)."""
        self._config = config
        self._root = root
        self._loader = root / LOADER

    def condition(self, say: Callable[[str], None]) -> Condition:
        """What it is like; says what is wrong. Changes nothing."""
        try:
            problems = self._problems()
        except _LostError as error:
            say(str(error))
            return "lost"
        for problem in problems:
            say(f"boot control: {problem}")
        return "damaged" if problems else "whole"

    def repair(self, say: Callable[[str], None]) -> None:
        """Repairs what can be repaired. Raises OrbitalError or OSError where it ends."""
        if self._config.boot_partition:
            device = self._boot_device()
            self._unmount()
            if device is not None:
                repair_fat(device, self._config.boot_partition, say)
                try:
                    self._mount()
                except OrbitalError:
                    make_fat(device, self._config.boot_partition, say)
            directory = self._mount()
            put_back(self._loader, directory, say)
        else:
            image = self._loader / FIRMWARE_IMAGE
            if image.is_file():
                partition = find_partition(FIRMWARE, self._root)
                if self._firmware_problem(image, partition):
                    restore(image, partition, say)
        open_in_rescue(self._config, self._root).tidy()

    def _problems(self) -> list[str]:
        found: list[str] = []
        if self._config.boot_partition:
            device = self._boot_device()
            if device is not None:
                self._unmount()
                found += fat_problems(device)
            try:
                directory = self._mount()
            except OrbitalError as error:
                return [*found, error.brief]
            found += [f"{name} is not the factory's" for name in differing(self._loader, directory)]
        else:
            image = self._loader / FIRMWARE_IMAGE
            if image.is_file():
                problem = self._firmware_problem(image, self._partition(FIRMWARE))
                if problem:
                    found.append(problem)
            self._partition(self._config.environment)
        return found + self._record_problems()

    def _firmware_problem(self, image: Path, partition: Path) -> str:
        """What is wrong with the partition that firmware reads; empty when nothing is."""
        if self._config.boot_control == "u-boot":
            # A file system that U-Boot writes, too.
            problem = file_problem(image, partition)
            return f"partition {FIRMWARE}: {problem}" if problem else ""
        count = sum(1 for _ in changed(image, partition))
        return f"{count} blocks of partition {FIRMWARE} are not the factory's" if count else ""

    def _record_problems(self) -> list[str]:
        try:
            control = open_in_rescue(self._config, self._root)
            states = [control.slot_state(slot) for slot in SLOTS]
        except OrbitalError as error:
            return [error.brief]
        # The word of `recovery.slots` for a lost record.
        unknown = [s for s in states if s.bootable and not s.successful and s.tries_left is None]
        return ["the loader's record is lost"] if unknown else []

    def _partition(self, label: str) -> Path:
        try:
            return find_partition(label, self._root)
        except (OrbitalError, OSError) as error:
            raise _LostError(f"boot control: there is no partition {label!r}") from error

    def _boot_device(self) -> Path | None:
        """The FAT's device; None where the boot directory is a plain one."""
        if self._root != Path("/"):
            return None
        return self._partition(self._config.boot_partition)

    def _mount(self) -> Path:
        from recovery.bootcontrol.open import boot_partition

        return boot_partition(self._config, self._root)

    def _unmount(self) -> None:
        directory = self._root / BOOT_DIRECTORY
        if os.path.ismount(directory):
            os.sync()
            mounts.unmount(directory)


class _LostError(Exception):
    """The partition is not there."""


def fat_problems(device: Path) -> list[str]:
    """What fsck.vfat finds; nothing is changed."""
    try:
        done = process.run(["fsck.vfat", "-n", device], timeout=300, check=False)
    except ToolError as error:
        return [error.brief]
    return ["its FAT has errors"] if done.returncode else []


def repair_fat(device: Path, label: str, say: Callable[[str], None]) -> None:
    """Repairs the FAT's structure; makes a new one where that is not possible. Raises ToolError.

    Power cut: it is checked again at the next visit.
    """
    if not fat_problems(device):
        return
    done = process.run(["fsck.vfat", "-a", device], timeout=300, check=False)
    if done.returncode <= _FSCK_ERRORS and not fat_problems(device):
        say("boot control: the FAT has been repaired")
        return
    make_fat(device, label, say)


def make_fat(device: Path, label: str, say: Callable[[str], None]) -> None:
    """Makes a new, empty FAT, with clusters as the factory's. Raises ToolError, OSError."""
    with device.open("rb") as file:
        clusters = sectors_per_cluster(file.seek(0, os.SEEK_END))
    name = label.upper()[:11]
    process.run(["mkfs.vfat", "-F", "32", "-s", f"{clusters}", "-n", name, device], timeout=300)
    say("boot control: the FAT could not be repaired and was made again, empty")


def differing(loader: Path, directory: Path) -> list[str]:
    """Paths of the loader's files that are not in the directory as they should be."""
    return [
        path.relative_to(loader).as_posix()
        for path in _files(loader)
        if not _same(path, directory / path.relative_to(loader))
    ]


def put_back(loader: Path, directory: Path, say: Callable[[str], None]) -> None:
    """Writes the loader's files that differ. Raises OSError.

    Each is whole or not there under its name; a cut in between leaves some for
    the next visit.
    """
    # What fsck.vfat made of lost clusters would fill the FAT.
    for path in directory.glob("FSCK*.REC"):
        durable.remove_file(path)
    for name in differing(loader, directory):
        target = directory / name
        if target.is_dir():
            raise NotADirectoryError(f"{target} is a directory")
        durable.make_directory(target.parent)
        durable.replace_file(target, (loader / name).read_bytes())
        say(f"boot control: {name} has been put back")
    for folder in {path.parent for path in _files(loader)}:
        durable.remove_leftovers(directory / folder.relative_to(loader))


def restore(image: Path, partition: Path, say: Callable[[str], None]) -> None:
    """Writes the blocks of the partition that differ from the image. Raises OSError.

    Where the firmware keeps files of its own there, these are gone; it makes them again.
    """
    count = 0
    for offset, block in changed(image, partition):
        durable.overwrite(partition, offset, block)
        count += 1
    if count:
        say(f"boot control: {count} blocks of partition {FIRMWARE} have been put back")


def file_problem(image: Path, partition: Path) -> str:
    """Which of the image's files the partition does not have as it should; empty: it has all.

    A partition that cannot be read has a problem. Raises OSError for the image.
    """
    wanted = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.open(partition, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return same_files(_opened(wanted), _opened(found))
        except (OSError, DamageError) as error:
            return f"it {error}" if isinstance(error, DamageError) else "it cannot be read"
        finally:
            os.close(found)
    finally:
        os.close(wanted)


def _opened(fd: int) -> Artifact:
    size = os.lseek(fd, 0, os.SEEK_END)
    return Artifact(lambda offset, length: os.pread(fd, length, offset), size)


def changed(image: Path, partition: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and wanted content of each block that differs; behind the image nothing is wanted.

    A block that cannot be read differs: writing it makes the disk replace the sector.
    """
    fd = os.open(partition, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with image.open("rb") as wanted:
            offset = 0
            while block := wanted.read(_BLOCK):
                present = b""
                with suppress(OSError):
                    present = os.pread(fd, len(block), offset)
                if present != block:
                    yield offset, block
                offset += len(block)
    finally:
        os.close(fd)


def _files(loader: Path) -> list[Path]:
    return [
        path
        for path in sorted(loader.rglob("*"))
        if path.is_file() and path.name not in (FIRMWARE_IMAGE, *_RECORDS)
    ]


def _same(wanted: Path, present: Path) -> bool:
    try:
        return present.stat().st_size == wanted.stat().st_size and (
            present.read_bytes() == wanted.read_bytes()
        )
    except OSError:
        return False
