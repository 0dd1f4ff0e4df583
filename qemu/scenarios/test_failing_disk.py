"""A disk that fails below the kernel, and an updater without memory: refused, harmless, repeatable.

One device meets one fault after the other, each at a later step of the same update; what is
written once is kept. Between them, and at the end, it must be what it was. The errors are QEMU's
(blkdebug): unlike `tests.hostile.disks`, which fails each system call, here the page cache, the
file systems and their journals stand between the error and the updater.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from qemu.deadline import Deadline
from qemu.device import Device, Document
from qemu.errors import GuestRestarted
from qemu.faults import disk_errors
from qemu.faulty import patient
from qemu.lab import Lab
from qemu.server import Server

pytestmark = [pytest.mark.boot, pytest.mark.campaign]

_KIB, _MIB = 1 << 10, 1 << 20
_UPDATE_SECONDS = 1800
# Of updater/units/orbital-update.service.
_LIMIT = "192M"


@pytest.fixture
def own_lab(tmp_path: Path) -> Lab:
    """The reference product, as two releases: merely slow is not broken."""
    lab = Lab(tmp_path)
    lab.product = patient(lab.product)
    lab.offer(lab.version)
    lab.offer("2.0")
    return lab


@pytest.fixture
def tested(own_lab: Lab, artifacts: Path) -> Iterator[Device]:
    """The factory disk, switched on and settled."""
    directory = artifacts / "machine"
    directory.mkdir()
    with own_lab.machine(directory) as machine:
        _settle(Device(machine))
        yield Device(machine)


def test_an_update_meets_a_failing_disk_and_too_little_memory_and_succeeds_afterwards(
    tested: Device, own_lab: Lab, serve: Callable[[Path], Server]
) -> None:
    device, server = tested, serve(own_lab.repository)
    slot, esp = _start(device, "root-b"), _start(device, "esp")

    # Writes to the slot are large: one of them touches such a sector.
    said = _refused(device, server, range(slot, slot + 256 * _MIB, 256 * _KIB))
    assert "Input/output error" in said, said
    _unaffected(device)

    _killed_in_the_middle(device, server)
    _unaffected(device)

    # The boot artifact's content, then the FAT itself. The kernel may let nobody write to a
    # FAT any more that it could not write itself, until it is mounted anew.
    said = _refused(device, server, range(esp + 2 * _MIB, esp + 192 * _MIB, 128 * _KIB))
    assert "Input/output error" in said, said
    _unaffected(device)
    _refused(device, server, range(esp, esp + 2 * _MIB, 512))
    _unaffected(device)
    _unaffected(device, _restart(device))

    # Everything: the state partition's journal, too, after which that is read-only.
    _refused(device, server, None)
    device.orbital("system", "health")
    _unaffected(device, _restart(device))

    unit = f"systemd-run --wait --quiet -p MemoryMax={_LIMIT} -p MemorySwapMax=0"
    device.machine.run(f"{unit} {_command(server)}", _UPDATE_SECONDS)
    status = _restart(device)
    assert (status["version"], status["slot"], status["committed"]) == ("2.0", "b", True)


def _restart(device: Device) -> Document:
    """Off in good order, and on: quicker than firmware is after a reset in the same QEMU."""
    device.machine.stop(_UPDATE_SECONDS)
    device.machine.start()
    return _settle(device)


def _settle(device: Device) -> Document:
    # Waits in the guest, once; asking again and again slows it down.
    with suppress(GuestRestarted):
        device.rest(_UPDATE_SECONDS)
    return device.settle(_UPDATE_SECONDS)


def _killed_in_the_middle(device: Device, server: Server) -> None:
    """The memory is taken from an update that is writing the slot."""
    machine = device.machine
    before = machine.written()
    unit = f"systemd-run --unit=tight -p MemoryMax={_LIMIT} -p MemorySwapMax=0"
    machine.run(f"{unit} {_command(server)}", 120)
    deadline = Deadline(_UPDATE_SECONDS)
    while machine.written() - before < 24 * _MIB:
        assert not deadline.expired
        deadline.pause(0.2)
    machine.run("systemctl set-property --runtime tight.service MemoryMax=8M", 120)
    machine.run("while systemctl is-active -q tight.service; do sleep 1; done", 600)
    assert machine.run("systemctl show -P Result tight.service").output.strip() == "oom-kill"


def _command(server: Server) -> str:
    return f"orbital system update --source {server.url} --to 2.0"


def _refused(device: Device, server: Server, offsets: Iterable[int] | None) -> str:
    """An update while writes to these sectors fail (None: all writes). Returns the error."""
    words = _command(server).split()[1:]
    with disk_errors(device.machine, operation="write", offset=offsets):
        said = device.refused(*words, timeout=_UPDATE_SECONDS)
    assert said.startswith("cannot "), said
    return said


def _unaffected(device: Device, status: Document | None = None) -> None:
    """It runs what it ran, and would start that again."""
    found = status or device.status()
    assert (found["version"], found["slot"], found["next_slot"]) == ("1.0", "a", "a")
    assert found["committed"] is True
    assert found["trial"] is None
    assert found["quarantined"] == []


def _start(device: Device, label: str) -> int:
    """Where a partition begins on the disk, in bytes."""
    name = f'"$(basename "$(readlink -f /dev/disk/by-partlabel/{label})")"'
    return int(device.machine.run(f"cat /sys/class/block/{name}/start").output) * 512
