"""orbital demo: the whole path once, told as a story (README's first command)."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from orbital.output import Output, amount
from qemu.device import Device, Document
from qemu.lab import Lab
from qemu.server import Server
from qemu.variants import service
from recovery.reporter import SilentReporter

GOOD, BAD, FAULT = "2.0", "3.0", "unhealthy"
PACKAGES = ("servicekit", "firewall")
_SECONDS = 900


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser.description = (
        "Builds three releases of the reference product, boots the factory disk in QEMU under "
        "Secure Boot, installs packages, ships it a bad package and a broken release, and shows "
        "how it recovers: packages with their state, the OS with its packages."
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="keep disk, repository and logs here (default: a temporary directory)",
    )
    parser.set_defaults(handler=_demo)


def _demo(args: argparse.Namespace, output: Output) -> int:
    if args.directory is not None:
        args.directory.mkdir(parents=True, exist_ok=True)
        _Story(args.directory, output).tell()
        return 0
    with tempfile.TemporaryDirectory(prefix="orbital-demo-") as name:
        _Story(Path(name), output).tell()
    return 0


def _system(versions: str) -> dict[str, str]:
    """The reference product in these versions, as a manifest names it."""
    return {"system": "gateway", "versions": versions}


class _Downloads(SilentReporter):
    """Of all the work, tells only what may take minutes the first time."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def stage(self, name: str) -> None:
        """Says that Debian packages are fetched."""
        if name in ("tools", "base", "kernel"):
            self._output.line(f"   fetching Debian packages: {name} (kept for the next time)")


class _Story:
    """The steps of the demonstration."""

    def __init__(self, directory: Path, output: Output) -> None:
        self._output = output
        self._started = time.monotonic()
        # A bar redraws its line; where lines stay, the story is easier to follow without it.
        reporter = output.reporter if sys.stderr.isatty() else _Downloads(output)
        self._lab = Lab(directory, reporter=reporter)
        self._machine_directory = directory / "machine"
        self._machine_directory.mkdir(exist_ok=True)
        self._chapters: list[Document] = []

    def tell(self) -> None:
        """Runs the demonstration."""
        lab = self._lab
        self._chapter("Keys: Secure Boot, and TUF with a threshold root")
        self._say(f"{lab.prepare_keys()}")
        self._chapter(f"Three releases of '{lab.product.manifest.system}', built from manifests")
        for version, fault in ((lab.version, None), (GOOD, None), (BAD, FAULT)):
            build = lab.build(version, fault)
            size = amount((build / "root.img").stat().st_size)
            note = f"  <- broken on purpose: {FAULT} health check" if fault else ""
            self._say(f"{build.name}: root image {size}{note}")
        lab.offer(lab.version)
        lab.offer(GOOD, delta_from=(lab.version,))
        self._say(f"published {lab.version} and {GOOD} as static files: {lab.repository}")
        self._chapter("Feature packages, signed by their publisher")
        # This counter is for images before 2.0, the other for those from 2.0 on.
        old, new = [_system(f"<{GOOD}")], [_system(f">={GOOD}")]
        files = [lab.build_package(name) for name in PACKAGES]
        files.append(lab.build_package("counter", systems=old))
        corrupt = service(
            "counter",
            environment={"COUNTER_SCHEMA": "1", "COUNTER_FAULT": "corrupt"},
            health={
                "kind": "exec",
                "command": ["/usr/bin/sh", "/usr/lib/counter/check"],
                "deadline_seconds": 10,
            },
        )
        files.append(lab.build_package("counter", version="1.1", services=corrupt, systems=old))
        files.append(lab.build_package("counter", version="2.0", against=GOOD, systems=new))
        lab.publish(*files)
        self._say(", ".join(path.name for path in files))
        self._say("counter 1.1 is bad: it destroys its own state")

        self._chapter("The factory disk boots under UEFI Secure Boot")
        self._say(f"disk {lab.factory.name}, {amount(lab.factory.stat().st_size)}")
        with (
            lab.machine(self._machine_directory) as machine,
            Server(lab.repository, self._machine_directory) as server,
        ):
            self._run(Device(machine), server)
        self._output.result(
            {"chapters": self._chapters, "seconds": round(time.monotonic() - self._started)},
            f"\nDone in {time.monotonic() - self._started:.0f} s.",
        )

    def _run(self, device: Device, server: Server) -> None:
        self._show(device.settle(_SECONDS))

        self._chapter("Packages: installed, started, checked, committed; no reboot")
        device.install(server.url, "firewall", "counter=1.0")
        self._packages(device)
        before = self._count(device)

        self._chapter("counter 1.1 destroys its state and fails its check: back by itself")
        started = time.monotonic()
        reason = device.refused("package", "update", "counter", "--source", server.url)
        seconds = time.monotonic() - started
        self._say(f"{reason.splitlines()[0]}  [{seconds:.0f} s]")
        self._packages(device)
        if self._count(device) < before:
            raise AssertionError("the counter lost its state")

        self._chapter(f"Update {self._lab.version} → {GOOD} over HTTP, into the other slot")
        done = device.update(server.url)["installed"]
        self._say(
            f"installed {done['version']} into slot {done['slot']} as generation "
            f"{done['generation']}, {amount(done['fetched'])} fetched instead of "
            f"{amount(done['full'])}; rebooting into the trial"
        )
        self._show(device.restart(_SECONDS))
        self._packages(device)
        self._say("counter 1.0 is not made for this image; 2.0 is, and came in the same trial")
        before = self._count(device)
        self._say("healthy, so committed; the way back stays open until the probation has passed")
        device.settle(_SECONDS, when=lambda status: not status["on_probation"])
        self._say("probation passed")

        self._chapter(f"Now the broken release {BAD}: signed and published like any other")
        self._lab.offer(BAD, FAULT)
        done = device.update(server.url)["installed"]
        self._say(f"installed {done['version']} into slot {done['slot']}; rebooting into the trial")
        device.reboot()
        status = device.settle(
            _SECONDS,
            when=lambda found: any(item["version"] == BAD for item in found["quarantined"]),
        )
        self._chapter(f"It failed its health check, and the device went back to {GOOD} by itself")
        self._show(status)
        self._packages(device)
        after = self._count(device)
        for item in status["quarantined"]:
            self._say(f"quarantined: {item['version']}: {item['reason']}")

        self._chapter("What the device remembers: orbital system history")
        for line in device.orbital("system", "history").output.splitlines():
            self._say(line)
        if status["version"] != GOOD or not status["committed"] or after < before:
            raise AssertionError(f"the device did not recover: {status}")

    def _packages(self, device: Device) -> None:
        """The package set, in a line."""
        listed = device.packages().values()
        self._say("packages: " + ", ".join(f"{item['name']} {item['version']}" for item in listed))

    def _count(self, device: Device) -> int:
        """The counter's value: its state."""
        count = int(device.run_program("counter", "value").output.split()[-1])
        self._say(f"the counter has counted to {count}")
        return count

    def _chapter(self, title: str) -> None:
        elapsed = time.monotonic() - self._started
        self._chapters.append({"title": title, "at_seconds": round(elapsed), "lines": []})
        self._output.line(f"\n== [{elapsed:4.0f} s] {title}")

    def _say(self, text: str) -> None:
        self._chapters[-1]["lines"].append(text)
        self._output.line(f"   {text}")

    def _show(self, status: Document) -> None:
        state = "committed" if status["committed"] else "on trial"
        self._say(
            f"running: {status['system']} {status['version']}, slot {status['slot']}, "
            f"generation {status['running']['number']}, {state}"
        )
