"""Memory of a long run is given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery import process
from updater.medium import Medium, buffer, forget

SIZE = 32 << 20


def anonymous() -> int:
    """Bytes of memory of no file that this process holds."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def test_a_forgotten_buffer_takes_no_memory_and_is_zeros() -> None:
    before = anonymous()
    memory = buffer(SIZE)
    memory[:] = b"\1" * SIZE
    assert anonymous() - before >= SIZE
    forget(memory)
    assert anonymous() - before < SIZE // 8
    assert memory[:4096] == bytes(4096)
    memory[-1] = 7
    assert memory[SIZE - 1] == 7


def resident(path: Path) -> int:
    """Bytes of the file that are in memory."""
    return int(process.run(["fincore", "-n", "-b", "-o", "RES", str(path)]).stdout)


def test_what_is_flushed_leaves_memory(tmp_path: Path) -> None:
    memory = buffer(SIZE)
    memory[:] = b"\1" * SIZE
    path = tmp_path / "artifact"
    with Medium(path, create=True) as medium:
        medium.truncate(SIZE)
        medium.write(0, memory)
        if not resident(path):
            pytest.skip("this file system keeps nothing in memory")
        medium.flush()
        assert resident(path) < SIZE // 8
        assert medium.read_back(0, memory) == SIZE
