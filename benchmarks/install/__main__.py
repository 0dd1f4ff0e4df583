"""`python -m benchmarks.install`: a whole update, beside `rauc install` from Debian.

One device with one processor, one link: a web server behind a throttled interface. The device
is emulated (QEMU, TCG, Debian's kernel; its disks are throttled, too), or computes natively (user
mode Linux, whose system calls are slow). In turns it installs the same new image, root and boot
artifact, over the same old one:

  Orbital               `orbital system update`, with the published delta
  Orbital, prefer time  the same with --prefer time
  Orbital, no delta     the same from another base, as if none had been published
  RAUC full             rauc install URL: streaming of a verity bundle (nbd in the guest)
  RAUC adaptive         the same with adaptive=block-hash-index and the stored index of both slots

Time is from the start of the command to flushed data. RAUC's service runs already, as on a
device; our interpreter's start is counted. Nothing is computed: every figure is counted in the
guest or on its interface. Each result is compared with the new image, byte by byte. The link
has no delay of its own, which favours who asks more often.

Neither machine is a device, so figures are for comparison. Needs root (a network namespace), nginx,
mmdebstrap, and a C compiler for user mode Linux; packages come from the machine's Debian mirror and
stay in the cache. Exit code 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.delta.images import Workshop
from benchmarks.install import emulated, guest, machine, native, offer
from benchmarks.install.figures import (
    METHODS,
    ORBITAL,
    OURS_FULL,
    OURS_QUICK,
    RAUC_FULL,
    Run,
    summaries,
    verdicts,
)
from benchmarks.install.link import GUEST, Link
from imager.cache import Cache, default_directory
from imager.kernel import prepare_kernel
from imager.tools import prepare_tools
from manifests.catalogue import find, load_board
from recovery.errors import ToolError
from recovery.reporter import Reporter, SilentReporter

_MACHINES = {"emulated": "QEMU, TCG", "native": "user mode Linux"}
_PATIENCE = 3600.0
_KEPT = "/state/kept"


class Bench:
    """The device with both updaters, and what surrounds it."""

    def __init__(
        self,
        device: machine.Guest,
        server: machine.WebServer,
        link: Link,
        offered: offer.Offer,
        disks: Sequence[Path],
        *,
        empty: bool,
    ) -> None:
        self._guest = device
        self._server = server
        self._link = link
        self._offer = offered
        self._disks = disks
        self._empty = empty

    def prepare(self) -> str:
        """Brings the guest to where a device is that RAUC has updated before: an index of each
        slot is stored. Returns what runs there."""
        found = self._guest.ask("setup", address=f"{GUEST}/24", state="/dev/vdf")
        for running in ("b", "a"):
            # Installs the old image into the other slot, which holds it already.
            self._rauc_service(running)
            self._guest.run("rauc", "install", f"{self._server.url}/{offer.ADAPTIVE_OLD}")
        self._guest.ask("keep", source="/state/rauc", target=_KEPT)
        return f"{found['rauc']}, Linux {found['kernel']}"

    def run(self, method: str, speed: float, number: int) -> Run:
        """One installation. Raises ToolError when it fails or makes something else."""
        self._reset(method)
        self._link.throttle(speed)
        before, requests = self._link.counters(), self._server.requests()
        emulated = self._guest.processor_seconds()
        found = self._guest.ask("measure", _PATIENCE, command=self._command(method))
        emulated = self._guest.processor_seconds() - emulated
        moved = self._link.counters() - before
        self._link.throttle(0)
        if found["code"]:
            raise ToolError(f"cannot install with {method}", details=found["output"][-3000:])
        self._check(method)
        return Run(
            method=method,
            speed=speed,
            round=number,
            seconds=found["seconds"],
            cpu=found["cpu"],
            emulator=emulated,
            memory=found["memory"],
            down=moved.down,
            up=moved.up,
            written=sum(found["written"].values()),
            requests=self._server.requests() - requests,
        )

    def _reset(self, method: str) -> None:
        """The old image runs; what the other slot holds is the same in every run."""
        for source, target in (("/dev/vda", "/dev/vdb"), ("/dev/vdc", "/dev/vdd")):
            if self._empty:
                self._guest.ask("zero", target=target)
            else:
                self._guest.ask("copy", source=source, target=target)
        self._guest.ask("keep", source="/none", target="/state/orbital")
        if method in ORBITAL:
            self._guest.run("python3", "-I", guest.DEVICE, "factory", _facts(method))
            return
        self._guest.ask("keep", source=_KEPT, target="/state/rauc")
        self._rauc_service("a")

    def _rauc_service(self, running: str) -> None:
        self._guest.ask(
            "service",
            name="rauc",
            command=["rauc", "service", f"--override-boot-slot={running}"],
            ready=["rauc", "status"],
        )

    def _command(self, method: str) -> list[str]:
        url = self._server.url
        if method in ORBITAL:
            facts = _facts(method)
            prefer = "time" if method == OURS_QUICK else "bytes"
            return ["python3", "-I", guest.DEVICE, "update", facts, f"{url}/repository", prefer]
        bundle = offer.FULL if method == RAUC_FULL else offer.ADAPTIVE
        return ["rauc", "install", f"{url}/{bundle}"]

    def _check(self, method: str) -> None:
        """The guest has flushed, so its disks are what is in the files."""
        for disk, wanted in ((1, self._offer.new.root), (3, self._offer.new.boot)):
            content = wanted.read_bytes()
            with self._disks[disk].open("rb") as file:
                if file.read(len(content)) != content:
                    raise ToolError(f"cannot trust {method}: {wanted.name} is not the new one")


def _say(run: Run) -> None:
    (row,) = summaries([run])
    print(row.row(), file=sys.stderr, flush=True)


class _Lines(SilentReporter):
    """Says what goes on, on stderr."""

    def stage(self, name: str) -> None:
        """Prints it."""
        print(f"{name} ...", file=sys.stderr, flush=True)


def _facts(method: str) -> str:
    return guest.OTHER_FACTS if method == OURS_FULL else guest.FACTS


def measure(options: argparse.Namespace, work: Path, reporter: Reporter) -> Iterator[str | Run]:
    """What runs, for people; then the runs."""
    cache = Cache(options.cache)
    tools = prepare_tools(cache)
    pair = Workshop(cache, tools, small=options.small).pair(options.pair)
    kernel = prepare_kernel(load_board(find("board", "qemu-x86_64")), cache, tools)
    system = guest.debian(cache)
    offered = offer.make(
        pair,
        kernel.image,
        work,
        cache=cache,
        tools=tools,
        rauc=system / "tree",
        reporter=reporter,
    )
    runs_in, hardware = kernel, emulated.HARDWARE
    if options.machine == "native":
        runs_in, hardware = native.kernel(cache, tools), native.HARDWARE
    initramfs = guest.write_initramfs(system, runs_in, hardware, offered, work)
    disks = guest.make_disks(offered, work, tools)

    def start() -> machine.Guest:
        if options.machine == "native":
            return native.Native(runs_in.image, initramfs, disks, work)
        rate = int(options.write_rate * 1e6)
        return emulated.Emulated(runs_in.image, initramfs, disks, work, rate)

    # From here on nothing is fetched: the namespace has no way out.
    link = Link()
    server = machine.WebServer(offered.www, work)
    reporter.stage("boot and prepare the device")
    try:
        with start() as device:
            bench = Bench(device, server, link, offered, disks, empty=options.target == "empty")
            yield (
                f"{pair.name}: {pair.what}; {pair.new.size / 1e6:.1f} MB; {bench.prepare()}; "
                f"slot b holds {'the old image' if options.target == 'old' else 'zeros'}; "
                f"{_MACHINES[options.machine]}"
                + (f", disks write {options.write_rate:g} MB/s" if options.write_rate else "")
            )
            methods = [name for name in METHODS if name in options.methods]
            for name in methods:
                if name in ORBITAL:
                    # Python compiles our programs, as the image of a device has them; not
                    # counted. RAUC has installed twice already.
                    _say(bench.run(name, 0, 0))
            for number in range(options.rounds):
                for speed in options.speeds:
                    turn = number % len(methods)
                    for name in (*methods[turn:], *methods[:turn]):
                        yield bench.run(name, speed, number)
    finally:
        server.close()


def main() -> int:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.install",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pair", default="a", help="of images (benchmarks.delta), default a")
    parser.add_argument("--small", action="store_true", help="a root of 80 MB, without a kernel")
    parser.add_argument(
        "--machine",
        choices=_MACHINES,
        default="emulated",
        help="QEMU's slow processor, or the host's own under user mode Linux",
    )
    parser.add_argument(
        "--speeds",
        type=lambda text: [float(word) for word in text.split(",")],
        default=[2.0, 20.0, 200.0],
        help="of the link in Mbit/s (default 2,20,200)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(";"),
        default=METHODS,
        help=f"separated by semicolons (default: {';'.join(METHODS)})",
    )
    parser.add_argument("--target", choices=("old", "empty"), default="old", help="slot b before")
    parser.add_argument(
        "--write-rate",
        type=float,
        help="MB/s of the disks, 0 without limit (40; no limit with the native machine)",
    )
    parser.add_argument("--cache", type=Path, default=default_directory())
    parser.add_argument("--work", type=Path, help="folder for files and logs; kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.machine == "native" and options.write_rate:
        parser.error("--write-rate: only the emulated machine has one")
    if options.write_rate is None:
        options.write_rate = 40.0 if options.machine == "emulated" else 0.0
    machine.lower_priority()
    out = sys.stderr if options.json else sys.stdout
    runs: list[Run] = []
    what = ""
    # There a flush ends in the host's memory, as QEMU's does.
    memory = "/dev/shm" if options.machine == "native" else None
    with tempfile.TemporaryDirectory(prefix="orbital-bench-", dir=memory) as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for item in measure(options, work, _Lines()):
            if isinstance(item, str):
                what = item
                print(what, file=out, flush=True)
                continue
            runs.append(item)
            _say(item)
    table, judged = list(summaries(runs)), list(verdicts(runs, options.pair))
    for line in (*(row.row() for row in table), *(item.row() for item in judged)):
        print(line, file=out)
    if options.json:
        document = {
            "what": what,
            "small": options.small,
            "runs": [run.document() for run in runs],
            "medians": [row.document() for row in table],
            "aims": [{"text": item.row(), "met": item.met} for item in judged],
        }
        print(json.dumps(document, indent=1))
    return 0 if all(item.met for item in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
