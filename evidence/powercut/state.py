"""The state file system of a crashed disk, as Linux brings it back: mounted, its journal replayed.

A loop device holds the state partition in memory. For each crash state the blocks that differ are
written to it, it is mounted read-only (the kernel replays the journal then, too; read-only because
the host's kernel need not know all features), what the device decides by is read, and what the
replay has written is taken back. Needs root.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import os
import re
import struct
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from evidence.powercut.disk import BLOCK, Disk
from qemu.errors import MachineError
from recovery import process, superblock
from recovery.packages.digest import file_digest

MEMORY = "/dev/shm"
# Looked at by recovery when it decides; everything else only by name.
_READ = ("state.json", "history.jsonl", "install.json")
_FOLDERS = ("generations", "tuf")
OWNED = "owner"
"""Name of what an owner changes in the operation that shall undo it: in a layer of /etc, or in a
package's state."""
_OWNED = (f"etc/*/upper/{OWNED}", f"layers/*/*/state/*/{OWNED}")
_LAYERS = ("etc/*/upper", "layers/*/*")
_LOOP_SET_FD, _LOOP_SET_STATUS64, _LOOP_CTL_GET_FREE = 0x4C00, 0x4C04, 0x4C82
# struct loop_info64 with the flag "autoclear": gone with its last user, also when that is killed.
_AUTOCLEAR = struct.pack("<52xI176x", 4)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_JOURNAL_MAGIC = np.uint32(0xC03B3998)
_DESCRIPTOR, _SUPER = 1, 4
_TAG_LAST, _TAG_SAME_UUID = 8, 2
_WHOLE_CHECK = 500
# Super block of ext4: number of blocks. Flags of an inode: under fs-verity.
_BLOCKS_COUNT = 1024 + 4
_VERITY = 0x100000


@dataclass(frozen=True)
class Files:
    """What is in /orbital of the state: content by path, and folders whose content is not read.

    images: of the store, by digest, those that are whole. size: bytes of the file system.
    problem: why nothing of it can be used, or "". repairs: what was tried before it could be.
    """

    content: Mapping[str, bytes]
    folders: frozenset[str] = frozenset()
    problem: str = ""
    repairs: tuple[str, ...] = ()
    images: frozenset[str] = frozenset()
    size: int = 0

    def __hash__(self) -> int:
        return hash((frozenset(self.content.items()), self.folders, self.problem, self.images))


