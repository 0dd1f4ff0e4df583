"""`python -m evidence soak --cycles 1000`: devices on the model live unattended.

Three devices (systemd-boot, GRUB, U-Boot) take turns. A cycle is an update to a new version
that is good, panics or fails its health checks, a rollback by hand, or a change of packages
(install, update that may fail, removal); the power is cut at a random durable operation of it in
half of the cycles, and of each boot that follows in a fifth. Then the device must come to rest
where it may: a good update that was installed whole is committed, a bad one never, nothing
that was committed is lost, and what runs is what is committed. Everything is drawn from --seed.

A cycle is 15 to 40 boots' worth of the updater and recovery that ship; the loader is the model
of the tests. OS updates are made while no package is installed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from evidence.result import record
from evidence.soak.device import Health, SoakDevice, Wrong
from evidence.soak.power import Meter
from recovery.errors import OrbitalError, RefusedError
from recovery.generations import Generation, PackageEntry
from recovery.history import History
from recovery.reporter import SilentReporter
from recovery.state import StateRecord
from tests.recovery.loaders import MEMORY
from tests.updater.packages.fakehost import digest_of, package
from tests.updater.publisher import Publisher
from updater.packages.transaction import Asked, Wanted, change, reconcile

KINDS = ("systemd-boot", "grub", "u-boot")
WARM_UP = 60
# What may grow, and how far.
BOUNDED = {
    "audit.jsonl": " (a device's begins anew at 512 KiB)",
    "audit.1.jsonl": " (the part before, at most 512 KiB a device)",
    "history.jsonl": " (at most 256 KiB a device)",
    "tuf": " (the repository's metadata: one version more a release)",
}
BOOTS = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--cycles", type=int, default=1000, help="how many")
    parser.add_argument(
        "--qemu", action="store_true", help="the device that ships, in QEMU; needs --work"
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="with --qemu: begin no cycle after that time"
    )
    parser.add_argument("--seed", type=int, default=1, help="where the dice begin")


class Soak:
    """The devices, their publisher, and what was counted."""

    def __init__(self, root: Path, seed: int) -> None:
        """root: an empty folder."""
        self.dice = random.Random(seed)
        self.publisher = Publisher(root / "publisher")
        self.number = 1
        first = self.publisher.build("1.0", data_blocks=16, boot_size=20_000)
        self.publisher.publish(first)
        self.now = self.publisher.now.timestamp()
        self.meter = Meter()
        self.devices = [
            SoakDevice(root / f"device-{kind}", kind, self.publisher.anchor, first)
            for kind in KINDS
        ]
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        for device in self.devices:
            device.boot()

    def release(self, health: Health, device: SoakDevice) -> str:
        """Another version."""
        self.number += 1
        version = f"{self.number}.0"
        image = self.publisher.build(version, data_blocks=16, boot_size=20_000)
        self.publisher.publish(image)
        for other in self.devices:
            other.images[version] = image
        device.health[version] = health
        return version

    def cycle(self, number: int) -> None:
        """One cycle of one device."""
        device = self.devices[number % len(self.devices)]
        kind = self.dice.choices(
            ["good", "panics", "ill", "rollback", "packages"], weights=[40, 12, 12, 12, 24]
        )[0]
        if kind != "packages" and committed_of(device).packages:
            self.change(device, "")
        before = committed_of(device)
        self.counts[f"cycles, {kind}"] += 1
        cut = self.dice.randrange(60) if self.dice.random() < 0.5 else None
        happened = self.meter.cuts
        armed = ""
        with self.meter.off_after(cut):
            try:
                if kind == "rollback":
                    device.roll_back()
                elif kind == "packages":
                    self.packages(device)
                else:
                    armed = self.release(kind, device)  # type: ignore[arg-type]
                    device.update(self.publisher.repository, self.now)
            except RefusedError:
                self.counts["refused, as it must be"] += 1
        undisturbed = self.meter.cuts == happened
        self.come_to_rest(device)
        after = committed_of(device)
        self.judge(device, kind, before, after, armed, undisturbed=undisturbed)

    def come_to_rest(self, device: SoakDevice) -> None:
        """Boots, some of them cut, until the device stays up twice in a row."""
        up = 0
        for _ in range(BOOTS):
            cut = self.dice.randrange(40) if self.dice.random() < 0.2 else None
            stayed, happened = False, self.meter.cuts
            with self.meter.off_after(cut):
                stayed = device.boot()
            self.counts["boots"] += 1
            up = up + 1 if stayed and self.meter.cuts == happened else 0
            if up and device.store.load().probation is not None:
                raise Wrong("a device that stays up is on probation for ever")
            if up == 2:
                with device.store.lock("soak"):
                    reconcile(device.packages(), lambda: self.now)
                return
        raise Wrong(f"no rest after {BOOTS} boots")

    def judge(
        self,
        device: SoakDevice,
        kind: str,
        before: Generation,
        after: Generation,
        armed: str,
        *,
        undisturbed: bool,
    ) -> None:
        """Whether the device is where it may be."""
        store = device.store.load()
        if store.trial is not None or store.probation is not None or store.change is not None:
            raise Wrong("something is still open")
        running = device.version_in(device.slot)
        if running != after.version or after.slot != device.slot:
            raise Wrong(f"{running} runs in {device.slot}, {after.version} is committed")
        if not device.control.slot_state(device.slot).successful:
            raise Wrong("the loader does not call the committed slot good")
        if kind in ("panics", "ill") and after.version == armed:
            raise Wrong(f"{armed}, which {kind}, is committed")
        if kind in ("panics", "ill", "packages") and after.version != before.version:
            raise Wrong(f"{before.version} was committed, {after.version} is")
        if kind == "good" and after.version not in (before.version, armed):
            raise Wrong(f"neither {before.version} nor {armed} runs, but {after.version}")
        if (
            kind == "good"
            and undisturbed
            and self.offered(device, armed)
            and after.version != armed
        ):
            tried = self.ended(device, armed)
            raise Wrong(f"{armed} is good and was installed, {after.version} runs: {tried}")

    def offered(self, device: SoakDevice, version: str) -> bool:
        """Whether its tries were not all cut: three cut boots are a trial that fell back."""
        return not any(text in self.ended(device, version) for text in ("fell-back", "rolled-back"))

    def ended(self, device: SoakDevice, version: str) -> str:
        """What the history says of a version."""
        events = History(device.store.root).events()
        return ", ".join(event.event for event in events if event.to_version == version)

    def packages(self, device: SoakDevice) -> None:
        """Installed, updated (perhaps to a version that fails), removed."""
        host = device.host
        host.step = lambda: None
        for number, version in enumerate(("1.0", "1.1")):
            host.known[digest_of("hello", version)] = package("hello", version)
            host.sick = {digest_of("hello", version)} if self.dice.random() < 0.3 else set()
            try:
                self.change(device, version)
            except RefusedError:
                raise
            except OrbitalError:
                self.counts["package changes taken back"] += 1
            self.counts["package changes"] += 1
            if number and self.dice.random() < 0.3:
                break
        host.sick = set()
        self.change(device, "")

    def change(self, device: SoakDevice, version: str) -> None:
        """One transaction. version: "" to remove the package."""
        store = device.store.root / "store"

        def planned(old: Generation, _record: StateRecord, number: int) -> Wanted:
            if not version:
                return Wanted(())
            digest = digest_of("hello", version)
            entry = PackageEntry(
                "hello", version, "feature", digest, uid=50000, state=number,
                installed=int(self.now), updated=int(self.now),
            )  # fmt: skip
            known = old.package("hello")
            if known is not None and known.version == version:
                return Wanted(old.packages)
            return Wanted((entry,), fetch=lambda: _bring(store / digest))

        asked = Asked(f"hello {version}", "soak")
        change(device.packages(), planned, asked, SilentReporter(), now=lambda: self.now)

    def sizes(self) -> dict[str, int]:
        """Bytes below each device's state, by its first folder or file."""
        found: Counter[str] = Counter()
        for device in self.devices:
            top = device.store.root
            for path in top.rglob("*"):
                if path.is_file():
                    name = path.relative_to(top).parts[0]
                    found["leftovers" if path.name.endswith(".tmp") else name] += (
                        path.stat().st_size
                    )
        return dict(found)


