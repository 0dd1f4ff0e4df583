"""Services that crash or eat: contained, and then their package goes, alone."""

from __future__ import annotations

import pytest

from qemu.deadline import Deadline
from qemu.device import Device, Document
from qemu.lab import Lab
from qemu.server import Server
from qemu.variants import package_folder, service

pytestmark = [pytest.mark.boot, pytest.mark.campaign]


def await_package(
    device: Device, name: str, key: str, value: object, timeout: float = 600
) -> Document:
    """Waits until `orbital package list` says so of the package."""
    deadline = Deadline(timeout)
    while True:
        found = device.packages().get(name, {})
        if found.get(key) == value:
            return found
        assert not deadline.expired, found
        deadline.pause(5)


def await_passed(device: Device, unit: str) -> None:
    """Waits until a run of the unit has ended, which must be well."""
    ended, deadline = "", Deadline(600)
    while ended in ("", "0"):
        assert not deadline.expired
        deadline.pause(1)
        shown = device.machine.run(f"systemctl show -P ExecMainExitTimestampMonotonic {unit}")
        ended = shown.output.strip()
    shown = device.machine.run(f"systemctl show -P ExecMainStatus {unit}")
    assert shown.output.strip() == "0"


def test_a_crash_loop_is_contained_and_its_package_disabled(stocked: Device) -> None:
    boot = stocked.machine.shell.boot_id
    others = {name: stocked.unit(name, unit)["InvocationID"] for name, unit in OTHERS}
    stocked.run_program("crasher", "arm")
    await_package(stocked, "crasher", "enabled", False)
    assert stocked.unit("crasher", "crash")["ActiveState"] in ("failed", "inactive")
    assert {name: stocked.unit(name, unit)["InvocationID"] for name, unit in OTHERS} == others
    assert stocked.machine.shell.boot_id == boot
    assert any("crasher" in entry["subject"] for entry in stocked.audit())


OTHERS = (("counter", "count"), ("teller", "tell"))


def test_a_crash_loop_after_an_update_brings_the_version_before_back(
    stocked: Device, stock: Lab, shop: Server
) -> None:
    stock.offer_package("crasher", version="1.1")
    stocked.package("update", "crasher", source=shop.url)
    assert stocked.packages()["crasher"]["version"] == "1.1"
    stocked.run_program("crasher", "arm")
    found = await_package(stocked, "crasher", "version", "1.0")
    assert found["enabled"] is True
    # With the state of then: it is not armed, so it does not crash.
    assert stocked.unit("crasher", "crash")["ActiveState"] == "active"


def test_who_eats_all_its_memory_is_killed_within_its_limit(stocked: Device, shop: Server) -> None:
    stocked.install(shop.url, "hungry")
    await_package(stocked, "hungry", "enabled", False)
    log = stocked.machine.run("journalctl -q -o cat -u orbital.hungry.eat.service").output
    assert "oom" in log.lower(), log
    for name, unit in OTHERS:
        assert stocked.unit(name, unit)["ActiveState"] == "active"


def test_who_fails_its_watch_again_and_again_is_disabled(
    stocked: Device, stock: Lab, shop: Server
) -> None:
    """It is healthy when it starts, and never ends: only the repeated check notices."""
    stock.offer_package(
        "watchful",
        folder=package_folder("crasher"),
        package="watchful",
        services=service(
            "crasher",
            command=["/usr/bin/sleep", "infinity"],
            health={
                "kind": "exec",
                "command": ["/usr/bin/sh", "-c", 'test ! -e "$STATE_DIRECTORY/armed"'],
                "deadline_seconds": 40,
                "interval_seconds": 5,
            },
        ),
    )
    stocked.install(shop.url, "watchful")
    await_passed(stocked, "orbital.watchful.crash.watch.service")
    before = stocked.unit("watchful", "crash")
    assert (before["ActiveState"], before["NRestarts"]) == ("active", "0")
    stocked.run_program("watchful", "arm")
    found = await_package(stocked, "watchful", "enabled", False)
    assert "the check of service crash failed again and again" in str(found["quarantined"])
    assert stocked.unit("watchful", "crash")["ActiveState"] == "inactive"
    assert any(
        entry["subject"] == "watchful" and entry["who"] == "orbital" for entry in stocked.audit()
    )
    assert stocked.unit("counter", "count")["ActiveState"] == "active"
