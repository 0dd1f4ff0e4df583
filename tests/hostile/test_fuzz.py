"""Every kept input of every fuzz target, and a short run of changed ones, the same each time."""

from __future__ import annotations

import pytest

from evidence.fuzz.run import mutations, run_inputs
from evidence.fuzz.target import CORPUS, Target
from evidence.fuzz.targets import TARGETS

_SECONDS = 1.0
_MOST = 400


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_kept_inputs_and_changes_of_them_are_read_or_refused(target: Target) -> None:
    seeds = target.seeds()
    assert seeds, f"no inputs in {target.corpus}"
    found = run_inputs(target, seeds)
    assert found.executions == len(seeds) and not found.failures, found.failures
    changed = run_inputs(target, mutations(target, 1, seconds=_SECONDS, most=_MOST))
    assert changed.executions and not changed.failures, changed.failures


def test_the_corpus_is_small_and_has_no_other_directories() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {target.name for target in TARGETS}
    assert sum(path.stat().st_size for path in files) < 500_000


def test_the_runner_notices_errors_hangs_and_memory() -> None:
    def fails(data: bytes) -> object:
        match data:
            case b"error":
                raise KeyError("x")
            case b"hang":
                while True:
                    pass
            case b"memory":
                return bytearray(1 << 30)
        return None

    target = Target("state", fails, "bytes", (), seconds=0.2, memory=64)
    found = run_inputs(target, [b"good", b"error", b"hang", b"memory", b"good"])
    assert found.executions == 5
    assert [data for data, _ in found.failures] == [b"error", b"hang", b"memory"]
    assert ["KeyError" in text for _, text in found.failures] == [True, False, False]
    assert "took longer" in found.failures[1][1] and "MemoryError" in found.failures[2][1]