def _bring(path: Path) -> None:
    path.write_text("an image")


def committed_of(device: SoakDevice) -> Generation:
    """The committed generation. Raises Wrong."""
    found = device.store.generations.load(device.store.load().committed)
    if found is None:
        raise Wrong("the record of the committed generation is lost")
    return found


def soak(root: Path, cycles: int, seed: int) -> tuple[Soak, dict[str, int], dict[str, int]]:
    """Runs it; returns also the sizes after the warm-up and at the end."""
    warm: dict[str, int] = {}
    life = Soak(root, seed)
    with life.meter.installed():
        for number in range(cycles):
            if number == WARM_UP:
                warm = life.sizes()
            try:
                life.cycle(number)
            except Wrong as error:
                device = life.devices[number % len(life.devices)]
                life.wrong.append(f"cycle {number}, {device.kind}: {error}")
                break
    return life, warm, life.sizes()


def run(arguments: argparse.Namespace) -> int:
    """The campaign."""
    if arguments.qemu:
        return run_in_qemu(arguments)
    begun = time.monotonic()
    root = Path(tempfile.mkdtemp(dir=MEMORY))
    try:
        life, warm, last = soak(root, arguments.cycles, arguments.seed)
    finally:
        shutil.rmtree(root)
    counts = {
        "cycles": sum(n for name, n in life.counts.items() if name.startswith("cycles, ")),
        **dict(sorted(life.counts.items())),
        "power cuts": life.meter.cuts,
        "durable operations": life.meter.operations,
        "bytes written": life.meter.written,
    }
    for name, sizes in (("after the warm-up", warm), ("at the end", last)):
        counts[f"bytes of state {name}"] = sum(sizes.values())
        rest = sum(size for kind, size in sizes.items() if kind not in BOUNDED)
        counts[f"bytes of state {name}, without journals and metadata"] = rest
    notes = [
        f"Of the three devices together, from cycle {WARM_UP} to the end: {name} from "
        f"{warm.get(name, 0):,} to {last.get(name, 0):,} bytes{BOUNDED.get(name, '')}."
        for name in sorted(set(warm) | set(last))
        if abs(last.get(name, 0) - warm.get(name, 0)) > 1024
    ]
    for text in (*notes, *(f"WRONG {text}" for text in life.wrong)):
        print(text, flush=True)
    print(counts, flush=True)
    command = f"python -m evidence soak --cycles {arguments.cycles} --seed {arguments.seed}"
    record(
        "soak", command, counts, seconds=time.monotonic() - begun, wrong=life.wrong, notes=notes,
        folder=arguments.results,
    )  # fmt: skip
    return int(bool(life.wrong))


