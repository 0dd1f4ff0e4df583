"""One change of the package set: all of it, or nothing of it."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from recovery import durable
from recovery.audit import verify
from recovery.boot import load_report, running_generation
from recovery.errors import (
    FetchError,
    PackageError,
    RefusedError,
    StateError,
    TrustError,
)
from recovery.generations import Generation
from recovery.state import StateRecord, Trial
from recovery.value import replace
from tests.updater.packages.fakehost import Bench, digest_of, package
from updater.packages.transaction import Wanted


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A device with nothing installed; hello 1.0 and 2.0 exist."""
    made = Bench(tmp_path)
    made.publish(package("hello", "1.0"), package("hello", "2.0"))
    return made


def snapshot(bench: Bench) -> dict[str, bytes]:
    """Every file that decides what runs, and every state layer of the committed set."""
    root = bench.root
    files = [root / "state.json"]
    for entry in bench.committed.packages:
        files += sorted(path for path in bench.host.layer(entry).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def running(bench: Bench) -> int:
    """The generation that everybody else takes for the running one."""
    report = load_report(bench.base)
    return running_generation(report, bench.store.load(), bench.store.generations.all())


def audited(bench: Bench) -> list[tuple[str, str, str]]:
    """The audit trail."""
    return [(entry.what, entry.subject, entry.result) for entry in bench.device.audit.entries()]


def test_what_was_checked_is_durable_before_it_is_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booted crash states found it: a service's first file was empty, and it failed for ever."""
    met = []

    def noted(path: Path) -> None:
        met.append((path, dict(bench.host.running), bench.store.load().change is not None))

    monkeypatch.setattr(durable, "sync_filesystem", noted)
    bench.install("hello", "1.0")
    assert met[-1] == (bench.store.root, {"hello": digest_of("hello", "1.0")}, True)


def test_a_disk_that_does_not_take_it_brings_the_old_set_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "sync_filesystem", broken)
    with pytest.raises(PackageError, match="Input/output error"):
        bench.install("hello", "1.0")
    record = bench.store.load()
    assert (record.committed, record.change) == (1, None)
    assert bench.host.running == {}


def test_an_installed_package_runs_and_is_committed(bench: Bench) -> None:
    done = bench.install("hello", "1.0")
    assert done.generation is not None and done.generation.number == 2
    assert [str(item) for item in done.differences] == ["install hello 1.0"]
    record = bench.store.load()
    assert (record.committed, record.undo, record.change, record.next_generation) == (2, 1, None, 3)
    assert bench.host.running == {"hello": digest_of("hello", "1.0")}
    made = bench.committed
    assert (made.slot, made.root_hash, made.parent, made.origin) == ("a", "11" * 32, 1, "package")
    assert made.etc_layer == 1
    assert made.requested_by == "ada"
    assert running(bench) == 2
    event = bench.store.history.events()[-1]
    assert (event.event, event.generation) == ("committed", 2)
    assert event.reason == "packages: install hello 1.0"
    assert audited(bench) == [
        ("package.change", "generation 2", "started"),
        ("package.install", "hello", "done"),
        ("package.change", "generation 2", "done"),
    ]


def test_an_update_stops_copies_the_state_starts_and_checks_in_this_order(bench: Bench) -> None:
    bench.install("hello", "1.0")
    bench.host.calls.clear()
    bench.install("hello", "2.0")
    assert bench.host.calls == [
        "stop hello",
        "activate 3",
        "start hello",
        "check hello",
        "retire",
    ]
    assert bench.log_of("hello") == ["1.0", "2.0"]
    assert bench.device.audit.entries()[-2].detail == "1.0 → 2.0"


