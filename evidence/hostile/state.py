"""Early boot and the agent on state partitions that somebody edited.

`judge` runs every case on real directories, mounts and an ext4 file system, in a
mount namespace of its own: python -m evidence.hostile.state FIRST STEP [PLACE].
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evidence.hostile.damage import DAMAGES, PLACES
from recovery import audit, device, early, mounts, observe, process
from recovery.boot import load_report
from recovery.bootcontrol.open import BOOT_DIRECTORY
from recovery.bootcontrol.systemd_boot import entry_name, entry_text
from recovery.errors import OrbitalError
from recovery.generations import Generation
from recovery.history import Event
from recovery.state import StateRecord, StateStore, Trial
from recovery.value import replace
from tests.recovery.builders import CONFIG
from updater import budget, journal, seen

SITUATIONS = ("committed", "trial")
_SECONDS = 15


class HangError(BaseException):
    """The program waits for what never comes."""


# Seconds since the epoch: no battery, the ends of 31 and 32 bits, after the year 9999.
CLOCKS = {"1970": 0, "2038": 2**31, "2106": 2**32, "2242": 2**33, "10000": 253_402_300_800}
FULL = ("disk-full", "no-inodes")


def cases() -> Iterator[tuple[str, str, str]]:
    """Situation, place, damage. The last ones: a full disk after each loss, and clocks."""
    for place in PLACES:
        for damage in DAMAGES:
            for situation in SITUATIONS:
                yield situation, place, damage
    for place in PLACES:
        for damage in FULL:
            for situation in SITUATIONS:
                yield situation, place, damage
    for clock in CLOCKS:
        for situation in SITUATIONS:
            yield situation, "orbital/grown", f"clock-{clock}"


def available() -> bool:
    """Whether this machine lets us make mount namespaces, loop devices and overlays."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return False
    try:
        return process.run(["unshare", "-m", "true"], check=False).returncode == 0
    except OrbitalError:
        return False


def judge(first: int = 0, step: int = 1, place: str = "") -> tuple[int, int, list[str]]:
    """Every step-th case from the first one.

    How many, how many of them ran without their state, and what was wrong with which.
    """
    words = [sys.executable, "-m", "evidence.hostile.state", str(first), str(step), place]
    top = Path(__file__).parents[2]
    done = process.run(["unshare", "-m", "--propagation", "private", *words], cwd=top, timeout=3600)
    found = json.loads(done.stdout.splitlines()[-1])
    return int(found["cases"]), int(found["volatile"]), list(found["wrong"])