class StateReader:
    """Reads the state of crashed disks, one after the other. Use as a context manager."""

    def __init__(self, disk: Disk, label: str = "state") -> None:
        """Takes a free loop device; the disk must be as it was when the recording began."""
        self._disk = disk
        self._start = disk.partitions[label].offset // BLOCK
        self._count = disk.partitions[label].size // BLOCK
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._stack = ExitStack()
        directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY, prefix="powercut-"))
        )
        self._mount = directory / "mount"
        self._mount.mkdir()
        self._content = disk.partition(label)
        self._loop, self._device = self._attach(self._backing(directory))
        # Keys (see Disk) of the blocks that the device holds and the base does not.
        self._holds: dict[int, int] = self._wanted()
        self._journal = self._find_journal(self._content)
        self.mounted = 0

    def _backing(self, directory: Path) -> Path:
        """A file with the state as it is on the disk now."""
        backing = directory / "state"
        backing.unlink(missing_ok=True)
        with backing.open("wb") as out:
            out.truncate(self._content.size)
            for at in range(0, self._content.size, 1 << 20):
                piece = self._content[at : at + (1 << 20)]
                if piece.any():
                    out.seek(at)
                    out.write(piece.tobytes())
        return backing

    def __enter__(self) -> StateReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the loop device back."""
        os.close(self._loop)
        self._stack.close()

    def read(self) -> Files:
        """What the state of the disk, as it is now, holds after its journal was replayed.

        If it cannot be mounted it is repaired, as early boot does (recovery.early, mount_state).
        """
        files = self._read()
        if files.problem or files.repairs:
            # Judged again with every byte of the device written anew: only the disk counts,
            # nothing that an earlier state may have left.
            for number in self._different():
                self._holds[number] = -1
            files = self._read()
        return files

    def _read(self) -> Files:
        self._bring()
        self.mounted += 1
        problems = []
        for repair in ("", "-p", "-y"):
            if repair:
                superblock.reseal(Path(self._device))
                command = ["e2fsck", "-f", repair, self._device]
                code = process.run(command, check=False, timeout=300).returncode
                problems.append(f"e2fsck {repair} ended with code {code}")
            problem = self._try()
            if not problem:
                break
            problems.append(problem)
        else:
            self._take_back(everywhere=True)
            return Files({}, problem="; ".join(problems))
        try:
            files = _gather(self._mount / "orbital")
            images = self._whole_images()
        except OSError as error:
            files, images = Files({}, problem=f"cannot be read: {error}"), frozenset()
        finally:
            if self._libc.umount2(str(self._mount).encode(), 0):
                raise MachineError(f"cannot unmount {self._mount}")
            size = int.from_bytes(os.pread(self._loop, 4, _BLOCKS_COUNT), "little") * BLOCK
            if self._released():
                self._take_back(everywhere=bool(problems))
            else:
                self._renew()
        return dataclasses.replace(files, repairs=tuple(problems), images=images, size=size)

    def _whole_images(self) -> frozenset[str]:
        """Digests of the store's images that are what they are named by, and under fs-verity.

        Read by debugfs: a kernel without fs-verity does not open them.
        """
        whole = set()
        store = self._mount / "orbital/store"
        names = [path.name for path in store.iterdir()] if store.is_dir() else []
        for name in names:
            path, copy = f"/orbital/store/{name}", self._mount.with_name("image")
            stat = process.run(["debugfs", "-R", f"stat {path}", self._device]).stdout
            process.run(["debugfs", "-R", f"dump {path} {copy}", self._device])
            flags = re.search(r"Flags: 0x([0-9a-f]+)", stat)
            verity = flags is not None and int(flags[1], 16) & _VERITY
            if verity and copy.exists() and file_digest(copy) == name:
                whole.add(name)
            copy.unlink(missing_ok=True)
        return frozenset(whole)

    def _try(self) -> str:
        """Mounts it; why that cannot be, or ""."""
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        where = str(self._mount).encode()
        if self._libc.mount(self._device.encode(), where, b"ext4", flags, b""):
            return f"cannot be mounted: {os.strerror(ctypes.get_errno())}"
        return ""

    def _released(self) -> bool:
        """Whether nobody has the device mounted any more.

        A program that made a mount namespace of its own meanwhile has a copy of the mount in it:
        the next mount would show that file system, with what the kernel remembers of it.
        """
        try:
            os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _renew(self) -> None:
        """Goes on with another device; this one is gone with its last user."""
        os.close(self._loop)
        self._loop, self._device = self._attach(self._backing(self._mount.parent))
        self._holds = self._wanted()

    def _bring(self) -> None:
        """Writes the blocks in which the device differs from the disk."""
        wanted = self._wanted()
        different = {n for n, key in wanted.items() if self._holds.get(n, 0) != key}
        different |= {n for n in self._holds if n not in wanted}
        for number in sorted(different):
            content = self._disk.bytes[number * BLOCK : (number + 1) * BLOCK]
            os.pwrite(self._loop, content.tobytes(), (number - self._start) * BLOCK)
        self._holds = wanted
        os.fsync(self._loop)

    def _wanted(self) -> dict[int, int]:
        """Keys of the blocks of the state that differ from the base."""
        end = self._start + self._count
        return {n: key for n, key in self._disk.blocks.items() if self._start <= n < end}

    def _take_back(self, *, everywhere: bool = False) -> None:
        """Finds what the replay has written, so that the next state does not start from it.

        everywhere: a repair may have written any block.
        """
        suspects = self._suspects()
        if everywhere:
            suspects = sorted({*suspects, *self._different()})
        elif self.mounted % _WHOLE_CHECK == 1 and (others := self._different() - set(suspects)):
            raise MachineError(
                f"cannot judge the state: its mount wrote blocks {sorted(others)[:9]},"
                " which its journal does not name"
            )
        for number in suspects:
            content = self._disk.bytes[number * BLOCK : (number + 1) * BLOCK].tobytes()
            if os.pread(self._loop, BLOCK, (number - self._start) * BLOCK) != content:
                self._holds[number] = -1

    def _suspects(self) -> list[int]:
        """Every block that the journal names in any transaction, old ones included."""
        first, count = self._journal
        content = self._disk.bytes[first * BLOCK : (first + count) * BLOCK]
        heads = content.view(">u4").reshape(count, BLOCK // 4)
        found = np.flatnonzero((heads[:, 0] == _JOURNAL_MAGIC) & (heads[:, 1] == _DESCRIPTOR))
        numbers = {self._start, first}
        for index in found:
            block = content[index * BLOCK : (index + 1) * BLOCK].tobytes()
            at = 12
            while at + 16 <= BLOCK - 4:
                low, flags, high = (
                    int.from_bytes(block[n : n + 4], "big") for n in (at, at + 4, at + 8)
                )
                number = high << 32 | low
                if number < self._count:
                    numbers.add(self._start + number)
                at += 16 if flags & _TAG_SAME_UUID else 32
                if flags & _TAG_LAST:
                    break
        return sorted(numbers)

    def _different(self) -> set[int]:
        """Every block in which the device differs from the disk."""
        found: set[int] = set()
        step = 256
        for first in range(0, self._count, step):
            count = min(step, self._count - first)
            start = (self._start + first) * BLOCK
            wanted = self._disk.bytes[start : start + count * BLOCK]
            there = np.frombuffer(
                os.pread(self._loop, count * BLOCK, first * BLOCK), dtype=np.uint8
            )
            if not np.array_equal(wanted, there):
                wrong = np.flatnonzero((wanted != there).reshape(-1, BLOCK).any(axis=1))
                found.update(self._start + first + int(number) for number in wrong)
        return found

    def _find_journal(self, content: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> tuple[int, int]:
        """First block and number of blocks of the journal, which lies in one piece."""
        heads = content[: self._count * BLOCK].view(">u4").reshape(-1, BLOCK // 4)
        for index in np.flatnonzero((heads[:, 0] == _JOURNAL_MAGIC) & (heads[:, 1] == _SUPER)):
            if int(heads[index, 3]) == BLOCK:
                return self._start + int(index), int(heads[index, 4])
        raise MachineError("cannot find the journal of the state file system")

    def _attach(self, backing: Path) -> tuple[int, str]:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(20):
                device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
                with backing.open("r+b") as file:
                    try:
                        fcntl.ioctl(loop, _LOOP_SET_FD, file.fileno())
                        fcntl.ioctl(loop, _LOOP_SET_STATUS64, _AUTOCLEAR)
                        return loop, device
                    except OSError:
                        os.close(loop)  # Somebody else was faster.
        finally:
            os.close(control)
        raise MachineError("cannot get a loop device")


def _gather(root: Path) -> Files:
    """The files below a mounted state's /orbital. Raises OSError when one cannot be read."""
    paths = [root / name for name in _READ if (root / name).exists()]
    paths += [path for folder in _FOLDERS for path in (root / folder).glob("*.json")]
    paths += [path for pattern in _OWNED for path in root.glob(pattern)]
    content = {str(path.relative_to(root)): path.read_bytes() for path in paths}
    folders = {str(path.relative_to(root)) for pattern in _LAYERS for path in root.glob(pattern)}
    return Files(content, frozenset(folders))