def test_a_version_that_fails_its_check_is_taken_back_with_its_state(bench: Bench) -> None:
    bench.install("hello", "1.0")
    layers = {k: v for k, v in snapshot(bench).items() if k.startswith("layers")}
    bench.host.sick.add(digest_of("hello", "2.0"))
    with pytest.raises(PackageError) as caught:
        bench.install("hello", "2.0")
    assert caught.value.brief == "cannot install hello: hello: answers 500, not 200"
    assert "the packages of before run again" in caught.value.resolution
    assert "hello 2.0 will not be taken again" in caught.value.resolution
    assert bench.host.running == {"hello": digest_of("hello", "1.0")}
    record = bench.store.load()
    assert (record.committed, record.undo, record.change) == (2, 1, None)
    bad = record.quarantine_of("2.0", "hello")
    assert bad is not None and bad.reason == "hello: answers 500, not 200"
    # 2.0 ran on a copy; what 1.0 has now is what it left, and its own second start.
    now = {k: v for k, v in snapshot(bench).items() if k.startswith("layers")}
    assert now["layers/hello/2/log"] == layers["layers/hello/2/log"] + b"1.0\n"
    assert bench.log_of("hello") == ["1.0", "1.0"]
    assert bench.store.history.events()[-1].event == "rolled-back"
    assert audited(bench)[-2:] == [
        ("package.update", "hello", "failed"),
        ("package.change", "generation 3", "failed"),
    ]
    # The number is never used again.
    bench.host.sick.clear()
    again = bench.install("hello", "2.0")
    assert again.generation is not None and again.generation.number == 4
    assert bench.store.load().quarantine_of("2.0", "hello") is None


def test_state_is_migrated_up_and_down(bench: Bench) -> None:
    bench.publish(package("hello", "3.0", state_version=3))
    bench.install("hello", "1.0")
    bench.install("hello", "3.0")
    assert "migrate hello 1 3" in bench.host.calls
    # Downwards the newer version's programs do it; the older one does not know the form.
    bench.install("hello", "1.0")
    assert "migrate hello 3 1" in bench.host.calls
    assert bench.log_of("hello") == ["1.0", "3.0", "1.0"]


def test_going_back_uses_the_old_state_layer_without_migration(bench: Bench) -> None:
    bench.publish(package("hello", "3.0", state_version=3))
    bench.install("hello", "1.0")
    bench.install("hello", "3.0")
    bench.host.calls.clear()
    bench.undo()
    assert not [call for call in bench.host.calls if call.startswith("migrate")]
    assert bench.log_of("hello") == ["1.0", "1.0"]
    bench.undo()
    assert bench.log_of("hello") == ["1.0", "3.0", "3.0"]


def test_a_missing_migration_is_refused_before_anything_stops(bench: Bench) -> None:
    bench.publish(replace(package("hello", "3.0", state_version=2), migrations=()))
    bench.install("hello", "1.0")
    before = snapshot(bench)
    bench.host.calls.clear()
    with pytest.raises(RefusedError, match="no migration of service main from schema 1 to 2"):
        bench.install("hello", "3.0")
    assert snapshot(bench) == before
    assert bench.host.calls == []


def test_dependents_stop_with_what_they_need_and_a_failure_of_theirs_blames_it(
    bench: Bench,
) -> None:
    bench.publish(package("app", "1.0", depends=("hello",)), package("other", "1.0"))
    for name in ("hello", "app", "other"):
        bench.install(name, "1.0")
    bench.host.sick.add(digest_of("app", "1.0"))
    bench.host.calls.clear()
    with pytest.raises(PackageError, match="app: answers 500"):
        bench.install("hello", "2.0")
    assert bench.host.calls[0] == "stop app hello"
    assert bench.store.load().quarantine_of("2.0", "hello") is not None
    assert bench.store.load().quarantine_of("1.0", "app") is None
    assert set(bench.host.running) == {"hello", "app", "other"}


def test_an_image_that_cannot_be_activated_is_taken_back_without_quarantine(bench: Bench) -> None:
    bench.install("hello", "1.0")
    bench.host.broken[digest_of("hello", "2.0")] = "cannot mount its image"
    with pytest.raises(PackageError, match="cannot mount its image"):
        bench.install("hello", "2.0")
    assert bench.store.load().quarantined == ()
    assert bench.host.running == {"hello": digest_of("hello", "1.0")}


