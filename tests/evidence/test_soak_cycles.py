"""The soak in QEMU: what its cycles may end as, and that each wrong end is noticed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evidence.soak.cycles import (
    ILL,
    WEIGHTS,
    Cycle,
    Found,
    Runs,
    Standing,
    codes,
    draw,
    judge,
    read,
    script,
)
from evidence.soak.real import Progress, all_done, growth, taken, together

OLD, NEW = Runs("1.0", ("counter 1.0",)), Runs("2.0", ("counter 1.0",))
LENGTHS = dict.fromkeys(("good", "ill", "rollback", "packages 1", "packages 2"), (60.0,))


def drawn(kind: str, standing: Standing, lengths: Mapping[str, Sequence[float]]) -> list[Cycle]:
    found = [draw(random.Random(seed), standing, "http://x", lengths) for seed in range(300)]
    return [cycle for cycle in found if cycle.kind == kind]


@pytest.mark.parametrize("kind", WEIGHTS)
def test_half_of_the_cycles_are_cut_once_their_length_is_known(kind: str) -> None:
    standing = Standing(NEW, OLD)
    assert all(not cycle.cuts for cycle in drawn(kind, standing, {}))
    known = [cycle for cycle in drawn(kind, standing, LENGTHS) if cycle.name in LENGTHS]
    cut = [cycle for cycle in known if cycle.cuts]
    assert len(known) * 0.25 < len(cut) < len(known) * 0.75
    assert all(0.5 <= cycle.cuts[0] <= 60 * 1.2 for cycle in cut)


def test_a_device_with_nothing_to_go_back_to_is_not_rolled_back() -> None:
    assert drawn("rollback", Standing(OLD, None), {}) == []
    assert drawn("rollback", Standing(NEW, OLD), {})[0].target == OLD


def test_updates_alternate_and_packages_follow_their_versions() -> None:
    assert {cycle.target for cycle in drawn("good", Standing(OLD, None), {})} == {NEW}
    assert {cycle.target for cycle in drawn("good", Standing(NEW, None), {})} == {OLD}
    tried = Standing(NEW, None, refused=True)
    newest = Runs("1.0", ("counter 1.1",))
    assert {cycle.target for cycle in drawn("good", tried, {})} == {newest}
    assert {cycle.target for cycle in drawn("ill", tried, {})} == {NEW}
    alone = replace(tried, now=Runs("2.0"))
    assert {cycle.target for cycle in drawn("good", alone, {})} == {Runs("1.0")}
    bare = drawn("packages", Standing(Runs("1.0"), None), {})
    assert {len(cycle.steps) for cycle in bare} == {1, 2, 3}
    assert all("install" in cycle.steps[0].command for cycle in bare)
    failing = next(cycle for cycle in bare if any(not step.works for step in cycle.steps))
    step = next(step for step in failing.steps if not step.works)
    assert "counter=1.2" in step.command
    assert step.after == failing.steps[0].after
    installed = drawn("packages", Standing(OLD, None), {})
    assert all("update" in cycle.steps[0].command for cycle in installed)
    assert {cycle.target.packages for cycle in installed} >= {(), ("counter 1.1",)}
    assert codes("x\ncode=0\ny\ncode=1\n") == (0, 1)
    assert script(bare[0]).count("echo code=$?") == len(bare[0].steps)


GOOD = drawn("good", Standing(OLD, None), {})[0]
BAD = drawn("ill", Standing(OLD, None), {})[0]
WELL = Found(Standing(NEW, OLD), running=True, healthy=True, open="", active=True)


def test_what_may_be_is_not_wrong() -> None:
    before = replace(WELL, standing=Standing(OLD, None))
    assert judge(GOOD, replace(WELL, kept=("2.0",)), cut=False) == ""
    assert judge(GOOD, WELL, cut=True) == ""
    assert judge(GOOD, before, cut=True) == ""
    assert judge(BAD, before, cut=False) == judge(BAD, before, cut=True) == ""


@pytest.mark.parametrize(
    ("cycle", "found", "cut", "said"),
    [
        (GOOD, replace(WELL, running=False), True, "does not run"),
        (GOOD, replace(WELL, healthy=False), True, "not healthy"),
        (GOOD, replace(WELL, open="trial"), True, "still open: trial"),
        (GOOD, replace(WELL, active=False), True, "service of counter 1.0 does not run"),
        (GOOD, replace(WELL, standing=Standing(OLD, None)), False, "1.0 + counter 1.0 runs, not"),
        (GOOD, replace(WELL, standing=Standing(Runs("2.0"), None)), True, "none of"),
        (GOOD, replace(WELL, standing=Standing(OLD, None), kept=("2.0",)), True, "2.0 was comm"),
        (BAD, replace(WELL, standing=Standing(Runs(ILL), None)), True, "none of"),
        (BAD, replace(WELL, standing=Standing(OLD, None), kept=(ILL,)), True, "was committed"),
    ],
)
def test_what_may_not_be_is_wrong(cycle: Cycle, found: Found, cut: bool, said: str) -> None:
    assert said in judge(cycle, found, cut=cut)


def test_commands_that_end_otherwise_than_they_must_are_wrong() -> None:
    cycle = next(
        cycle
        for cycle in drawn("packages", Standing(OLD, None), {})
        if [step.works for step in cycle.steps] == [False]
    )
    found = replace(WELL, standing=Standing(OLD, None))
    assert judge(cycle, replace(found, codes=(1,)), cut=False) == ""
    assert "exit codes" in judge(cycle, replace(found, codes=(0,)), cut=False)


def looked(path: str = "", **changes: object) -> str:
    """What the guest prints. changes: of the document at that path."""
    generation: dict[str, object] = {
        "slot": "b", "version": "2.0", "root_hash": "ab",
        "packages": [{"name": "counter", "version": "1.0"}],
    }  # fmt: skip
    record: dict[str, object]
    record = {
        "committed": 2,
        "previous": 1,
        "trial": None,
        "probation": None,
        "change": None,
        "quarantined": [],
    }
    files: dict[str, dict[str, object]] = {
        "/run/orbital/boot.json": {"slot": "b", "root_hash": "ab", "volatile": False},
        "/usr/lib/orbital/device.json": {"version": "2.0"},
        "/state/orbital/state.json": record,
        "/state/orbital/generations/1.json": {**generation, "slot": "a", "version": "1.0"},
        "/state/orbital/generations/2.json": generation,
    }
    if path:
        files[path].update(changes)
    shown = "".join(f"@{name}\n{json.dumps(doc, indent=1)}\n" for name, doc in files.items())
    return f"active\nactive\nactive\n{shown}@sizes\n7\t/state/orbital/tuf\n"


def test_the_records_of_a_device_are_read_and_compared_with_what_runs() -> None:
    found = read(looked())
    assert found == replace(WELL, sizes={"orbital/tuf": 7})
    other = read(looked("/run/orbital/boot.json", root_hash="cd"))
    assert not other.running
    assert not read(looked("/run/orbital/boot.json", volatile=True)).running
    assert read(looked("/state/orbital/state.json", trial={})).open == "trial"
    for version, package, refused in (("1.2", "counter", True), ("1.2", "", False)):
        failed = [{"version": version, "package": package}]
        standing = read(looked("/state/orbital/state.json", quarantined=failed)).standing
        assert standing == Standing(NEW, OLD, refused=refused)
    with pytest.raises(ValueError, match="control character"):
        read(looked().replace('"committed": 2', '"committed'))


def test_growth_is_of_what_the_device_keeps_without_journals() -> None:
    sizes = [
        {"orbital/state.json": kept, "orbital/audit.jsonl": 10 * kept, "var": 11 * kept}
        for kept in (5, 9, 7, 8)
    ]
    assert growth([sizes]) == (9, 8)
    assert growth([sizes, sizes[1:2]]) == (9, 8)
    assert growth([sizes, [], [*sizes[:1], *sizes[1:2]]]) == (9, 9)
    assert growth([]) == growth([[]]) == (0, 0)


def test_devices_are_taken_by_one_process_each_and_counted_together(tmp_path: Path) -> None:
    for cycles in (2, 3):
        with taken(tmp_path) as first, taken(tmp_path) as second:
            assert [first.name, second.name] == ["device-1", "device-2"]
            for place in (first, second):
                done = Progress.load(place / "soak.json")
                done.cycles += cycles
                done.count("power cuts")
                done.lengths.setdefault("good", []).append(float(cycles))
                done.save(place / "soak.json")
    whole = together(all_done(tmp_path))
    assert (whole.cycles, whole.counts) == (10, {"power cuts": 4})
    assert whole.lengths == {"good": [2.0, 3.0, 2.0, 3.0]}


def test_progress_counts_by_name() -> None:
    done = Progress()
    done.count("power cuts", "power cuts", "cycles, good")
    done.count("power cuts")
    assert done.counts == {"power cuts": 3, "cycles, good": 1}
