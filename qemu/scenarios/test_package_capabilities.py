"""What a package may do: nothing that it did not declare, by kernel and by bus."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemu.device import Device

pytestmark = pytest.mark.boot

# What each capability opens, among the probe's attempts.
GRANTS: dict[str, set[str]] = {
    "bare": set(),
    "net-client": {"connect", "listen"},
    "net-server": {"connect", "listen"},
    "net-bind-privileged": {"connect", "listen", "listen below 1024"},
    "net-configure": {"connect", "listen", "see interfaces", "configure interfaces"},
    "net-observe": {"see interfaces"},
    "net-packet-process": {"connect", "listen", "raw socket", "packet socket"},
    "user-read": {"read users"},
    "time-set": {"set the clock"},
    "system-observe": {"ask systemd for a unit"},
    "hardware-serial": {"open a serial port"},
}


def could(text: str) -> tuple[set[str], dict[str, str]]:
    """What the probe could do, and why it could not do the rest."""
    line = next(line for line in text.splitlines() if line.startswith('{"could"'))
    document: dict[str, Any] = json.loads(line)
    return {name for name, worked in document["could"].items() if worked}, document["why not"]


def test_each_capability_opens_what_it_says_and_nothing_else(stocked: Device) -> None:
    wrong = {}
    for program, expected in GRANTS.items():
        result = stocked.run_program("probe", program)
        found, reasons = could(result.output)
        if found != expected:
            missing = {name: reasons.get(name, "") for name in expected - found}
            wrong[program] = {"too much": sorted(found - expected), "missing": missing}
    assert wrong == {}


def test_a_service_without_capabilities_can_do_nothing_of_it(stocked: Device) -> None:
    # The results that the service itself found when it started.
    text = stocked.machine.run("cat /state/orbital/layers/probe/*/state/bare/results.json").output
    assert could(text)[0] == set()
    score = stocked.machine.run("systemd-analyze security orbital.probe.bare.service | tail -1")
    assert "OK" in score.output or "SAFE" in score.output, score.output


def test_the_broker_lets_who_requires_an_interface_call_it_and_nobody_else(
    stocked: Device,
) -> None:
    answer = stocked.run_program("listener", "ask").output
    assert 's "the teller was here"' in answer
    refused = stocked.run_program("stranger", "ask", check=False)
    assert refused.returncode != 0
    assert "the teller was here" not in refused.output
    assert "denied" in refused.output.lower() or "not permitted" in refused.output.lower()
