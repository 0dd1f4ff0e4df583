"""Updates on disks that fail: at any operation, once or from then on, full, or out of inodes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recovery import process
from recovery.errors import OrbitalError
from tests.hostile.judge import place
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage
from tests.updater.publisher import Publisher

# What changes a disk, or makes changes durable. Calls of Python's own files end in one of these.
CALLS = ("open", "pwrite", "fsync", "rename", "replace", "unlink", "mkdir", "ftruncate")
ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}


@dataclass
class Faults:
    """Fails operation number `at` (from 0) below root; with lasting, all from there on."""

    root: Path
    at: int | None
    error: int = errno.EIO
    lasting: bool = False
    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Puts itself between the program and the system."""
        for name in CALLS:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._concerns(name, *arguments):
                self._step()
            if name == "fsync":
                return None  # no power is cut here
            return real(*arguments, **named)

        return call

    def _concerns(self, name: str, target: Any, *rest: Any) -> bool:
        if name == "open" and not rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        if isinstance(target, int):
            target = Path(f"/proc/self/fd/{target}").readlink()
        return str(target).startswith(str(self.root))

    def _step(self) -> None:
        with self._lock:
            number, self.count = self.count, self.count + 1
        if self.at is not None and (number == self.at or (self.lasting and number > self.at)):
            raise OSError(self.error, os.strerror(self.error), "a failing disk")


class Bench:
    """A repository with version 2.0, and fresh devices."""

    def __init__(self, base: Path) -> None:
        """Publishes."""
        self.base = base
        self.publisher = Publisher(base / "publisher")
        self.image: BuiltImage = self.publisher.release("2.0")
        self._made = 0

    def device(self) -> FileDevice:
        """One that runs 1.0."""
        self._made += 1
        source = str(self.publisher.repository)
        return FileDevice(self.base / f"device-{self._made}", self.publisher.anchor, source=source)

    def operations(self) -> int:
        """How many an update takes that nothing disturbs."""
        device = self.device()
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(device.root, None)
            faults.install(patch)
            device.update()
        return faults.count

    def judge(self, at: int, error: int, *, lasting: bool) -> str:
        """An update whose operation fails: what is wrong, or ""."""
        device = self.device()
        try:
            with pytest.MonkeyPatch.context() as patch:
                Faults(device.root, at, error, lasting).install(patch)
                problem = self.attempt(device)
            return problem or self.afterwards(device)
        finally:
            shutil.rmtree(device.root)

    def attempt(self, device: FileDevice) -> str:
        """Updates; a plain error is as good as success."""
        try:
            device.update()
        except OrbitalError as error:
            if not error.brief.startswith("cannot "):
                return f"not a plain error: {error}"
        except Exception as error:
            return f"the updater crashes: {error!r}"
        return ""

    def afterwards(self, device: FileDevice) -> str:
        """The disk works again: the device runs 1.0 or tries 2.0, and gets there in the end."""
        try:
            if device.store.read() is None:
                return "the state record is lost"
            if device.boot_control.active_slot() != "b":
                device.assert_unaffected()
                device.update()
            device.assert_on_trial(self.image.root, self.image.boot, "2.0")
        except (OrbitalError, AssertionError) as error:
            return f"the next update fails: {error!r}"
        return ""


@contextmanager
def small_disk(directory: Path, image: Path, *, inodes: int = 128) -> Iterator[None]:
    """An ext4 of 2 MiB on the directory, with what lay there."""
    with image.open("wb") as file:
        file.truncate(2 << 20)
    process.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", "-N", str(inodes), image])
    kept = directory.with_name(f"{directory.name}-kept")
    directory.rename(kept)
    directory.mkdir()
    process.run(["mount", "-o", "loop", image, directory])
    try:
        shutil.copytree(kept, directory, dirs_exist_ok=True)
        yield
    finally:
        process.run(["umount", "-l", directory])


def fill(directory: Path, *, left: int, inodes: bool) -> None:
    """Takes all but `left` blocks of 1 KiB (or inodes) of the disk."""
    taken = directory / "filler"
    taken.mkdir()
    if inodes:
        for number in range(os.statvfs(directory).f_favail - left):
            (taken / str(number)).touch()
        return
    room = os.statvfs(directory)
    size = room.f_bavail * room.f_frsize - left * 1024
    with contextlib.suppress(OSError), (taken / "file").open("wb") as file:
        file.write(bytes(max(0, size)))


def judge_full(bench: Bench, left: int, *, inodes: bool) -> str:
    """An update whose state partition has so little room: what is wrong, or ""."""
    device = bench.device()
    state = device.root / "state"
    with small_disk(state, bench.base / "state.img"):
        fill(state, left=left, inodes=inodes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _fd: None)
            problem = bench.attempt(device)
        shutil.rmtree(state / "filler")
        return problem or bench.afterwards(device)


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench in memory."""
    base = place()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _fd: None)
            yield Bench(base)
    finally:
        shutil.rmtree(base, ignore_errors=True)
