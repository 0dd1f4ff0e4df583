"""The soak on the device that ships, in QEMU: updates, rollbacks, packages, power cuts.

    WORK/lab/                  releases and packages, repository, factory disk
    WORK/device-N/machine/     a device's disk, kept from one run to the next
    WORK/device-N/soak.json    what has been done with it and found so far

A process has one device; the same command in a second terminal takes another one, and both do the
cycles that are left (one emulator a processor, not more).

A cycle (`evidence.soak.cycles`) is an update to a good version or to one that fails its checks, a
rollback by hand, or changes of packages. The power is cut (SIGKILL of QEMU) in half of them, at a
random moment of the length that such a cycle has undisturbed, or a little after its end; a
quarter of the starts that follow are cut, too. Then the device is left alone until nothing is
open any more, and judged. The releases have the product's policy but a probation of 5 s.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from evidence.soak import cycles
from evidence.soak.campaign import BOUNDED
from evidence.soak.cycles import Cycle, Found
from evidence.soak.lab import open_lab
from qemu.alone import alone
from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, GuestRestarted, MachineError, MachineExited
from qemu.faults import PowerCut
from qemu.machine import Machine
from qemu.server import Server
from qemu.shell import Job

# For all the starts of a cycle, on a machine that is much slower than ours.
REST_SECONDS = 1800
_PAUSE = 2.0
_SAVED = "soak.json"
_RECORD = "/state/orbital/state.json"
_STATE = _RECORD.removeprefix("/state/")
# A restart ends QEMU and begins a new one: under emulation that takes a tenth of the time that
# firmware takes after a reset, with all the translated code of the time before in its way.
_RESTART_ENDS = ("-action", "reboot=shutdown")
_KEPT = r"committed generation \d+, version (\S+)"


@dataclass
class Progress:
    """What a soak has done with a device so far.

    lengths: seconds until rest, where no cut came before, by name. sizes: bytes of the state
    partition by path, after each cycle. written: by the guest, but for what it wrote in the last
    second before a cut.
    """

    cycles: int = 0
    seconds: float = 0.0
    written: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, list[float]] = field(default_factory=dict)
    sizes: list[dict[str, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """As saved; of a new device when there is nothing."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Beside the machine; a run that is killed continues from the last cycle."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        beside.replace(path)

    def count(self, *names: str) -> None:
        """One more of each."""
        self.counts = dict(Counter(self.counts) + Counter(names))


@contextmanager
def taken(work: Path) -> Iterator[Path]:
    """The folder of the first device that no other process has."""
    for number in itertools.count(1):
        place = work / f"device-{number}"
        with alone(place, wait=False) as mine:
            if mine:
                for name in ("machine", "server"):
                    (place / name).mkdir(parents=True, exist_ok=True)
                yield place
                return


def all_done(work: Path) -> list[Progress]:
    """Of every device, by number."""
    found = sorted(work.glob(f"device-*/{_SAVED}"), key=lambda path: (len(str(path)), path))
    return [Progress.load(path) for path in found]


def soak(work: Path, wanted: int, seed: int, *, seconds: float = 0) -> None:
    """Runs until all devices have done so many cycles together, or for so many seconds (0: no
    limit), or until something is wrong."""
    with alone(work / "lab"):
        lab = open_lab(work)
    with taken(work) as place, Server(lab.repository, place / "server") as server:
        path = place / _SAVED
        done = Progress.load(path)
        bench = Bench(lab.machine(place / "machine", extra=_RESTART_ENDS), server.url)
        begun = time.monotonic()
        found: Found | None = None
        try:
            while sum(device.cycles for device in all_done(work)) < wanted and not (
                seconds and time.monotonic() - begun > seconds
            ):
                standing = (found or bench.on()).standing
                dice = random.Random(f"{seed} {place.name} {done.cycles}")
                cycle = cycles.draw(dice, standing, server.url, done.lengths)
                found = bench.cycle(cycle, done)
                done.save(path)
                if done.wrong:
                    break
        finally:
            bench.machine.kill()


