"""A package whose service has failed for good: back to the version before, or out of action."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.errors import PackageError, RefusedError
from recovery.generations import Earlier, Generation
from recovery.packages.model import Package
from recovery.reporter import SilentReporter
from recovery.state import Probation, StateRecord, Trial
from recovery.value import replace
from tests.updater.packages.fakehost import Bench, digest_of, package
from updater.packages.failed import Contained, States, contain, failure
from updater.packages.transaction import Wanted

MAIN = "orbital.hello.main.service"
WATCH = "orbital.hello.main.watch.service"
FAILED: States = {MAIN: {"ActiveState": "failed", "Result": "exit-code", "NRestarts": "3"}}
FINE: States = {MAIN: {"ActiveState": "active", "Result": "success"}}


def back(old: Generation, _record: StateRecord, _number: int, name: str) -> Wanted:
    """Goes back to the earlier version."""
    entry = old.package(name)
    assert entry is not None and entry.earlier is not None
    before = entry.earlier
    made = replace(
        entry,
        version=before.version,
        digest=before.digest,
        state=before.state,
        earlier=Earlier(entry.version, entry.digest, entry.state),
    )
    return Wanted((*(item for item in old.packages if item is not entry), made))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """hello 1.0, and app that needs it, run; hello 2.0 exists."""
    made = Bench(tmp_path)
    made.publish(package("hello", "1.0"), package("hello", "2.0"))
    made.publish(package("app", "1.0", depends=("hello",)))
    made.install("hello", "1.0")
    made.install("app", "1.0")
    return made


def updated(bench: Bench) -> None:
    """hello goes to 2.0, and remembers 1.0."""
    first = bench.committed.package("hello")
    assert first is not None
    planner = bench.installer("hello", "2.0")

    def plan(old: Generation, record: StateRecord, number: int) -> Wanted:
        wanted = planner(old, record, number)
        earlier = Earlier(first.version, first.digest, first.state)
        return replace_entries(wanted, "hello", earlier)

    bench.change("update hello", plan)


def replace_entries(wanted: Wanted, name: str, earlier: Earlier) -> Wanted:
    """The same with another way back."""
    entries = tuple(
        replace(entry, earlier=earlier) if entry.name == name else entry
        for entry in wanted.packages
    )
    return Wanted(entries, wanted.fetch)


def contained(bench: Bench, states: States = FAILED) -> Contained:
    """What the unit does."""
    return contain(
        bench.device, "hello", SilentReporter(), back, ask=lambda _: states, lock_seconds=0
    )


def test_with_an_earlier_version_it_goes_back_with_its_state(bench: Bench) -> None:
    updated(bench)
    done = contained(bench)
    assert (done.action, done.version) == ("rolled back", "2.0")
    entry = bench.committed.package("hello")
    assert entry is not None and (entry.version, entry.enabled) == ("1.0", True)
    assert "2.0" not in bench.log_of("hello")
    bad = bench.store.load().quarantine_of("2.0", "hello")
    assert bad is not None and bad.reason == "service main failed after restarts: exit-code"
    last = bench.device.audit.entries()[-1]
    assert (last.who, last.result) == ("orbital", "done")


def test_the_earlier_version_failing_too_disables_it_and_that_is_the_end(bench: Bench) -> None:
    updated(bench)
    assert contained(bench).action == "rolled back"
    assert contained(bench).action == "disabled"
    assert set(bench.host.running) == {"app"}
    number = bench.committed.number
    assert contained(bench).action == "none"
    assert bench.committed.number == number
    record = bench.store.load()
    assert record.quarantine_of("1.0", "hello") and record.quarantine_of("2.0", "hello")


def test_without_an_earlier_version_it_is_disabled_and_its_dependents_are_left_alone(
    bench: Bench,
) -> None:
    bench.host.calls.clear()
    # A dependent that suffers cannot keep the failed package running.
    bench.host.sick.add(digest_of("app", "1.0"))
    assert contained(bench).action == "disabled"
    assert bench.host.calls[0] == "stop hello"
    assert set(bench.host.running) == {"app"}


def test_an_earlier_version_that_is_unhealthy_leads_to_disabled(bench: Bench) -> None:
    updated(bench)
    bench.host.sick.add(digest_of("hello", "1.0"))
    assert contained(bench).action == "disabled"
    entry = bench.committed.package("hello")
    assert entry is not None and (entry.version, entry.enabled) == ("2.0", False)


def test_a_failure_that_a_change_has_put_right_meanwhile_is_left_alone(bench: Bench) -> None:
    updated(bench)
    number = bench.committed.number
    assert contained(bench, FINE).action == "none"
    assert bench.committed.number == number


def watched(service: dict[str, str], **watch: str) -> States:
    """A service that became active at 100 s, and a run of its watch that began at 200 s."""
    return {
        MAIN: {"ActiveState": "active", "ActiveEnterTimestampMonotonic": "100000000", **service},
        WATCH: {
            "ActiveState": "failed",
            "ExecMainStatus": "1",
            "InactiveExitTimestampMonotonic": "200000000",
            **watch,
        },
    }


def test_a_watch_that_fails_counts(bench: Bench) -> None:
    assert (
        contained(bench, watched({})).reason == "the check of service main failed again and again"
    )


@pytest.mark.parametrize(
    "states",
    [
        # It runs again, or has passed.
        watched({}, ActiveState="activating"),
        watched({}, ActiveState="inactive"),
        # Its sandbox could not be made; it was killed.
        watched({}, ExecMainStatus="226"),
        watched({}, ExecMainStatus="9"),
        # Stopped by somebody, or at shutdown.
        watched({"ActiveState": "deactivating"}),
        watched({"ActiveState": "inactive"}),
        # Waits for its restart.
        watched({"ActiveState": "activating"}),
        # Restarted or updated while the watch ran, or since.
        watched({"ActiveEnterTimestampMonotonic": "201000000"}),
        # The check may take 30 s to pass after a start.
        watched({"ActiveEnterTimestampMonotonic": "171000000"}),
    ],
)
def test_a_watch_is_not_held_against_a_service_that_was_not_up_all_the_time(
    bench: Bench, states: States
) -> None:
    number = bench.committed.number
    assert contained(bench, states).action == "none"
    assert bench.committed.number == number


def test_a_watch_counts_when_the_service_was_up_for_its_deadline_before(bench: Bench) -> None:
    states = watched({"ActiveEnterTimestampMonotonic": "170000000"})
    assert contained(bench, states).action == "disabled"


def test_it_waits_while_another_change_is_under_way(bench: Bench) -> None:
    with bench.store.lock("orbital package (x)"), pytest.raises(RefusedError, match="changing"):
        contained(bench)


def test_a_trial_of_the_os_judges_itself(bench: Bench) -> None:
    bench.store.save(replace(bench.store.load(), trial=Trial(1, 3, "boot-1")))
    with pytest.raises(RefusedError, match="still on trial"):
        contained(bench)


def test_a_probation_does_not_keep_a_crashing_package_running(bench: Bench) -> None:
    number = bench.committed.number
    record = replace(bench.store.load(), probation=Probation(number, 0, 600, 3))
    bench.store.save(record)
    assert contained(bench).action == "disabled"
    probation = bench.store.load().probation
    assert probation is not None and probation.generation == bench.committed.number


def test_a_disabled_package_is_not_touched_by_a_late_failure(bench: Bench) -> None:
    bench.switch("hello", enabled=False)
    assert contained(bench).action == "none"


def test_disabling_that_fails_is_an_error(bench: Bench) -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error")

    bench.host.step = broken
    with pytest.raises(PackageError):
        contained(bench)


def test_what_failed_is_said_in_words() -> None:
    hello: Package = package("hello", "1.0")
    assert failure(hello, FINE) == ""
    assert failure(hello, {MAIN: {"ActiveState": "failed", "Result": "oom-kill"}}) == (
        "service main failed: oom-kill"
    )
