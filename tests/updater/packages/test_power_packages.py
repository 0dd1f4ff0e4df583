"""A power cut, or a killed process, before every step of a change of the package set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from recovery.audit import verify
from recovery.errors import OrbitalError
from tests.recovery.powercut import power_cut
from tests.updater.packages.fakehost import Bench, digest_of, package
from updater.packages.transaction import reconcile

VERSIONS = {"1.0": 1, "1.1": 1, "2.0": 2}


def assert_consistent(bench: Bench) -> None:
    """What runs is the committed set, whole, on state of its own schema."""
    record = bench.store.load()
    committed = bench.committed
    assert record.change is None
    assert bench.host.running == {
        entry.name: entry.digest for entry in committed.packages if entry.enabled
    }
    for number in record.referenced():
        generation = bench.store.generations.load(number)
        assert generation is not None, f"generation {number} is kept, but its record is gone"
        for digest in generation.digests():
            assert (bench.root / "store" / digest).exists(), f"{digest[:8]} is gone"
        for entry in generation.packages:
            schema = (bench.host.layer(entry) / "schema").read_text()
            assert schema == str(bench.host.known[entry.digest].state_version)
    trail = verify(bench.root)
    assert trail.intact, trail.broken


@dataclass(frozen=True)
class Aftermath:
    """What a device was after a cut."""

    committed: int
    steps: int


def cut_at(
    base: Path,
    patch: pytest.MonkeyPatch,
    prepare: Callable[[Bench], None],
    act: Callable[[Bench], object],
    cut: int,
    *,
    reboot: bool,
) -> Aftermath | None:
    """Cuts act before step `cut`, of the disk or of the running system; None: it never came."""
    bench = Bench(base)
    bench.publish(*(package("hello", version, state_version=n) for version, n in VERSIONS.items()))
    prepare(bench)
    with power_cut(patch, cut) as operations:
        bench.host.step = operations.step
        try:
            act(bench)
        except OrbitalError:
            assert not operations.happened
    if not operations.happened:
        return None
    committed = bench.store.load().committed
    recover(bench, reboot=reboot)
    # The commit point is where it was when the power went.
    assert bench.store.load().committed == committed
    assert_consistent(bench)
    # And the change can be made again, or is made already.
    bench.host.sick.clear()
    act(bench)
    assert_consistent(bench)
    return Aftermath(committed, operations.count)


def recover(bench: Bench, *, reboot: bool) -> None:
    """What the next boot does; or, in the same boot, the next command."""
    bench.host.step = lambda: None
    if reboot:
        bench.reboot()
    with bench.store.lock("test"):
        reconcile(bench.device, lambda: bench.clock)


def every_cut(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Bench], None],
    act: Callable[[Bench], object],
    *,
    reboot: bool,
) -> list[Aftermath]:
    """The aftermath of a cut before each step."""
    found: list[Aftermath] = []
    for cut in range(200):
        base = tmp_path / f"cut-{cut}"
        aftermath = cut_at(base, monkeypatch, prepare, act, cut, reboot=reboot)
        if aftermath is None:
            return found
        found.append(aftermath)
    raise AssertionError("the change does not end")


def first(bench: Bench) -> None:
    """1.0 is installed."""
    bench.install("hello", "1.0")


def first_and_second(bench: Bench) -> None:
    """1.0, then 2.0 is installed."""
    bench.install("hello", "1.0")
    bench.install("hello", "2.0")


ACTS: dict[str, tuple[Callable[[Bench], None], Callable[[Bench], object]]] = {
    "install": (lambda _: None, lambda bench: bench.install("hello", "1.0")),
    "update": (first, lambda bench: bench.install("hello", "2.0")),
    "remove": (first, lambda bench: bench.remove("hello")),
    "disable": (first, lambda bench: bench.switch("hello", enabled=False)),
}


@pytest.mark.parametrize("reboot", [True, False], ids=["reboot", "killed"])
@pytest.mark.parametrize("verb", ACTS)
def test_one_commit_point_before_it_the_old_set_after_it_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, reboot: bool
) -> None:
    prepare, act = ACTS[verb]
    found = every_cut(tmp_path, monkeypatch, prepare, act, reboot=reboot)
    numbers = [aftermath.committed for aftermath in found]
    assert len(numbers) > 8
    old, new = numbers[0], numbers[-1]
    assert new == old + 1
    turn = numbers.index(new)
    assert numbers == [old] * turn + [new] * (len(numbers) - turn)


@pytest.mark.parametrize("reboot", [True, False], ids=["reboot", "killed"])
def test_cuts_while_a_bad_version_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reboot: bool
) -> None:
    def prepare(bench: Bench) -> None:
        first(bench)
        bench.host.sick.add(digest_of("hello", "2.0"))

    found = every_cut(
        tmp_path, monkeypatch, prepare, lambda bench: bench.install("hello", "2.0"), reboot=reboot
    )
    assert len(found) > 15
    assert {aftermath.committed for aftermath in found} == {2}


def test_cuts_while_going_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(bench: Bench) -> None:
        entry = bench.committed.package("hello")
        if entry is not None and entry.version == "2.0":
            bench.undo()

    found = every_cut(tmp_path, monkeypatch, first_and_second, act, reboot=True)
    assert len(found) > 8


def test_a_change_cut_after_its_commit_point_is_told_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cut in range(100):
        bench = Bench(tmp_path / str(cut))
        bench.publish(package("hello", "1.0"))
        with power_cut(monkeypatch, cut) as operations:
            bench.host.step = operations.step
            bench.install("hello", "1.0")
        recover(bench, reboot=True)
        recover(bench, reboot=True)
        entries = [(e.what, e.result) for e in bench.device.audit.entries()]
        events = [(e.event, e.generation) for e in bench.store.history.events()]
        if bench.store.load().committed == 2:
            assert events == [("committed", 2)]
            assert ("package.install", "done") in entries
            assert entries.count(("package.change", "done")) == 1
        else:
            assert ("committed", 2) not in events
            assert entries.count(("package.change", "started")) == entries.count(
                ("package.change", "failed")
            )
        if not operations.happened:
            assert cut > 10
            return
    raise AssertionError("the change does not end")


class Life(RuleBasedStateMachine):
    """Any sequence of changes, failures, cuts, kills and reboots."""

    @rule(
        name=st.sampled_from(["hello", "other", "app"]),
        version=st.sampled_from(sorted(VERSIONS)),
        sick=st.booleans(),
        cut=st.none() | st.integers(0, 40),
        reboot=st.booleans(),
    )
    def install(self, name: str, version: str, sick: bool, cut: int | None, reboot: bool) -> None:
        digest = digest_of(name, version)
        if sick and digest not in self.bench.host.running.values():
            self.bench.host.sick.add(digest)
        self.run(lambda: self.bench.install(name, version), cut, reboot)
        self.bench.host.sick.clear()

    @precondition(lambda self: self.bench.committed.packages)
    @rule(data=st.data(), cut=st.none() | st.integers(0, 40), reboot=st.booleans())
    def remove(self, data: st.DataObject, cut: int | None, reboot: bool) -> None:
        name = data.draw(st.sampled_from([e.name for e in self.bench.committed.packages]))
        self.run(lambda: self.bench.remove(name), cut, reboot)

    @precondition(lambda self: self.bench.committed.packages)
    @rule(
        data=st.data(), on=st.booleans(), cut=st.none() | st.integers(0, 40), reboot=st.booleans()
    )
    def switch(self, data: st.DataObject, on: bool, cut: int | None, reboot: bool) -> None:
        name = data.draw(st.sampled_from([e.name for e in self.bench.committed.packages]))
        self.run(lambda: self.bench.switch(name, enabled=on), cut, reboot)

    @rule(cut=st.none() | st.integers(0, 40), reboot=st.booleans())
    def undo(self, cut: int | None, reboot: bool) -> None:
        self.run(self.bench.undo, cut, reboot)

    @rule()
    def reboot(self) -> None:
        self.bench.reboot()

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory(prefix="orbital-life.")
        self.bench = Bench(Path(self.directory.name))
        for name in ("hello", "other", "app"):
            for version, schema in VERSIONS.items():
                needs = ("hello",) if name == "app" else ()
                self.bench.publish(package(name, version, depends=needs, state_version=schema))

    def run(self, act: Callable[[], object], cut: int | None, reboot: bool) -> None:
        """Makes a change that may be cut, and recovers."""
        before = self.bench.committed
        with pytest.MonkeyPatch.context() as patch, power_cut(patch, cut) as operations:
            self.bench.host.step = operations.step
            try:
                act()
            except OrbitalError:
                # Refused, or tried and taken back: nothing else may be committed.
                assert self.bench.committed == before
        if operations.happened:
            recover(self.bench, reboot=reboot)
        self.bench.host.step = lambda: None
        # A change is whole: one more generation, or the one before.
        after = self.bench.committed
        assert after == before or after.parent == before.number

    @invariant()
    def consistent(self) -> None:
        assert_consistent(self.bench)

    def teardown(self) -> None:
        self.directory.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
