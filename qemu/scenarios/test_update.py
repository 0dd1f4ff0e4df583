"""Updates that work: over HTTP, from a stick, twice in a row, and back again by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu.device import Device, plug_stick
from qemu.lab import Lab
from qemu.server import Server

pytestmark = [pytest.mark.boot, pytest.mark.campaign]


def _committed(status: dict[str, object]) -> bool:
    return bool(status["committed"])


def test_two_updates_in_a_row_go_to_b_and_back_to_a_and_keep_the_configuration(
    device: Device, lab: Lab, server: Server
) -> None:
    lab.offer("2.0")
    device.machine.run("echo 'set by the owner' > /etc/owner")
    done = device.update(server.url, "2.0")
    assert done["installed"]["slot"] == "b"
    # Waiting for its trial: a second update would overwrite what is on trial.
    assert "trial" in device.refused("system", "update", "--source", server.url)
    status = device.restart()
    assert (status["version"], status["slot"], status["committed"]) == ("2.0", "b", True)
    assert device.machine.run("cat /etc/owner").output == "set by the owner\n"
    # The generation before is still the way back until the probation has passed.
    assert "probation" in device.refused("system", "update", "--source", server.url)
    device.settle(300, when=lambda found: not found["on_probation"])

    lab.offer("2.1")
    assert device.update(server.url, "2.1")["installed"]["version"] == "2.1"
    status = device.restart()
    assert (status["version"], status["slot"], status["committed"]) == ("2.1", "a", True)
    events = [(event["event"], event["to_version"]) for event in device.history()]
    assert [event for event in events if event[0] == "committed"] == [
        ("committed", "2.0"),
        ("committed", "2.1"),
    ]
    assert all(
        event["requested_by"] == "root"
        for event in device.history()
        if event["event"] == "installed"
    )


def test_an_unattended_update_waits_for_its_window_and_then_needs_nobody(
    device: Device, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    """The timer's service, with the policy set on the device.

    It takes the newest there is, so this repository is not shared with other tests.
    """
    own = Lab(tmp_path)
    own.offer("2.0")
    server = serve(own.repository)
    run = device.machine.run
    now = int(run("date +%H").output)
    policy = {"source": server.url, "automatic": True}

    def set_policy(start: int, end: int) -> None:
        window = {
            "window_start": f"{start % 24:02}:00",
            "window_end": f"{end % 24:02}:00",
        }
        text = json.dumps({**policy, **window})
        device.machine.shell.push("/etc/orbital/update.json", text.encode())

    set_policy(now + 3, now + 4)
    run("systemctl start orbital-update.service", 200)
    assert device.status()["next_slot"] == "a"
    assert "/index.json" not in "".join(request.path for request in server.requests())

    set_policy(now - 1, now + 2)
    run("systemctl start --no-block orbital-update.service")
    status = device.settle(600, when=lambda found: found["version"] == "2.0")
    assert status["committed"] is True
    installed = next(event for event in device.history() if event["event"] == "installed")
    assert installed["requested_by"] == "timer"


def test_a_stick_updates_a_device_without_a_network(
    device: Device, lab: Lab, tmp_path: Path
) -> None:
    lab.offer("2.0")
    image = tmp_path / "stick.img"
    with image.open("wb") as out:
        out.truncate(512 << 20)
    lab.tools.run("mkfs.vfat", "-F", "32", image)
    lab.tools.run("mcopy", "-s", "-i", image, *sorted(lab.repository.glob("[a-z]*")), "::/")
    device.machine.run("ip link set dev eth0 down 2>/dev/null || :")
    where = plug_stick(device.machine, image)
    assert device.update(where, "2.0")["installed"]["version"] == "2.0"
    status = device.restart()
    assert (status["version"], status["committed"]) == ("2.0", True)


def test_a_manual_rollback_returns_the_previous_version_with_its_configuration(
    device: Device, lab: Lab, server: Server
) -> None:
    lab.offer("2.0")
    device.machine.run("echo one > /etc/owner")
    device.update(server.url, "2.0")
    device.restart()
    device.machine.run("echo two > /etc/owner; sync")
    device.orbital("system", "rollback")
    status = device.restart()
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    assert device.machine.run("cat /etc/owner").output == "one\n"
    # The version that someone went back from is not installed again by itself.
    offer = device.ask("system", "update", "--check", "--source", server.url, check=False)
    assert offer.get("offer") != "2.0"