class Machine:
    """A device in a directory: a made-up /proc and /sys, a state partition on a loop device."""

    def __init__(self, base: Path) -> None:
        """Makes the files and attaches the loop device."""
        self.volatile = 0
        self.root = base / "root"
        self.outside = base / "outside"
        (self.outside / "directory").mkdir(parents=True)
        (self.outside / "file").write_text("not yours\n")
        (self.outside / "directory/kept").write_text("not yours\n")
        for folder in (
            "etc", "var", "state", "dev", "run/orbital", "proc/sys/kernel/random", "proc/self",
            "usr/lib/orbital", "usr/share/factory/var/lib",
        ):  # fmt: skip
            (self.root / folder).mkdir(parents=True)
        (self.root / "etc/hostname").write_text("factory\n")
        (self.root / "proc/self/mountinfo").write_text("")
        (self.root / "proc/sys/kernel/random/boot_id").write_text("now\n")
        (self.root / "usr/lib/orbital/device.json").write_bytes(device.encode(CONFIG))
        self.entries = self.root / BOOT_DIRECTORY / "loader/entries"
        self.entries.mkdir(parents=True)
        image = base / "state.img"
        with image.open("wb") as file:
            file.truncate(24 << 20)
        process.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-N", "256", image])
        found = process.run(["losetup", "--find", "--show", image]).stdout.strip()
        self.loop = Path(found)
        block = self.root / f"sys/class/block/{self.loop.name}"
        block.mkdir(parents=True)
        (block / "uevent").write_text(f"DEVNAME={self.loop.name}\nPARTNAME=state\n")
        os.mknod(self.root / "dev" / self.loop.name, 0o60600, self.loop.stat().st_rdev)

    def prepare(self, situation: str, change: Callable[[Path], None]) -> None:
        """The state of a device that has run before, then changed from outside."""
        state = self.root / "state"
        mounts.mount(self.loop, state, "ext4")
        for path in state.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        fill(state, situation)
        change(state)
        mounts.unmount(state)
        self.forget_run()
        slot, version = ("b", "2.0") if situation == "trial" else ("a", "1.0")
        (self.root / "run/orbital/slot").write_text(f"{slot}\n")
        (self.root / "proc/cmdline").write_text(f"orbital.roothash={version} quiet\n")
        for path in self.entries.iterdir():
            path.unlink()
        (self.entries / entry_name("a", None)).write_text(entry_text("a", 1))
        if situation == "trial":
            (self.entries / "orbital-b+1-1.conf").write_text(entry_text("b", 2))

    def forget_run(self) -> None:
        """/run is new in every boot."""
        shutil.rmtree(self.root / "run/systemd", ignore_errors=True)
        for flag in (early.TRIAL_FLAG, early.PROBATION_FLAG, "run/orbital/boot.json"):
            (self.root / flag).unlink(missing_ok=True)

    def off(self) -> None:
        """What was mounted is gone, as with the power."""
        for name in ("var", "etc", "state", "state"):
            if os.path.ismount(self.root / name):
                mounts.unmount(self.root / name)

    def seen_outside(self) -> str:
        """What lies outside of the state partition, as one digest."""
        digest = hashlib.sha256()
        for top in (self.outside, self.entries):
            for path in sorted(top.rglob("*")):
                content = path.read_bytes() if path.is_file() else b""
                info = path.lstat()
                digest.update(f"{path} {info.st_mode} {info.st_uid} ".encode() + content)
        return digest.hexdigest()


def fill(state: Path, situation: str) -> None:
    """A state partition as this device wrote it."""
    own = state / "orbital"
    store = StateStore(own)
    (state / "var/lib").mkdir(parents=True)
    store.generations.write(Generation(1, "a", "gateway", "1.0", "1.0", None, 0, "factory", "x"))
    store.generations.write(Generation(2, "b", "gateway", "2.0", "2.0", 1, 0, "update", "x"))
    record = StateRecord(next_generation=3, committed=1)
    if situation == "trial":
        record = replace(record, trial=Trial(generation=2, tries=2, armed_boot="before"))
    store.save(record)
    for name in ("etc/1/upper", "etc/1/work", "store", "layers", "tuf"):
        (own / name).mkdir(parents=True)
    store.history.append(Event("factory", 1, "", "1.0", "a", "", "x", 0, "before"))
    audit.Audit(own).record("os.commit", "1", "done", who="root")
    journal.save(own, journal.Journal("ab" * 32, "b", "2.0"))
    seen.save(own / "tuf/seen.json", seen.Seen(1, 1, 1, 1))
    (own / "tuf/timestamp.json").write_text("{}")
    (own / "usage.json").write_text("{}")
    (own / "lock").touch()
    (own / "grown").touch()


def one(machine: Machine, situation: str, place: str, damage: str) -> str:
    """Judges a case: what is wrong, or ""."""
    machine.prepare(situation, lambda state: _damaged(state, place, damage, machine.outside))
    before = machine.seen_outside()
    clock = CLOCKS.get(damage.removeprefix("clock-"))
    if clock is not None:
        vars(early)["time"] = _Clock(clock)
    try:
        try:
            early.start(machine.root)
        except Exception as error:
            if situation == "trial":
                return _unchanged(machine, before)  # a failed try; the loader goes back
            return f"PID 1 ends: {error!r}"
        if damage in FULL:
            return _started(machine, situation, writes=False) or _unchanged(machine, before)
        problem = _started(machine, situation) or _usable(machine) or _unchanged(machine, before)
        if problem or load_report(machine.root).volatile:
            machine.volatile += not problem
            return problem
        machine.off()
        machine.forget_run()
        early.start(machine.root)
        return _started(machine, situation) or _unchanged(machine, before)
    finally:
        vars(early)["time"] = time
        machine.off()


