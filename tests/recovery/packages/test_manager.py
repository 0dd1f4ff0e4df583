"""systemd's own socket: real bytes of it, and what is asked of it for a package."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from recovery.errors import ToolError
from recovery.packages import capabilities, dbus
from recovery.packages.active import save_active
from recovery.packages.checking import Checking
from recovery.packages.host import Activation, Active
from recovery.packages.manager import Manager, UnitRefusedError
from recovery.packages.model import MANIFEST, Check, Dependency, Service, encode
from recovery.packages.system import SystemHost
from recovery.value import replace
from tests.recovery.packages.builders import package
from tests.recovery.packages.systemd import FakeSystemd, Unit

# Recorded on a device (systemd 257): a call as it was understood there, and what came back.
CALL = (
    "bAEAAR4AAAACAAAAqgAAAAEBbwAZAAAAL29yZy9mcmVlZGVza3RvcC9zeXN0ZW1kMQAAAAAAAAACAXMAIAAAAG9y"
    "Zy5mcmVlZGVza3RvcC5zeXN0ZW1kMS5NYW5hZ2VyAAAAAAAAAAADAXMAEwAAAExpc3RVbml0c0J5UGF0dGVybnMA"
    "AAAAAAYBcwAYAAAAb3JnLmZyZWVkZXNrdG9wLnN5c3RlbWQxAAAAAAAAAAAIAWcABGFzYXMAAAAAAAAAAAAAABYA"
    "AAARAAAAb3JiaXRhbC5jb3VudGVyLioA"
)
UNITS = (
    "bAIBAf4AAAAFAAAAQwAAAAUBdQADAAAABwFzABgAAABvcmcuZnJlZWRlc2t0b3Auc3lzdGVtZDEAAAAAAAAAAAgB"
    "ZwANYShzc3Nzc3NvdXNvKQAAAAAAAPYAAAAAAAAAHQAAAG9yYml0YWwuY291bnRlci5jb3VudC5zZXJ2aWNlAAAA"
    "QQAAAGNvdW50ZXIgMS4xLCBjb3VudDogQWRkcyBvbmUgYXQgZXZlcnkgc3RhcnQgYW5kIGV2ZXJ5IGZldyBzZWNv"
    "bmRzAAAABgAAAGxvYWRlZAAACAAAAGluYWN0aXZlAAAAAAQAAABkZWFkAAAAAAAAAAAAAAAAQgAAAC9vcmcvZnJl"
    "ZWRlc2t0b3Avc3lzdGVtZDEvdW5pdC9vcmJpdGFsXzJlY291bnRlcl8yZWNvdW50XzJlc2VydmljZQAAAAAAAAAA"
    "AAAAAAAAAQAAAC8A"
)
PROPERTY = (
    "bAIBAQgAAAAHAAAANwAAAAUBdQAFAAAABwFzABgAAABvcmcuZnJlZWRlc2t0b3Auc3lzdGVtZDEAAAAAAAAAAAgB"
    "ZwABdgAAAXUAAAAAAAA="
)
REFUSAL = (
    "bAMBASQAAAAIAAAAZwAAAAUBdQAGAAAABAFzACMAAABvcmcuZnJlZWRlc2t0b3Auc3lzdGVtZDEuTm9TdWNoVW5p"
    "dAAAAAAABwFzABgAAABvcmcuZnJlZWRlc2t0b3Auc3lzdGVtZDEAAAAAAAAAAAgBZwABcwAAHwAAAFVuaXQgbm8u"
    "c3VjaC5zZXJ2aWNlIG5vdCBmb3VuZC4A"
)
JOB = (
    "bAQBAV0AAAAdAAAAogAAAAEBbwAZAAAAL29yZy9mcmVlZGVza3RvcC9zeXN0ZW1kMQAAAAAAAAACAXMAIAAAAG9y"
    "Zy5mcmVlZGVza3RvcC5zeXN0ZW1kMS5NYW5hZ2VyAAAAAAAAAAADAXMACgAAAEpvYlJlbW92ZWQAAAAAAAAHAXMA"
    "GAAAAG9yZy5mcmVlZGVza3RvcC5zeXN0ZW1kMQAAAAAAAAAACAFnAAR1b3NzAAAAAAAAAMwFAAAiAAAAL29yZy9m"
    "cmVlZGVza3RvcC9zeXN0ZW1kMS9qb2IvMTQ4NAAAIwAAAG9yYml0YWwuY291bnRlci5jb3VudC5jaGVjay5zZXJ2"
    "aWNlAAQAAABkb25lAA=="
)
BASE = "orbital.base.main.service"
MAIN = "orbital.vpn.main.service"
CHECK = "orbital.vpn.main.check.service"
SERVICE = Service("main", ("/usr/bin/vpn",), Check("exec", 5, command=("/usr/bin/ok",)))


def test_a_call_is_written_as_systemd_understood_it() -> None:
    written = dbus.call(
        2,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "ListUnitsByPatterns",
        (),
        ("orbital.counter.*",),
    )
    assert written == base64.b64decode(CALL)
    assert dbus.size(written[: dbus.HEAD_SIZE]) == len(written)


def test_answers_of_systemd_are_read() -> None:
    units, value, refused, job = (
        dbus.parse(base64.b64decode(data), ("JobRemoved",))
        for data in (UNITS, PROPERTY, REFUSAL, JOB)
    )
    path = "/org/freedesktop/systemd1/unit/orbital_2ecounter_2ecount_2eservice"
    summary = "counter 1.1, count: Adds one at every start and every few seconds"
    row = ("orbital.counter.count.service", summary, "loaded", "inactive", "dead", "", path, 0)
    assert (units.reply_to, units.body) == (3, (((*row, "", "/"),),))
    assert (value.kind, value.reply_to, value.body) == (dbus.RETURN, 5, (0,))
    assert (refused.kind, refused.error) == (dbus.ERROR, "org.freedesktop.systemd1.NoSuchUnit")
    assert refused.body == ("Unit no.such.service not found.",)
    number = "/org/freedesktop/systemd1/job/1484"
    assert job.body == (1484, number, "orbital.counter.count.check.service", "done")
    assert dbus.parse(base64.b64decode(JOB), ()).body == ()


@pytest.mark.parametrize("data", [UNITS, PROPERTY, REFUSAL, JOB])
def test_a_message_that_is_cut_or_changed_is_refused_or_read(data: str) -> None:
    whole = base64.b64decode(data)
    for end in range(dbus.HEAD_SIZE, len(whole)):
        with pytest.raises(ValueError):
            dbus.parse(whole[:end], ("JobRemoved",))
    for place in range(dbus.HEAD_SIZE, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        try:
            dbus.parse(bytes(changed), ("JobRemoved",))
        except ValueError:
            continue


def test_a_message_of_another_kind_of_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="not a message of D-Bus"):
        dbus.size(b"B" + base64.b64decode(JOB)[1:16])


def test_jobs_are_waited_for(tmp_path: Path) -> None:
    units = {MAIN: Unit(), CHECK: Unit(outcomes=["failed"])}
    with FakeSystemd(tmp_path, units), Manager(tmp_path) as manager:
        jobs = [manager.enqueue("StartUnit", name) for name in (MAIN, CHECK)]
        assert manager.finish(jobs, 10) == dict(zip(jobs, ("done", "failed"), strict=True))
        assert [manager.result(job) for job in (*jobs, "another")] == ["done", "failed", ""]
        with pytest.raises(ToolError, match="cannot finish jobs of systemd within"):
            manager.finish(["another"], 0.1)


def test_what_systemd_refuses_names_the_unit_and_the_reason(tmp_path: Path) -> None:
    with FakeSystemd(tmp_path), Manager(tmp_path) as manager:
        with pytest.raises(UnitRefusedError, match="cannot complete StartUnit gone") as caught:
            manager.enqueue("StartUnit", "gone.service")
        assert "Unit gone.service not found." in caught.value.details
        manager.reload()


def test_a_pause_ends_when_a_check_has_passed_and_not_when_it_failed(tmp_path: Path) -> None:
    units = {MAIN: Unit(outcomes=["failed", "done"])}
    with FakeSystemd(tmp_path, units), Manager(tmp_path) as manager:
        for passed in (False, True):
            job = manager.enqueue("RestartUnit", MAIN)
            started = time.monotonic()
            manager.pause([job], 0.5)
            assert (time.monotonic() - started < 0.4) is passed


def test_systemd_is_not_there_or_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="cannot reach systemd"):
        Manager(tmp_path)
    with FakeSystemd(tmp_path) as systemd:
        systemd.greeting = b"REJECTED EXTERNAL\r\n"
        with pytest.raises(ToolError, match="cannot reach systemd"):
            Manager(tmp_path)
        systemd.greeting = b"OK 00\r\n"
        systemd.silent.add("StartUnit")
        with Manager(tmp_path) as manager, pytest.MonkeyPatch.context() as patch:
            patch.setattr("recovery.packages.manager._ANSWER_SECONDS", 0.2)
            with pytest.raises(ToolError, match="no answer of systemd within"):
                manager._call("StartUnit", MAIN, "replace", seconds=0.2)


def check(root: Path, systemd: FakeSystemd, service: Service = SERVICE) -> dict[str, str]:
    """Waits for the check of one service."""
    with systemd, Manager(root) as manager:
        return Checking(manager, [("vpn", service)]).run()


def test_a_check_passes_at_its_third_run(tmp_path: Path) -> None:
    units = {MAIN: Unit("active"), CHECK: Unit("active", outcomes=["failed", "canceled"])}
    systemd = FakeSystemd(tmp_path, units)
    assert check(tmp_path, systemd) == {}
    assert systemd.calls.count(f"RestartUnit {CHECK}") == 3


def test_an_earlier_pass_of_a_check_counts_for_nothing(tmp_path: Path) -> None:
    units = {MAIN: Unit("active"), CHECK: Unit("active", outcomes=["failed"] * 100)}
    service = replace(SERVICE, check=replace(SERVICE.check, deadline_seconds=1))
    assert check(tmp_path, FakeSystemd(tmp_path, units), service) == {
        "vpn": "the check of service main did not pass in time"
    }


def test_a_check_that_systemd_does_not_know_has_not_passed(tmp_path: Path) -> None:
    service = replace(SERVICE, check=replace(SERVICE.check, deadline_seconds=1))
    assert (
        "did not pass"
        in check(tmp_path, FakeSystemd(tmp_path, {MAIN: Unit("active")}), service)["vpn"]
    )


def test_a_service_that_fails_ends_the_wait_at_once(tmp_path: Path) -> None:
    units = {
        MAIN: Unit("active", properties={"Result": "exit-code"}),
        CHECK: Unit(outcomes=["failed"] * 1000),
    }
    systemd = FakeSystemd(tmp_path, units)

    def fail() -> None:
        units[MAIN].active = "failed"

    systemd.after[CHECK] = fail
    started = time.monotonic()
    assert check(tmp_path, systemd) == {"vpn": "service main failed: exit-code"}
    assert time.monotonic() - started < SERVICE.check.deadline_seconds


def test_a_simple_service_must_stay_active_for_a_moment(tmp_path: Path) -> None:
    units = {MAIN: Unit("active", properties={"NRestarts": 0})}
    service = replace(SERVICE, check=Check("active", 10))
    started = time.monotonic()
    assert check(tmp_path, FakeSystemd(tmp_path, units), service) == {}
    assert time.monotonic() - started > 1.9
    notify = replace(service, kind="notify")
    started = time.monotonic()
    (tmp_path / "run/systemd/private").unlink()
    assert check(tmp_path, FakeSystemd(tmp_path, units), notify) == {}
    assert time.monotonic() - started < 1.9


@pytest.fixture
def host(tmp_path: Path) -> SystemHost:
    """A device whose active set has base, and vpn, which needs it."""
    policy = tmp_path / capabilities.FILE
    policy.parent.mkdir(parents=True)
    policy.write_text('{"format": 1, "capabilities": [], "refused": []}')
    host = SystemHost(tmp_path)
    needs = {"base": (), "vpn": (Dependency("base", "*"),)}
    active = []
    for name, depends in needs.items():
        image = host.paths.image(name)
        image.mkdir(parents=True)
        (image / MANIFEST).write_bytes(encode(replace(package(name), depends=depends)))
        active.append(Active(name, "1.0", name, units=(f"orbital.{name}.main.service",)))
    save_active(host.paths, Activation(2, tuple(active)))
    return host


def test_stopping_stops_what_runs_of_a_package_and_nothing_else(
    tmp_path: Path, host: SystemHost
) -> None:
    other = "orbital.vpn2.main.service"
    units = {MAIN: Unit("active"), CHECK: Unit("failed"), other: Unit("active")}
    with FakeSystemd(tmp_path, units) as systemd:
        host.stop(["vpn"])
        assert [call for call in systemd.calls if call.startswith("Stop")] == [f"StopUnit {MAIN}"]
        units[MAIN].outcomes = ["timeout"]
        with pytest.raises(ToolError, match="cannot stop services") as caught:
            host.stop(["vpn"])
        assert caught.value.details == f"{MAIN}: timeout"


def test_dependents_stop_first_and_start_last(tmp_path: Path, host: SystemHost) -> None:
    units = {BASE: Unit("active"), MAIN: Unit("active")}
    with FakeSystemd(tmp_path, units) as systemd:
        host.stop(["base", "vpn"])
        host.start(["vpn", "base"])
    jobs = [call for call in systemd.calls if call.startswith("St")]
    assert jobs == [
        f"StopUnit {MAIN}",
        f"StopUnit {BASE}",
        f"StartUnit {BASE}",
        f"StartUnit {MAIN}",
    ]


def test_starting_forgets_earlier_starts_and_leaves_failures_to_the_check(
    tmp_path: Path, host: SystemHost
) -> None:
    with FakeSystemd(tmp_path, {MAIN: Unit(outcomes=["failed"])}) as systemd:
        host.start(["vpn"])
        assert systemd.calls == [f"ResetFailedUnit {MAIN}", f"StartUnit {MAIN}"]
        systemd.units.clear()
        host.start(["vpn"])
        host.start([])
        assert len(systemd.calls) == 4
