"""What became of a device whose disk a power cut left like this."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence.powercut.boots import ENTRIES, Device, End, Start
from evidence.powercut.disk import Disk
from evidence.powercut.fat import Bytes, Fat, FatError
from evidence.powercut.image import Image
from evidence.powercut.metadata import Repository, seen
from evidence.powercut.state import MEMORY, Files, StateReader
from evidence.powercut.table import find_table
from qemu.errors import MachineError
from recovery import starts
from recovery.device import DeviceConfig

# Without these nothing starts, or nothing ends a hang.
LOADER = (
    "EFI/BOOT/BOOTX64.EFI",
    "EFI/systemd/drivers/orbital-watchdogx64.efi",
    "loader/loader.conf",
)


@dataclass(frozen=True)
class Outcome:
    """Where the device comes to rest if all is well, and if no trial survives its start.

    In the second case the firmware starts rescue by itself, where that was asked for; in the
    first one a slot's initramfs finds the wish.
    problem: of the state file system; nothing was played then. untrusting: why the device can
    not refresh its metadata. seen: versions of root and timestamp that it remembers. reset: a
    person's wish for a factory reset was found.
    """

    well: End
    ill: End
    problem: str = ""
    untrusting: str = ""
    seen: tuple[int, int] = (0, 0)
    reset: bool = False


class Judge:
    """Judges the states of one disk; what it has seen before it does not do again."""

    def __init__(
        self,
        disk: Disk,
        images: dict[str, Image],
        config: DeviceConfig,
        reader: StateReader,
        repository: Repository | None = None,
    ) -> None:
        """The disk must be as it was when the recording began."""
        self._disk = disk
        self._images = images
        self._config = config
        self._reader = reader
        self._repository = repository
        esp = Fat(disk.partition("esp"))
        self._loader = {path: esp.read(path).copy() for path in LOADER}
        self._layout = disk.partitions
        self._sizes: dict[int, int] = {}
        self._outcomes: dict[object, Outcome] = {}
        self._starts: dict[int, Start] = {}
        self._files: dict[int, Files] = {}
        self._played: dict[object, Outcome] = {}
        self.counts: Counter[str] = Counter()
        self.repairs: list[str] = []
        self._scratch = tempfile.TemporaryDirectory(dir=MEMORY, prefix="powercut-device-")

    def close(self) -> None:
        """Removes what it used."""
        self._scratch.cleanup()

    def judge(self) -> Outcome:
        """The outcome for the disk as it is now."""
        key = self._disk.key()
        known = self._outcomes.get(key)
        if known is None:
            self.counts["distinct disks"] += 1
            known = self._outcomes[key] = self._judge()
        return known

    def _judge(self) -> Outcome:
        start = self.start()
        room = self._room()
        state_key = self._disk.keys["state"]
        files = self._files.get(state_key)
        if files is None:
            self.counts["distinct state file systems, journal replayed"] += 1
            files = self._files[state_key] = self._reader.read()
            if files.repairs:
                self.counts["distinct state file systems that e2fsck had to repair"] += 1
                self.repairs.append("; ".join(files.repairs))
        if not room:
            files = Files({}, problem="no partition table leads to it")
        elif files.size > room:
            files = Files({}, problem=f"{files.size} bytes in a partition of {room}")
        decided = (start, files)
        outcome = self._played.get(decided)
        if outcome is None:
            self.counts["distinct devices, booted in the model"] += 1
            outcome = self._played[decided] = self._play(start, files)
        return outcome

    def _play(self, start: Start, files: Files) -> Outcome:
        if files.problem:
            end = End("", "", 0, files.problem)
            return Outcome(end, end, files.problem)
        root = Path(self._scratch.name) / "device"
        well = Device(root, start, files, self._config).rest(trials_die=False)
        ill = Device(root, start, files, self._config).rest(trials_die=True, remembers=True)
        untrusting = ""
        if self._repository is not None:
            self.counts["metadata refreshed"] += 1
            untrusting = self._repository.problem(files.content, root)
        wished = bool(starts.parse(start.record).action)
        return Outcome(well, ill, untrusting=untrusting, seen=seen(files.content), reset=wished)

    def start(self) -> Start:
        """What firmware and loader find on the disk as it is now."""
        key = self._disk.keys["esp"]
        roots = (self._root("root-a"), self._root("root-b"))
        known = self._starts.get(key)
        if known is None:
            self.counts["distinct boot partitions"] += 1
            known = self._starts[key] = self._read_esp()
        return dataclasses.replace(
            known, roots=roots, record=self._record(), rescue=not self._disk.keys.get("rescue", 1)
        )

    def _record(self) -> bytes:
        """The sector with the start record."""
        if self._config.rescue.record not in self._layout:
            return b""
        content = self._disk.partition(self._config.rescue.record)
        return content[starts.OFFSET : starts.OFFSET + starts.SIZE].tobytes()

    def _room(self) -> int:
        """Bytes of the state partition, as the table has it; 0 when a partition is not found."""
        key = self._disk.keys[""]
        room = self._sizes.get(key)
        if room is None:
            try:
                found = {part.label: part for part in find_table(self._disk.bytes)}
            except MachineError:
                found = {}
            there = all(
                label in found and found[label].offset == part.offset
                for label, part in self._layout.items()
            )
            room = self._sizes[key] = found["state"].size if there else 0
        return room

    def _root(self, label: str) -> str:
        name = self._disk.holds(label)
        return self._images[name].root_hash if name else ""

    def _read_esp(self) -> Start:
        try:
            esp = Fat(self._disk.partition("esp"))
            loader = all(
                np.array_equal(_read(esp, path), content) for path, content in self._loader.items()
            )
            entries = tuple(
                sorted(
                    (found.name, _read(esp, f"{ENTRIES}/{found.name}").tobytes())
                    for found in esp.listing(ENTRIES)
                    if not found.directory and found.name.lower().endswith(".conf")
                )
            )
            artifacts = (self._artifact(esp, "a"), self._artifact(esp, "b"))
        except FatError:
            return Start(False, (), ("", ""), ("", ""))
        return Start(loader, entries, artifacts, ("", ""))

    def _artifact(self, esp: Fat, slot: str) -> str:
        """Root hash of the image whose whole boot artifact the slot has; "?" for part of one."""
        try:
            content = esp.read(f"EFI/orbital/{slot}.efi")
        except FatError:
            return "?" if _there(esp, f"{slot}.efi") else ""
        for image in self._images.values():
            if np.array_equal(content, image.artifact):
                return image.root_hash
        return "?"


def _read(esp: Fat, path: str) -> Bytes:
    """Its content; nothing when it cannot be read."""
    try:
        return esp.read(path)
    except FatError:
        return np.zeros(0, dtype=np.uint8)


def _there(esp: Fat, name: str) -> bool:
    try:
        return any(found.name.lower() == name for found in esp.listing("EFI/orbital"))
    except FatError:
        return False