class _Clock:
    """The module time, with a clock that somebody set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        """What the clock says."""
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def _damaged(state: Path, place: str, damage: str, outside: Path) -> None:
    path = state / place
    if damage in FULL:
        DAMAGES["deleted"](path, outside)
        _fill(state, inodes=damage == "no-inodes")
    elif damage in DAMAGES and path.parent.is_dir():
        DAMAGES[damage](path, outside)


def _fill(state: Path, *, inodes: bool) -> None:
    """Takes what room is left."""
    taken = state / "filler"
    taken.mkdir()
    try:
        if inodes:
            for number in range(1 << 20):
                (taken / str(number)).touch()
        with (taken / "file").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
    except OSError:
        return


def _started(machine: Machine, situation: str, *, writes: bool = True) -> str:
    """What is wrong with a system that has started."""
    report = load_report(machine.root)
    slot = "b" if situation == "trial" else "a"
    if (report.slot, report.root_hash) != (slot, "2.0" if slot == "b" else "1.0"):
        return f"another image: {report}"
    for name in ("etc", "var") if writes else ():
        try:
            (machine.root / name / "written").write_text("x")
        except OSError as error:
            return f"/{name} cannot be written: {error}"
    return ""


def _usable(machine: Machine) -> str:
    """Whether the agent can read everything and change something; nothing but plain errors."""
    store = StateStore(machine.root / "state/orbital")
    own = store.root
    readers: tuple[Callable[[], Any], ...] = (
        store.read, store.generations.all, store.history.events, lambda: audit.verify(own),
        lambda: journal.load(own), lambda: budget.load(own / "usage.json"),
        lambda: seen.load(own / "tuf/seen.json"),
        lambda: observe.view_of(store, _NoLoader(), store.generations.all()[-1], boot_id="now"),
    )  # fmt: skip
    for number, read in enumerate(readers):
        try:
            read()
        except OrbitalError:
            continue
        except Exception as error:
            return f"reader {number} raises {error!r}"
    if store.read() is None:
        return "the record was not made again"
    try:
        with store.lock("judge"):
            store.save(store.load())
            store.history.append(Event("installed", 9, "", "x", "b", "", "x", 0, "now"))
        audit.Audit(own).record("x", "x", "done", who="x")
    except (OrbitalError, OSError) as error:
        return f"nothing can be changed any more: {error}"
    return ""


class _NoLoader:
    """A boot control of which only the state matters."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


def _unchanged(machine: Machine, before: str) -> str:
    return "" if machine.seen_outside() == before else "a link was followed, or an entry changed"


def _no_waiting(fd: object) -> None:
    del fd


def main(arguments: list[str]) -> None:
    """Runs cases and prints what came of them."""

    def hang(_number: int, _frame: object) -> None:
        raise HangError

    first, step = int(arguments[0]), int(arguments[1])
    wrong = []
    early.PARTITION_WAIT_SECONDS = 0
    early.KERNEL_FILE_SYSTEMS = {}
    # No power is cut here, and others' disks need not be waited for.
    os.sync = lambda: None
    os.fsync = _no_waiting
    signal.signal(signal.SIGALRM, hang)
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    machine = Machine(base)
    chosen = [case for case in cases() if arguments[2] in ("", case[1])][first::step]
    try:
        for case in chosen:
            signal.alarm(_SECONDS)
            try:
                problem = one(machine, *case)
            except HangError:
                problem = "waits for ever"
                machine.off()
            signal.alarm(0)
            if problem:
                wrong.append(f"{' '.join(case)}: {problem}")
    finally:
        process.run(["losetup", "--detach", machine.loop])
        shutil.rmtree(base, ignore_errors=True)
    told = {"cases": len(chosen), "volatile": machine.volatile, "wrong": wrong}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
