"""Memory of a long run is given back."""

from __future__ import annotations

from pathlib import Path

from updater.medium import buffer, forget

SIZE = 32 << 20


def shared() -> int:
    """Bytes of anonymous shared memory that this process holds."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssShmem:")[1].split()[0]) * 1024


def test_a_forgotten_buffer_takes_no_memory_and_is_zeros() -> None:
    before = shared()
    memory = buffer(SIZE)
    memory[:] = b"\1" * SIZE
    assert shared() - before >= SIZE
    forget(memory)
    assert shared() - before < SIZE // 8
    assert memory[:4096] == bytes(4096)
    memory[-1] = 7
    assert memory[SIZE - 1] == 7
