"""Bad releases: whatever is wrong with one, the device is back on the old version by itself."""

from __future__ import annotations

import pytest

from qemu import gpt, storage
from qemu.device import Device
from qemu.faulty import FAULTS
from qemu.lab import Lab
from qemu.server import Server

pytestmark = pytest.mark.boot

# fault → (what the outcome is called, what its reason must say)
OUTCOMES = {
    "panic": ("fell-back", "never"),
    "hang-before-watchdog-driver": ("fell-back", "never"),
    "hang-initramfs": ("fell-back", "never"),
    "init-dies": ("fell-back", ""),
    "hang-userspace": ("rolled-back", "fault-hang-userspace"),
    "unhealthy": ("rolled-back", "uplink"),
    "health-hangs": ("rolled-back", "endless"),
    "crash-loop": ("rolled-back", "fault-crash-loop"),
}


# What the others show differs little (a damaged slot on another board is in CI, too), and they
# wait for a watchdog or a deadline, three times over.
_CI = ("unhealthy",)


@pytest.mark.parametrize(
    "fault",
    [name if name in _CI else pytest.param(name, marks=pytest.mark.campaign) for name in FAULTS],
)
def test_a_bad_release_ends_with_the_old_version_running(
    fault: str, device: Device, lab: Lab, server: Server
) -> None:
    """The bad version is built, signed and published like a good one; nobody touches the device."""
    version = lab.offer(f"3.{list(FAULTS).index(fault)}", fault)
    device.machine.run("echo 'before the update' > /etc/owner; sync")
    device.update(server.url, version)
    device.reboot()
    status = device.fallen_back(version)
    assert status["version"] == "1.0"
    assert (status["slot"], status["committed"], status["next_slot"]) == ("a", True, "a")
    assert device.machine.run("cat /etc/owner").output == "before the update\n"
    expected, reason = OUTCOMES[fault]
    outcome = [event for event in device.history() if event["to_version"] == version][-1]
    last = next(
        event
        for event in reversed(device.history())
        if event["event"] in ("fell-back", "rolled-back")
    )
    assert last["event"] == expected, outcome
    assert reason in last["reason"]
    # Quarantined: not offered again by itself.
    offer = device.ask("system", "update", "--check", "--source", server.url, check=False)
    assert offer.get("offer") != version


@pytest.mark.campaign
def test_a_root_file_system_that_rots_in_the_slot_falls_back(
    device: Device, lab: Lab, server: Server
) -> None:
    """Noise over the installed image, as dying flash would leave it, before its first start."""
    lab.offer("2.0")
    device.update(server.url, "2.0")
    device.machine.run("sync")
    device.machine.stop()
    with storage.open_disk(device.machine.disk, writable=True) as disk:
        slot = gpt.by_label(gpt.read_partitions(disk.read), "root-b")
        for offset in range(1 << 20, 100 << 20, 256 << 10):
            disk.write(slot.offset + offset, b"rot" * 1365 + b"!")
    device.machine.start()
    status = device.fallen_back()
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    assert [item["version"] for item in status["quarantined"]] == ["2.0"]