@pytest.mark.parametrize("error", [FetchError("cannot fetch"), TrustError("cannot trust")])
def test_a_failed_fetch_changes_nothing(bench: Bench, error: Exception) -> None:
    bench.install("hello", "1.0")
    before = snapshot(bench)
    bench.host.calls.clear()

    def plan(old: Generation, record: StateRecord, number: int) -> Wanted:
        def fetch() -> None:
            raise error

        wanted = bench.installer("hello", "2.0")(old, record, number)
        return Wanted(wanted.packages, fetch=fetch)

    with pytest.raises(type(error)):
        bench.change("update hello", plan)
    assert snapshot(bench) == before
    assert bench.host.calls == []


def test_an_image_that_says_it_is_another_is_refused(bench: Bench) -> None:
    bench.install("hello", "1.0")
    before = snapshot(bench)
    bench.host.known[digest_of("hello", "2.0")] = package("hello", "1.9")
    with pytest.raises(TrustError, match="says that it is feature hello"):
        bench.install("hello", "2.0")
    assert snapshot(bench) == before


def test_an_image_that_is_not_in_the_store_is_refused(bench: Bench) -> None:
    before = snapshot(bench)
    with pytest.raises(StateError, match="no such image"):
        bench.install("hello", "1.0", fetch=False)
    assert snapshot(bench) == before


def test_an_installed_image_that_went_bad_does_not_stop_others(bench: Bench) -> None:
    bench.publish(package("other", "1.0"))
    bench.install("hello", "1.0")
    (bench.root / "store" / digest_of("hello", "1.0")).unlink()
    assert bench.install("other", "1.0").generation is not None


def test_nothing_to_do_makes_no_generation(bench: Bench) -> None:
    bench.install("hello", "1.0")
    before = snapshot(bench)
    assert bench.install("hello", "1.0").generation is None
    assert snapshot(bench) == before


def test_a_trial_of_the_os_refuses_changes(bench: Bench) -> None:
    bench.store.save(replace(bench.store.load(), trial=Trial(1, 3, "boot-1")))
    with pytest.raises(RefusedError, match="still on trial"):
        bench.install("hello", "1.0")


def test_another_change_under_way_refuses(bench: Bench) -> None:
    with (
        bench.store.lock("orbital package (install other)"),
        pytest.raises(RefusedError, match="install other"),
    ):
        bench.install("hello", "1.0")


def test_a_disabled_package_is_kept_but_does_not_run(bench: Bench) -> None:
    bench.install("hello", "1.0")
    bench.switch("hello", enabled=False)
    assert bench.host.running == {}
    assert bench.committed.package("hello") is not None
    bench.reboot()
    assert bench.host.running == {}
    bench.switch("hello", enabled=True)
    assert set(bench.host.running) == {"hello"}
    assert bench.log_of("hello") == ["1.0", "1.0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_change_back(bench: Bench, number: signal.Signals) -> None:
    bench.install("hello", "1.0")
    # What this run was started with does not matter: under nohup, or behind `&`, some are ignored.
    before = signal.signal(number, signal.SIG_DFL)

    def interrupt() -> None:
        if bench.host.calls and bench.host.calls[-1] == "activate 3":
            bench.host.step = lambda: None
            os.kill(os.getpid(), number)

    bench.host.step = interrupt
    try:
        with pytest.raises(PackageError, match=f"interrupted by {number.name}"):
            bench.install("hello", "2.0")
    finally:
        signal.signal(number, before)
    assert bench.host.running == {"hello": digest_of("hello", "1.0")}
    assert bench.store.load().change is None
    assert bench.store.load().quarantined == ()


def test_when_even_going_back_fails_the_next_boot_is_named(bench: Bench) -> None:
    bench.install("hello", "1.0")

    def broken() -> None:
        raise OSError(5, "Input/output error")

    def later() -> None:
        if bench.host.calls[-1] == "activate 3":
            bench.host.step = broken

    bench.host.step = later
    with pytest.raises(PackageError, match="cannot install hello") as caught:
        bench.install("hello", "2.0")
    assert "reboot: the set of before runs then" in caught.value.resolution
    assert bench.store.load().change is not None
    bench.reboot()
    assert bench.host.running == {"hello": digest_of("hello", "1.0")}
    assert bench.install("hello", "2.0").generation is not None
    assert verify(bench.root).intact
