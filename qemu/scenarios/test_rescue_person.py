"""The rescue system with a person: what it asks for, a stick, a login, an erased device."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu.device import insert_stick
from qemu.gpt import by_label, read_partitions
from qemu.hardware import Forward
from qemu.scenarios.rescuing import (
    BACK_SECONDS,
    BOARDS,
    MENU,
    MIB,
    RESCUE_SECONDS,
    SECRET,
    Bench,
    make_key,
)
from qemu.sockets import free_port
from qemu.storage import export_raw, open_disk
from recovery import process
from recovery.process import Completed
from recovery.starts import MOST_UNFINISHED, Starts

pytestmark = [pytest.mark.boot, pytest.mark.campaign]

Make = Callable[..., Bench]
every_board = pytest.mark.parametrize("bench", BOARDS, indirect=True)
uefi = pytest.mark.parametrize("bench", BOARDS[:1], indirect=True)


@every_board
def test_without_slots_and_network_it_says_what_to_bring(bench: Make, tmp_path: Path) -> None:
    """A stick with the repository, then, and nothing else."""
    alone = bench(settled=False, network=False)
    station = alone.station
    alone.damage("root-a", "root-b")
    # This start is the last one of so many that rescue comes.
    alone.record(Starts(image=station.image, starts=MOST_UNFINISHED - 1))
    alone.machine.start()
    alone.machine.wait_console("waiting for a person", BACK_SECONDS)
    alone.machine.wait_console(MENU, RESCUE_SECONDS)
    product = station.lab.product
    said = (
        "orbital: rescue: bring a stick (FAT or ext4) with the repository of system "
        f"{product.manifest.system} for board {product.board.board}, whole: metadata/, targets/ "
        f"and chunks/; or connect the network, so that {station.server.url} can be reached"
    )
    assert said in alone.machine.console.text
    assert re.search("slot a: damaged: ", alone.machine.console.text)
    insert_stick(alone.machine, station.stick(tmp_path))
    mark = alone.machine.console.mark
    alone.type("2")
    alone.machine.wait_console("installed into slot a", BACK_SECONDS, mark)
    alone.started()


class Login:
    """An SSH client for the rescue system, with one of two keys."""

    def __init__(self, port: int, key: Path) -> None:
        self.port, self.key = port, key

    def run(self, command: str, *, key: Path | None = None, timeout: float = 300) -> Completed:
        """Runs a command there. The machine's key is new at every start: none is known."""
        options = (
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "ConnectTimeout=120", "-o", "ServerAliveInterval=10"),
            *("-F", "/dev/null", "-p", str(self.port)),
        )
        whose = key or self.key
        return process.run(
            ["ssh", *options, "-i", str(whose), "root@127.0.0.1", command],
            timeout=timeout,
            check=False,
        )


@uefi
def test_a_login_is_for_the_manifests_keys_only(
    bench: Make, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """And does what the console does; what the rescue system takes of memory is measured by it."""
    port = free_port()
    wished = bench(settled=False, forwards=[Forward(port, 22)])
    login = Login(port, wished.station.key)
    make_key(tmp_path / "stranger")
    wished.ask("a look around")
    wished.machine.start()
    wished.machine.wait_console(MENU, RESCUE_SECONDS)
    assert login.run("hostname").stdout == "rescue\n"
    refused = login.run("hostname", key=tmp_path / "stranger")
    assert (refused.returncode, refused.stdout) == (255, "")
    assert "Permission denied" in refused.stderr
    rest = _figures(login.run(f"{MEMORY}echo root $(held); echo used $(used)").stdout)
    found = login.run("orbital rescue diagnose --json", timeout=RESCUE_SECONDS)
    assert json.loads(found.stdout)["slots"]["a"]["whole"] is True
    # Slot b is empty: all of the image is fetched, which takes the most memory.
    wished.type("3")
    # Ends with the restart.
    peaks = _figures(
        login.run(f"{MEMORY}while sleep 0.3; do higher; done", timeout=BACK_SECONDS).stdout
    )
    idle, peak = (figures["used"] - rest["root"] for figures in (rest, peaks))
    record_property("memory, KiB", {"root": rest["root"], "at rest": idle, "at most": peak})
    assert "1.0 installed into slot b" in wished.machine.console.text
    assert peak <= MOST_MEMORY


# In the rescue system's shell. KiB; the root is a file in memory behind a loop device.
MEMORY = r"""
used() {
    while read -r name value unit; do
        case $name in
            MemTotal:) total=$value ;;
            MemAvailable:) echo $((total - value)); return ;;
        esac
    done < /proc/meminfo
}
held() { read -r sectors < /sys/block/loop0/size; echo $((sectors / 2)); }
peak=0
higher() {
    now=$(used)
    if [ "$now" -gt "$peak" ]; then peak=$now; echo "used $peak"; fi
}
"""
# With 64 MiB beyond the boot artifact it would be 78 beyond the root (docs/rescue.md).
MOST_MEMORY = 78 << 10


def _figures(text: str) -> dict[str, int]:
    """The last figure of each name."""
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}


@every_board
def test_what_was_erased_is_nowhere_on_the_disk(bench: Make, tmp_path: Path) -> None:
    """Discarded, as no emulated disk erases securely; and what that leaves is overwritten.

    QEMU discards whole clusters of 64 KiB. The grown partition does not end with one.
    """
    erased = bench(settled=True)
    _plant(erased, -512)
    assert _content(erased, tmp_path / "before").count(SECRET.encode()) > 1_000_000
    erased.ask("", "erase")
    erased.machine.start()
    erased.machine.wait_console("erase: discarded, and [0-9]+ bytes", BACK_SECONDS)
    erased.started()
    erased.machine.kill()
    assert SECRET.encode() not in _content(erased, tmp_path / "after")


@uefi
def test_a_disk_that_discards_nothing_is_overwritten(bench: Make, tmp_path: Path) -> None:
    erased = bench(settled=False, extra=("-global", "virtio-blk-device.discard=off"))
    _plant(erased, 8 * MIB, 9 * MIB, -512)
    erased.ask("", "erase")
    erased.machine.start()
    erased.machine.wait_console("erase: overwritten with zeros: ", RESCUE_SECONDS)
    erased.machine.wait_console("restarting", RESCUE_SECONDS)
    erased.machine.kill()
    assert SECRET.encode() not in _content(erased, tmp_path / "after")


def _plant(bench: Bench, *places: int) -> None:
    """Writes the secret to those bytes of the state partition; from its end where negative."""
    with open_disk(bench.machine.disk, writable=True) as disk:
        state = by_label(read_partitions(disk.read), "state")
        for place in places:
            disk.write(state.offset + place % state.size, SECRET.encode())


def _content(bench: Bench, output: Path) -> bytes:
    """All that the disk shows."""
    export_raw(bench.machine.disk, output)
    data = output.read_bytes()
    output.unlink()
    return data
