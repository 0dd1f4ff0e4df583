"""Each verb of `orbital package`, and what happens to services and their state."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.scenarios.counting import MIGRATIONS, ballast, count, schema
from qemu.server import Server
from qemu.variants import service

pytestmark = pytest.mark.boot

COUNT = "/state/orbital/layers/counter"


@pytest.mark.campaign
def test_install_look_disable_enable_and_remove(stocked: Device) -> None:
    listed = stocked.packages()
    assert listed["counter"]["version"] == "1.0"
    assert listed["libgreet"]["requested"] is False
    assert stocked.unit("counter", "count")["ActiveState"] == "active"
    assert count(stocked) > 0

    info = stocked.packages()["counter"]
    assert info["summary"] == "Counts, to show what happens to state"
    why = stocked.orbital("package", "why", "libgreet").output
    assert "greetings (asked for) needs greeter-" in why, why
    shown = stocked.orbital("package", "info", "counter").output
    assert "first installed" in shown and "running" in shown
    metrics = stocked.orbital("package", "metrics").output
    assert 'package="counter"' in metrics and "memory" in metrics
    assert "firewall_repairs_total" in metrics, "and what services say of themselves"
    stocked.machine.run("journalctl --sync")
    assert "orbital" in stocked.orbital("package", "logs", "listener").output

    stocked.package("disable", "counter")
    assert stocked.unit("counter", "count")["ActiveState"] == "inactive"
    before = int(stocked.machine.run(f"cat {COUNT}/*/state/count/count | sort -n | tail -1").output)
    stocked.package("enable", "counter")
    assert stocked.unit("counter", "count")["ActiveState"] == "active"
    assert count(stocked) >= before, "state outlives being disabled"

    # In use by an active package: refused, and says by whom.
    assert "listener" in stocked.refused("package", "remove", "teller")
    assert stocked.unit("teller", "tell")["ActiveState"] == "active"
    stocked.package("remove", "counter")
    assert "counter" not in stocked.packages()
    assert (
        "LoadState=not-found"
        in stocked.machine.run("systemctl show -p LoadState orbital.counter.count.service").output
    )
    history = stocked.orbital("package", "history", "counter").output
    assert "install" in history and "remove" in history
    stocked.package("gc")
    who = [(entry["what"], entry["result"]) for entry in stocked.audit()]
    assert ("package.remove", "done") in who


@pytest.mark.campaign
def test_a_suite_goes_in_part_and_as_a_whole(stocked: Device) -> None:
    assert {"greetings", "greeter-old", "greeter-new"} <= stocked.packages().keys()
    stocked.package("remove", "greetings")
    left = stocked.packages().keys()
    assert not {"greetings", "greeter-old", "greeter-new", "libgreet"} & left


@pytest.mark.campaign
def test_an_update_by_delta_migrates_state_and_a_rollback_brings_the_old_state_back(
    stocked: Device, stock: Lab, shop: Server, tmp_path: Path
) -> None:
    stock.offer_package("counter", version="1.5", folder=ballast(tmp_path, "1.5"))
    stocked.package("update", "counter", source=shop.url)
    stock.offer_package(
        "counter",
        version="2.0",
        folder=ballast(tmp_path, "2.0"),
        delta_from=("1.5",),
        services=schema(2),
        state_version=2,
        migrations=MIGRATIONS,
    )
    before = count(stocked)
    done = stocked.package("update", "counter", source=shop.url)
    assert stocked.packages()["counter"]["version"] == "2.0", done
    # A large package that changed little: made of the installed version, verified like any.
    (fetched,) = done["fetched"]
    assert (fetched["delta_from"], fetched["notes"]) == ("1.5", []), done
    assert fetched["fetched"] < fetched["full"] / 100, done
    after = count(stocked)
    assert after >= before
    assert stocked.machine.run("cat /state/orbital/layers/counter/*/state/count/counts")
    time.sleep(3)
    stocked.package("rollback", "counter")
    assert stocked.packages()["counter"]["version"] == "1.5"
    assert stocked.unit("counter", "count")["ActiveState"] == "active"
    assert count(stocked) >= before


def test_a_bad_update_is_rolled_back_with_its_state_and_not_offered_again(
    stocked: Device, stock: Lab, shop: Server
) -> None:
    bad = service(
        "counter",
        environment={"COUNTER_SCHEMA": "1", "COUNTER_FAULT": "corrupt"},
        health={
            "kind": "exec",
            "command": ["/usr/bin/sh", "/usr/lib/counter/check"],
            "deadline_seconds": 10,
        },
    )
    stock.offer_package("counter", version="3.0", services=bad)
    before = count(stocked)
    others = stocked.unit("teller", "tell")["InvocationID"]
    boot = stocked.machine.shell.boot_id
    text = stocked.refused("package", "install", "counter=3.0", "--source", shop.url)
    assert "counter" in text
    assert stocked.packages()["counter"]["version"] == "1.0"
    assert stocked.unit("counter", "count")["ActiveState"] == "active"
    assert count(stocked) >= before, "the state that 3.0 destroyed is the old one again"
    assert stocked.machine.shell.boot_id == boot, "without a reboot"
    assert stocked.unit("teller", "tell")["InvocationID"] == others, "nobody else noticed"
    # A failed version is in quarantine: passed over unless somebody insists.
    stocked.package("update", "counter", source=shop.url)
    assert stocked.packages()["counter"]["version"] != "3.0"
    failed = [entry for entry in stocked.audit() if entry["result"] == "failed"]
    assert any("counter" in f"{entry['subject']} {entry['detail']}" for entry in failed)


@pytest.mark.campaign
def test_a_new_package_that_is_not_healthy_leaves_nothing_behind(
    stocked: Device, stock: Lab, shop: Server
) -> None:
    stock.offer_package(
        "hungry",
        version="0.9",
        services=service(
            "hungry",
            health={
                "kind": "exec",
                "command": ["/usr/bin/test", "-d", "/no"],
                "deadline_seconds": 3,
            },
        ),
    )
    before = stocked.packages()
    assert "hungry" in stocked.refused("package", "install", "hungry=0.9", "--source", shop.url)
    assert stocked.packages() == before
    assert (
        "not-found"
        in stocked.machine.run("systemctl show -p LoadState orbital.hungry.eat.service").output
    )
