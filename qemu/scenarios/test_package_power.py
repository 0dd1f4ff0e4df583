"""The power goes while packages change: the set before or the set after, whole."""

from __future__ import annotations

import pytest

from qemu.deadline import Deadline
from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server
from qemu.variants import service

pytestmark = pytest.mark.boot

NEXT = service("counter", environment={"COUNTER_SCHEMA": "1", "NEXT": "1"})


# Every step is cut without a boot as well (tests/updater/packages).
_CAMPAIGN = [
    pytest.param(moment, marks=pytest.mark.campaign)
    for moment in ("stop services", "activate", "committed")
]


@pytest.mark.parametrize("moment", [*_CAMPAIGN, "start services"])
def test_a_power_cut_leaves_one_whole_set(
    stocked: Device, stock: Lab, shop: Server, moment: str
) -> None:
    machine = stocked.machine
    stock.offer_package("counter", version="1.1", services=NEXT)
    count = int(stocked.run_program("counter", "value").output.split()[-1])
    machine.run("sync")
    job = machine.shell.spawn(f"orbital package install counter=1.1 --source {shop.url}")
    deadline = Deadline(600)
    if moment == "committed":
        # Who was told that it is done has the new set, whatever happens then.
        assert job.wait(600).returncode == 0
    while moment != "committed" and moment not in job.output():
        assert job.poll() is None, f"{moment} never came: {job.output()}"
        assert not deadline.expired, job.output()
    machine.kill()
    machine.start()
    stocked.settle()

    version = stocked.packages()["counter"]["version"]
    assert version in (("1.1",) if moment == "committed" else ("1.0", "1.1"))
    assert stocked.unit("counter", "count")["ActiveState"] == "active"
    assert int(stocked.run_program("counter", "value").output.split()[-1]) >= count
    # The next change finds nothing that stops it, and the audit chain is whole.
    stocked.package("disable", "crasher")
    results = [entry["result"] for entry in stocked.audit() if entry["what"] == "package.change"]
    assert results.count("started") == len(results) / 2, results
