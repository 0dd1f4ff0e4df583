"""Going back with a package, beside restarting the same service by hand.

`python -m benchmarks.packages_rollback [--pairs N] [--json]` boots the factory disk in QEMU
(software emulation), installs two versions of a package, and goes back and forth. Ours is the
time from stopping the service to the commit point, as the transaction reports it: stop,
switch views, start, check. The floor is systemctl: stop, start, and the same check, once. The
start of the `orbital` program itself, which is the larger part of the command on an emulated
machine, is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Comparison
from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server

AIM = 2.0
_SECONDS = 300
_UNIT = "orbital.counter.count.service"
_CHECK = "orbital.counter.count.check.service"
_BY_HAND = (
    f"a=$(date +%s%N); systemctl stop {_UNIT} {_CHECK}; systemctl start {_UNIT};"
    f" until systemctl start {_CHECK}; do sleep 0.2; done; b=$(date +%s%N); echo $((b - a))"
)


def measure(pairs: int) -> tuple[Comparison, float]:
    """Alternates; also returns the median seconds of the whole command."""
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as name:
        work = Path(name)
        lab = Lab(work)
        lab.offer(lab.version)
        for version in ("1.0", "1.1"):
            lab.offer_package("counter", version=version)
        (work / "machine").mkdir()
        ours, floor, whole = [], [], []
        with lab.machine(work / "machine") as machine, Server(lab.repository, work) as server:
            device = Device(machine)
            device.settle(_SECONDS)
            device.install(server.url, "counter=1.0")
            device.package("update", "counter", source=server.url)
            for _ in range(pairs):
                floor.append(int(machine.run(_BY_HAND, 60).output.split()[-1]) / 1e9)
                started = time.monotonic()
                done = device.package("rollback", "counter")
                whole.append(time.monotonic() - started)
                ours.append(float(done["seconds"]))
        row = Comparison("rollback of a package", tuple(ours), tuple(floor), AIM)
        return row, sorted(whole)[len(whole) // 2]


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row, whole = measure(options.pairs)
    if options.json:
        print(json.dumps({**row.document(), "whole_command_seconds": whole}, indent=1))
    else:
        print(f"{row.row()}\n  the whole command: {whole:.1f} s")


if __name__ == "__main__":
    main()
