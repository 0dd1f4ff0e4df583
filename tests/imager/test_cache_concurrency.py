"""Builds that share a cache at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imager.cache import Cache

_BUILDER = """
import sys, time
from pathlib import Path
from imager.cache import Cache

def build(directory):
    time.sleep(0.5)
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (directory / "result").write_text("x")

path = Cache(Path(sys.argv[1])).stage("slow", {"input": 1}, build)
assert (path / "result").read_text() == "x"
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_processes_build_once_and_use_the_result_at_the_same_time(tmp_path: Path) -> None:
    """The first still uses its result while the second finds it: neither waits for the other."""
    log = tmp_path / "log"
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILDER, tmp_path / "cache", log],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.communicate(timeout=10)
        assert builder.returncode == 0
    assert log.read_text() == "built\n"


def test_parts_that_vanish_while_pruning_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes prune at once: what one has listed, the other has removed."""
    cache = Cache(tmp_path)
    parts = [cache.shared("segments") / name for name in ("a", "b", "c")]
    for part in parts:
        part.write_bytes(b"x")
    real = Path.glob

    def listed_then_gone(self: Path, pattern: str) -> Iterator[Path]:
        found = sorted(real(self, pattern))
        for path in found:
            if path.name == "a":
                path.unlink()
            yield path

    monkeypatch.setattr(Path, "glob", listed_then_gone)
    cache._prune_shared(age=-1)
    assert [part for part in parts if part.exists()] == []
