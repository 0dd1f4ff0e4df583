"""What a package may do: nothing that it did not declare, by kernel and by bus."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemu.device import Device
from qemu.gpio import plug_in
from qemu.lab import Lab

pytestmark = pytest.mark.boot

# What changes the network changes the interfaces of radios, too.
NETWORK = {
    *("connect", "listen", "see interfaces", "configure interfaces"),
    "add an interface to a radio",
}
# What each capability opens, among the probe's attempts.
GRANTS: dict[str, set[str]] = {
    "bare": set(),
    "net-client": {"connect", "listen"},
    "net-server": {"connect", "listen"},
    "net-bind-privileged": {"connect", "listen", "listen below 1024"},
    "net-configure": NETWORK,
    "net-observe": {"see interfaces"},
    "net-packet-process": {"connect", "listen", "raw socket", "packet socket"},
    "net-wireless": {*NETWORK, "raw socket", "packet socket", "switch radios"},
    "net-tunnel": {*NETWORK, "make a tunnel"},
    "user-read": {"read users"},
    "time-set": {"set the clock"},
    "system-observe": {"ask systemd for a unit"},
    "hardware-serial": {"open a serial port"},
    "hardware-gpio": {"read an input line"},
}


def could(text: str) -> tuple[set[str], dict[str, str]]:
    """What the probe could do, and why it could not do the rest."""
    line = next(line for line in text.splitlines() if line.startswith('{"could"'))
    document: dict[str, Any] = json.loads(line)
    return {name for name, worked in document["could"].items() if worked}, document["why not"]


def test_each_capability_opens_what_it_says_and_nothing_else(stocked: Device, stock: Lab) -> None:
    stocked.machine.run("modprobe mac80211_hwsim radios=1 && udevadm settle")
    plug_in(stocked, stock)
    wrong = {}
    for program, expected in GRANTS.items():
        result = stocked.run_program("probe", program)
        found, reasons = could(result.output)
        if found != expected:
            missing = {name: reasons.get(name, "") for name in expected - found}
            wrong[program] = {"too much": sorted(found - expected), "missing": missing}
    assert wrong == {}


@pytest.mark.campaign
def test_a_service_without_capabilities_can_do_nothing_of_it(stocked: Device) -> None:
    # The results that the service itself found when it started.
    text = stocked.machine.run("cat /state/orbital/layers/probe/*/state/bare/results.json").output
    assert could(text)[0] == set()
    score = stocked.machine.run("systemd-analyze security orbital.probe.bare.service | tail -1")
    assert "OK" in score.output or "SAFE" in score.output, score.output


@pytest.mark.campaign
def test_the_broker_lets_who_requires_an_interface_call_it_and_nobody_else(
    stocked: Device,
) -> None:
    answer = stocked.run_program("listener", "ask").output
    assert 's "the teller was here"' in answer
    refused = stocked.run_program("stranger", "ask", check=False)
    assert refused.returncode != 0
    assert "the teller was here" not in refused.output
    assert "denied" in refused.output.lower() or "not permitted" in refused.output.lower()
    assert "org.orbital.Teller1" in denials(stocked)


@pytest.mark.campaign
def test_a_call_starts_the_service_that_answers_it(stocked: Device) -> None:
    stocked.machine.run("systemctl stop orbital.teller.tell.service")
    assert stocked.unit("teller", "tell")["ActiveState"] == "inactive"
    assert 's "the teller was here"' in stocked.run_program("listener", "ask").output
    assert stocked.unit("teller", "tell")["ActiveState"] == "active"


@pytest.mark.campaign
def test_who_may_restart_the_device_does(stocked: Device) -> None:
    """All other programs of the probe have tried in vain: see above."""
    shell = stocked.machine.shell
    boot = shell.boot_id
    # Nor may anybody who only finds the way there, outside of a sandbox.
    assert stocked.machine.run(
        "setpriv --reuid=50000 --clear-groups touch /run/orbital/power/reboot", check=False
    ).returncode
    assert "reboot.target" not in stocked.machine.run("systemctl list-jobs --no-legend").output
    shell.spawn("orbital package run probe system-reboot")
    assert shell.wait(300, not_boot=boot) != boot


def denials(device: Device) -> str:
    """What the bus has written down of calls that it refused."""
    device.machine.run("journalctl --sync")
    return device.machine.run(
        "journalctl -q -b -o cat -u dbus-broker.service | grep -i denied", check=False
    ).output