def run_in_qemu(arguments: argparse.Namespace) -> int:
    """The soak of real devices; adds to what --work has."""
    from evidence.soak import real

    if arguments.work is None:
        raise RefusedError(
            "cannot soak in QEMU: nowhere to keep the machine",
            resolution="give a directory with --work; the next run continues there",
        )
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = arguments.work.resolve()
    real.soak(work, arguments.cycles, arguments.seed, seconds=arguments.seconds)
    devices = real.all_done(work)
    done = real.together(devices)
    if not done.cycles:
        return 0
    warm, last = real.growth([device.sizes for device in devices])
    counts = {
        "devices": len(devices),
        "cycles": done.cycles,
        **dict(sorted(done.counts.items())),
        "bytes written by the guest, at least": done.written,
        "bytes of state at most in the first half, without journals and metadata": warm,
        "bytes of state at most in the second half, without journals and metadata": last,
    }
    command = (
        f"python -m evidence soak --qemu --cycles {arguments.cycles} --seed {arguments.seed} "
        "--work DIR"
    )
    notes = real.notes(devices)
    if done.cycles < arguments.cycles:
        notes.append("Not all of the cycles that were asked for: the same command goes on.")
    for text in (*notes, *(f"WRONG {text}" for text in done.wrong)):
        print(text, flush=True)
    print(counts, flush=True)
    record(
        "soak-qemu", command, counts, seconds=done.seconds, board="qemu-x86_64",
        wrong=done.wrong, notes=notes, folder=arguments.results,
    )  # fmt: skip
    return int(bool(done.wrong))
