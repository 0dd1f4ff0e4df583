"""Installs that are cut: power, network. What was written and verified is not fetched again."""

from __future__ import annotations

import pytest

from qemu.device import Device
from qemu.faults import cut_after_written, cut_at_console, link_down
from qemu.lab import Lab
from qemu.server import Server

pytestmark = [pytest.mark.boot, pytest.mark.campaign]


def _chunks(server: Server) -> list[str]:
    """Paths of the chunks that were delivered whole."""
    return [
        request.path
        for request in server.requests()
        if request.path.startswith("/chunks/") and request.status == 200 and request.complete
    ]


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(24 << 20, id="early"),
        pytest.param(96 << 20, id="late"),
    ],
)
def test_a_power_cut_while_writing_leaves_the_old_version_and_the_update_resumes(
    written: int, device: Device, lab: Lab, server: Server
) -> None:
    lab.offer("2.0")
    machine = device.machine
    with cut_after_written(machine, written) as cut:
        machine.shell.spawn(f"orbital system update --source {server.url} --to 2.0")
        cut.wait(300)
    before = set(_chunks(server))
    assert before
    machine.start()
    status = device.settle()
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    seen = len(server.requests())
    done = device.update(server.url, "2.0")["installed"]
    assert done["kept"] > 0
    again = [
        request.path
        for request in server.requests()[seen:]
        if request.path.startswith("/chunks/") and request.path in before
    ]
    # What was in flight at the cut may be fetched twice; what was on the disk is not.
    assert len(again) < len(before)
    assert device.restart(400)["version"] == "2.0"


def test_a_power_cut_right_after_the_commit_point_ends_in_a_trial(
    device: Device, lab: Lab, server: Server
) -> None:
    """Installed and armed, then no orderly shutdown: the next boot is the trial, and it commits."""
    lab.offer("2.0")
    device.update(server.url, "2.0")
    device.machine.kill()
    device.machine.start()
    status = device.settle(400, when=lambda found: found["version"] == "2.0")
    assert status["committed"] is True


def test_a_power_cut_during_the_trial_uses_one_try_and_the_next_commits(
    device: Device, lab: Lab, server: Server
) -> None:
    lab.offer("2.0")
    device.update(server.url, "2.0")
    machine = device.machine
    with cut_at_console(machine, "orbital: initramfs: switch_root") as cut:
        device.reboot()
        cut.wait(200)
    machine.start()
    status = device.settle(400, when=lambda found: found["version"] == "2.0")
    assert status["committed"] is True


def test_a_network_that_fails_in_the_middle_of_a_download_only_delays_it(
    device: Device, lab: Lab, server: Server
) -> None:
    lab.offer("2.0")
    machine = device.machine
    job = machine.shell.spawn(f"orbital system update --source {server.url} --to 2.0")
    machine.run("while ! ls /state/orbital/*install* >/dev/null 2>&1; do sleep 0.2; done", 120)
    with link_down(machine):
        machine.run("sleep 10")
    assert job.wait(400).returncode == 0
    assert device.restart(400)["version"] == "2.0"


def test_a_server_that_breaks_every_connection_off_still_delivers(
    device: Device, lab: Lab, server: Server
) -> None:
    lab.offer("2.0")
    server.start(drop_after=6 << 20)
    assert device.update(server.url, "2.0", timeout=600)["installed"]["version"] == "2.0"
    assert server.drops > 0
