"""Updates by delta, on the device: small, cut, and with everything wrong that can be."""

from __future__ import annotations

import mmap
from pathlib import Path

import msgspec
import pytest

from imager.delta.erofs import read_layout
from manifests.delta import Delta
from qemu.device import Device
from qemu.faults import corrupt, cut_after_written
from qemu.lab import Lab
from qemu.server import Server

pytestmark = pytest.mark.boot

# Loaded only with a hotspot, and long enough to lie in several blocks.
UNUSED = "/mac80211.ko"


def _place(build: Path) -> tuple[int, int]:
    """Where in the root image a file lies that nothing reads while a device boots."""
    with (build / "root.img").open("rb") as file:
        image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (node,) = [node for node in read_layout(memoryview(image)).nodes if UNUSED in node.path]
    return node.data, node.data_size


def _parts(lab: Lab, version: str) -> list[Path]:
    """The files with the payloads of a version's one delta."""
    board = lab.product.board.board
    folder = lab.repository / "targets/os" / lab.product.manifest.system / board / version
    (document,) = folder.glob("*.delta-*.json")
    delta = msgspec.json.decode(document.read_bytes(), type=Delta)
    return [lab.repository / "chunks" / part.sha256[:2] / part.sha256 for part in delta.parts]


def _settled(device: Device) -> None:
    """Waits until the next update may begin."""
    device.settle(when=lambda found: found["committed"] and not found["on_probation"])


def test_deltas_are_small_survive_a_power_cut_and_give_way_when_they_cannot_be_used(
    device: Device, lab: Lab, server: Server
) -> None:
    machine = device.machine
    lab.offer("2.5", delta_from=("1.0",))
    size = sum(part.stat().st_size for part in _parts(lab, "2.5"))

    # The power goes in the middle; the server knows no ranges and drops every 200 kB.
    server.start(drop_after=200_000, ranges=False)
    with cut_after_written(machine, 48 << 20) as cut:
        machine.shell.spawn(f"orbital system update --source {server.url} --to 2.5")
        cut.wait(300)
    machine.start()
    status = device.settle()
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    done = device.update(server.url, "2.5")["installed"]
    assert done["kept"] > 16 << 20
    assert done["fetched"] <= size < done["full"] / 100
    assert (done["wasted"], done["notes"]) == (0, [])
    assert device.restart()["version"] == "2.5"

    # The base is damaged on the disk, in a file that nothing reads.
    lab.offer("2.6", delta_from=("2.5",))
    server.start()
    machine.run("sync")
    machine.stop()
    offset, length = _place(lab.build("2.5"))
    corrupt(machine.disk, "root-b", offset=offset, length=length)
    machine.start()
    _settled(device)
    done = device.update(server.url, "2.6")["installed"]
    assert any("is not what was signed" in note for note in done["notes"]), done
    assert done["fetched"] < done["full"] / 2
    assert device.restart()["version"] == "2.6"
    _settled(device)

    # The delta is announced and not there: slices of the running image are.
    lab.offer("2.7", delta_from=("2.6",))
    for part in _parts(lab, "2.7"):
        part.unlink()
    done = device.update(server.url, "2.7")["installed"]
    assert any("no such file" in note for note in done["notes"]), done
    assert done["copied"] > done["full"] / 2, done
    assert done["fetched"] < done["full"] / 3
    assert done["wasted"] == 0
