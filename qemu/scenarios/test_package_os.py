"""Packages and the OS: an update brings along what fits, a fallback brings back what belonged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.scenarios.counting import MIGRATIONS, count, schema
from qemu.server import Server
from qemu.variants import service

pytestmark = pytest.mark.boot

SECONDS = 600
OLD = [{"system": "gateway", "versions": "<2"}]
NEW = [{"system": "gateway", "versions": ">=2"}]
UNWELL = {"kind": "exec", "command": ["/usr/bin/test", "-e", "/no"], "deadline_seconds": 4}


@pytest.fixture
def own(tmp_path: Path) -> Lab:
    """A repository of its own: which release is the newest matters here."""
    return Lab(tmp_path / "lab")


@pytest.mark.campaign
def test_packages_and_their_state_follow_the_os_forward_and_back(
    device: Device, own: Lab, serve: Callable[[Path], Server]
) -> None:
    own.offer(own.version)
    own.offer_package("counter", systems=OLD)
    own.offer_package("probe", systems=OLD)
    server = serve(own.repository)
    device.install(server.url, "counter", "probe")
    at_first = count(device)

    # Not while an installed package has no version for the new image; and nothing has changed.
    own.offer("2.0")
    own.offer_package(
        "counter",
        version="2.0",
        against="2.0",
        services=schema(2),
        state_version=2,
        migrations=MIGRATIONS,
        systems=NEW,
    )
    text = device.refused("system", "update", "--source", server.url)
    assert "probe" in text and "2.0" in text, text
    assert device.status()["trial"] is None

    # Both in one trial, with the state migrated.
    device.package("remove", "probe")
    device.update(server.url)
    status = device.restart(SECONDS)
    assert (status["version"], status["committed"]) == ("2.0", True)
    assert device.packages()["counter"]["version"] == "2.0"
    assert device.unit("counter", "count")["ActiveState"] == "active"
    in_the_new = count(device)
    assert in_the_new >= at_first
    assert device.machine.run("ls /state/orbital/layers/counter/*/state/count/counts")
    device.settle(SECONDS, when=lambda found: not found["on_probation"])

    # The next image is unhealthy, and its package versions go with it.
    own.offer("3.0", "unhealthy")
    own.offer_package(
        "counter",
        version="3.0",
        against="2.0",
        services=schema(2),
        state_version=2,
        migrations=MIGRATIONS,
        systems=NEW,
    )
    before = count(device)
    device.update(server.url)
    status = device.restart(SECONDS)
    status = device.settle(
        SECONDS, when=lambda found: any(q["version"] == "3.0" for q in found["quarantined"])
    )
    assert (status["version"], status["slot"]) == ("2.0", "b")
    assert device.packages()["counter"]["version"] == "2.0"
    assert device.unit("counter", "count")["ActiveState"] == "active"
    assert count(device) >= before, "with the state that it had before the trial"


@pytest.mark.campaign
def test_a_package_that_fails_in_a_trial_is_reverted_and_the_image_stays(
    device: Device, own: Lab, serve: Callable[[Path], Server]
) -> None:
    own.offer(own.version)
    own.offer_package("counter")
    server = serve(own.repository)
    device.install(server.url, "counter")
    before = count(device)
    own.offer("2.0")
    own.offer_package(
        "counter",
        version="2.0",
        against="2.0",
        services=service("counter", health=UNWELL),
        systems=NEW,
    )
    device.update(server.url)
    status = device.restart(SECONDS)
    assert (status["version"], status["committed"]) == ("2.0", True)
    counter = device.packages()["counter"]
    assert counter["version"] == "1.0"
    assert device.unit("counter", "count")["ActiveState"] == "active"
    assert count(device) >= before
    events = [event["event"] for event in device.history()]
    assert events[-3:] == ["installed", "package-reverted", "committed"]

    # And back by hand: the image of before, with its set.
    device.settle(SECONDS, when=lambda found: not found["on_probation"])
    device.orbital("system", "rollback")
    status = device.restart(SECONDS)
    assert status["version"] == own.version
    assert device.packages()["counter"]["version"] == "1.0"
    assert count(device) >= before