class Bench:
    """The machine.

    written: bytes, by the guest. undisturbed: seconds until rest in the last cycle, 0 if it was cut
    before.
    """

    def __init__(self, machine: Machine, source: str) -> None:
        self.machine = machine
        self.source = source
        self.written = 0
        self.undisturbed = 0.0
        self._seen = 0
        self._kept: list[str] = []
        self._mark: int | None = None

    def on(self) -> Found:
        """Switches it on and waits until it is at rest."""
        self.start()
        self.settle(None, Deadline(REST_SECONDS))
        return self.look()

    def cycle(self, cycle: Cycle, done: Progress) -> Found | None:
        """One cycle, counted and judged. None when the device did not come to rest."""
        begun, before = time.monotonic(), self.written
        found: Found | None = None
        said: list[str] = []
        try:
            codes = self.play(cycle, said)
            found = self.look(codes)
            problem = cycles.judge(cycle, found, cut=bool(cycle.cuts))
            if self.undisturbed:
                done.lengths.setdefault(cycle.name, []).append(round(self.undisturbed, 1))
            done.sizes.append(dict(found.sizes))
        except (MachineError, ValueError, KeyError) as error:
            problem = f"does not come to rest: {error}"
        now = found.standing.now if found else None
        done.cycles += 1
        done.seconds += time.monotonic() - begun
        done.written += self.written - before
        done.count(f"cycles, {cycle.kind}", *["power cuts"] * len(cycle.cuts))
        done.count("cycles without a cut" if not cycle.cuts else "cycles with a cut")
        if cycle.cuts and now is not None:
            same = "as before" if now == cycle.before else "with something new"
            done.count(f"cycles with a cut that ended {same}")
        if problem:
            done.wrong.append(f"cycle {done.cycles}, {cycle.name}: {problem}")
        print(
            f"cycle {done.cycles}: {cycle.name}: {cycle.before} → {cycle.target}, "
            f"{'; '.join(said) or 'no cut'}: {now}{f', WRONG: {problem}' if problem else ''} "
            f"({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
        return found

    def play(self, cycle: Cycle, said: list[str]) -> tuple[int, ...]:
        """Does what the cycle asks for, and waits for rest. Returns the commands' exit codes.

        said: the cuts, as they happened.
        """
        limit = Deadline(REST_SECONDS)
        started, self.undisturbed = time.monotonic(), 0.0
        self._kept, self._mark = [], self.machine.console.mark
        job: Job | None = self.machine.shell.spawn(cycles.script(cycle))
        for seconds in cycle.cuts:
            began = time.monotonic()
            if self.cut(began + seconds, job, limit):
                said.append(f"cut at {seconds:g} s")
            else:
                # At rest before the moment: that is not waited for.
                self.undisturbed = self.undisturbed if said else time.monotonic() - began
                said.append(f"cut at rest, {time.monotonic() - began:.1f} s")
            self.machine.kill()
            self.start()
            job = None
        codes = self.settle(job, limit)
        if not cycle.cuts:
            self.undisturbed = time.monotonic() - started
        self.note_commits()
        return codes

    def cut(self, moment: float, job: Job | None, limit: Deadline) -> bool:
        """Cuts the power at the moment, if the device is not at rest before; returns whether."""
        while True:
            power = PowerCut(self.machine, lambda: time.monotonic() >= moment)
            with power, suppress(MachineExited):
                self.rest(job, limit)
            if power.happened or time.monotonic() >= moment:
                return True
            if self.machine.running:
                return False
            self.restart()

    def settle(self, job: Job | None, limit: Deadline) -> tuple[int, ...]:
        """Waits for rest, over restarts. Returns the commands' exit codes."""
        while True:
            try:
                return self.rest(job, limit)
            except MachineExited:
                self.restart()

    def restart(self) -> None:
        """The guest has restarted itself, which ended QEMU."""
        code = self.machine.wait(30)
        if code:
            raise MachineError(f"cannot go on: QEMU ended with exit code {code}")
        self.start()

    def start(self) -> None:
        """Switches the machine on."""
        self.note_commits()
        self.machine.start()
        self._seen = self._mark = 0
        threading.Thread(target=self.note_written, name="written", daemon=True).start()

    def note_written(self) -> None:
        """Counts what the guest writes, each second, until QEMU ends."""
        pid = self.machine.pid
        with suppress(MachineError):
            while self.machine.running and self.machine.pid == pid:
                written = self.machine.written()
                self.written += written - self._seen
                self._seen = written
                time.sleep(1)

    def note_commits(self) -> None:
        """What the console called committed since the last mark."""
        if self._mark is None:
            return
        while found := self.machine.console.search(_KEPT, self._mark):
            self._kept.append(found.group(1))
            self._mark = found.end()

    def rest(self, job: Job | None, limit: Deadline) -> tuple[int, ...]:
        """Waits until the commands are through and nothing is open. Returns their exit codes."""
        look = _waiting(job)
        last = ""
        while not limit.expired:
            self.machine.wait_shell(limit)
            with suppress(GuestRestarted):
                last = self.machine.run(look, REST_SECONDS, check=False).output
                state, _, record = last.partition("\n")
                if state in ("active", "failed") and record:
                    if not (still := cycles.open_in(json.loads(record))):
                        return self.codes(job)
                    if still == "change" and job is None:
                        # Its boot is over, the committed set runs; the record is put right by
                        # the next change or by hand.
                        self.machine.run("orbital package gc", 300)
            limit.pause(_PAUSE)
        raise DeadlineExpired(
            f"cannot see the device at rest within {limit.seconds:g} s",
            details=f"last: {last[-400:]}\n{self.machine.console.tail()}",
        )

    def codes(self, job: Job | None) -> tuple[int, ...]:
        """How the commands ended; () after a restart."""
        if job is None:
            return ()
        output = self.machine.run(f"cat {job.directory}/output", 60, check=False)
        return cycles.codes(output.output)

    def look(self, codes: tuple[int, ...] = ()) -> Found:
        """The device, by its records. Raises ValueError or KeyError when one is damaged."""
        found = cycles.read(self.machine.run(cycles.LOOK, 300, check=False).output)
        return replace(found, kept=tuple(self._kept), codes=codes)


# The shell's own words but for `sleep`: under emulation each process that is begun shows.
_WAITING = f"""\
systemctl is-system-running --wait >/dev/null
probation() {{
    while read -r line; do
        case $line in *'"probation": {{'*) return 0 ;; esac
    done <{_RECORD}
    return 1
}}
while probation; do sleep 3; done
systemctl is-active orbital-health.service
cat {_RECORD}
"""


def _waiting(job: Job | None) -> str:
    """Waits in the guest, where that costs least: for the commands, the boot, the probation.

    Prints "active" or "failed" and the state record, which may still have something open.
    """
    if job is None:
        return _WAITING
    done = f"{job.directory}/code"
    return f"while [ -d {job.directory} ] && [ ! -e {done} ]; do sleep 3; done\n{_WAITING}"


def together(devices: Sequence[Progress]) -> Progress:
    """What was done with all of them; of sizes nothing."""
    whole = Progress()
    for done in devices:
        whole.cycles += done.cycles
        whole.seconds += done.seconds
        whole.written += done.written
        whole.counts = dict(Counter(whole.counts) + Counter(done.counts))
        whole.wrong += done.wrong
        for name, found in done.lengths.items():
            whole.lengths.setdefault(name, []).extend(found)
    return whole


def growth(devices: Sequence[Sequence[Mapping[str, int]]]) -> tuple[int, int]:
    """The largest state partition in the first and in the second half of a device's sizes, but
    for journals."""
    first, second = 0, 0
    for sizes in devices:
        rest = [_rest(found) for found in sizes if _STATE in found] or [0]
        middle = (len(rest) + 1) // 2
        first = max(first, *rest[:middle])
        second = max(second, *rest[middle:], 0)
    return first, second


def _rest(sizes: Mapping[str, int]) -> int:
    """Bytes of what the device keeps, without journals and the repository's metadata."""
    return sum(
        size
        for path, size in sizes.items()
        if path.startswith("orbital/") and path.removeprefix("orbital/") not in BOUNDED
    )


def notes(devices: Sequence[Progress]) -> list[str]:
    """What a reader of the figures has to know."""
    lengths = ", ".join(
        f"{name} {statistics.median(found):.0f} s"
        for name, found in sorted(together(devices).lengths.items())
    )
    found = [f"Undisturbed cycles took, by their median: {lengths}."] if lengths else []
    for number, done in enumerate(devices, 1):
        sizes = [size for size in done.sizes if _STATE in size]
        if not sizes:
            continue
        device = f"Device {number}, {done.cycles} cycles: "
        first, last = sizes[0], sizes[-1]
        found += [
            f"{device}{path} from {first.get(path, 0):,} bytes to {size:,}."
            for path, size in sorted(last.items())
            if size - first.get(path, 0) > 4096
        ]
    return found
