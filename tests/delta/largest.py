"""A program: applies a payload and prints by how many KiB the process grew meanwhile.

    largest.py BASE PAYLOAD SIZE

Run by test_frame_hostile.py as its own process, whose largest size is what counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from delta.frame import apply


class FileBase:
    """A base that is a file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file, size, offset)


def _largest() -> int:
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


payload = Path(sys.argv[2]).read_bytes()
into = bytearray(b"\1") * int(sys.argv[3])
before = _largest()
apply(payload, FileBase(sys.argv[1]), memoryview(into))
sys.stdout.write(f"{_largest() - before}\n")
