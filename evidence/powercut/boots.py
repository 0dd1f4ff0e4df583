"""What a device does with what a power cut left: loader model, early boot and agent until it rests.

The code that decides is the product's own; only hardware, kernel and systemd are played here.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from evidence.powercut import visit
from evidence.powercut.state import OWNED, Files
from recovery import decide, plan
from recovery.boot import BootReport, RunningImage
from recovery.bootcontrol.open import BOOT_DIRECTORY
from recovery.bootcontrol.systemd_boot import SystemdBoot
from recovery.device import DEVICE_FILE, DeviceConfig, encode
from recovery.early import choose, parent_layer
from recovery.generations import Generation
from recovery.layer import prepare_layer
from recovery.observe import view_of
from recovery.service import Agent
from recovery.slots import Slot
from recovery.state import StateStore
from recovery.steps import apply
from recovery.watch import ServiceState
from tests.recovery.loaders import systemd_boot

MOST_BOOTS = 12
ENTRIES = "loader/entries"


@dataclass(frozen=True)
class Start:
    """What firmware and loader find.

    loader: it is there, whole. entries: name and content of each file of loader/entries, files
    that start something that is not there left out. artifacts, roots: root hash of the image
    whose boot artifact, or whose root, a slot holds whole; "" for none. record: the sector with
    the start record; b"" when the device has none. rescue: the rescue system is whole.
    """

    loader: bool
    entries: tuple[tuple[str, bytes], ...]
    artifacts: tuple[str, str]
    roots: tuple[str, str]
    record: bytes = b""
    rescue: bool = False


@dataclass(frozen=True)
class End:
    """Where a device came to rest.

    runs: the version that runs, its packages, and what an owner had changed; "" when nothing
    starts any more, problem says why then. verdict: of the last boot. boots: until then.
    recovered: the state record was made anew. visits: of the rescue system.
    """

    runs: str
    verdict: str
    boots: int
    problem: str = ""
    recovered: bool = False
    visits: int = 0


def named(generation: Generation, content: Collection[str]) -> str:
    """What a generation consists of, in one line.

    content: paths below /state/orbital; what an owner had changed is among them.
    """
    packages = sorted(f"{entry.name} {entry.version}" for entry in generation.packages)
    folders = [f"layers/{e.name}/{e.state}/state/" for e in generation.packages]
    owned = [path for path in content if path.endswith(f"/{OWNED}")]
    kept = {folder.split("/")[1] for folder in folders for p in owned if p.startswith(folder)}
    changes = [f"state of {name}" for name in sorted(kept)]
    if f"etc/{generation.etc_layer}/upper/{OWNED}" in owned:
        changes.append("/etc as changed")
    return " + ".join((generation.version, *packages, *changes))


class Device:
    """A device in a directory, with the state and the boot partition that a cut left."""

    def __init__(self, root: Path, start: Start, files: Files, config: DeviceConfig) -> None:
        """root: is emptied."""
        shutil.rmtree(root, ignore_errors=True)
        self._root = root
        self._start = start
        # Its checks ask services that do not run here; whether they pass is the caller's to say.
        self._config = config = dataclasses.replace(config, health=())
        self._esp = root / BOOT_DIRECTORY
        (self._esp / ENTRIES).mkdir(parents=True)
        (self._esp / "EFI/orbital").mkdir(parents=True)
        for slot, artifact in zip("ab", start.artifacts, strict=True):
            if artifact:
                (self._esp / f"EFI/orbital/{slot}.efi").write_bytes(b"MZ")
        for name, content in start.entries:
            (self._esp / ENTRIES / name).write_bytes(content)
        self.store = StateStore(root / "state/orbital")
        self.store.root.mkdir(parents=True)
        for path, content in files.content.items():
            (self.store.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.store.root / path).write_bytes(content)
        for path in files.folders:
            (self.store.root / path).mkdir(parents=True, exist_ok=True)
        self._images = files.images
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / DEVICE_FILE.relative_to("/").parent).mkdir(parents=True)
        (root / DEVICE_FILE.relative_to("/")).write_bytes(encode(config))
        self._slot: Slot = "a"
        self._starts = visit.make_partitions(root, start.record)
        self._asked = False
        self._restarts = 0
        self._boots = 0
        self._visits = 0

    def rest(self, *, trials_die: bool, remembers: bool = False) -> End:
        """Boots until the device stays up; trials_die: every start of a trial ends in a reset.

        remembers: the firmware still knows what it was asked to start next; that is not on the
        disk.
        """
        recovered = False
        self._asked = remembers and self._starts.load().rescue
        for count in range(1, MOST_BOOTS + 1):
            if not self._start.loader:
                return End("", "", count, "no boot loader")
            if self._asked:
                self._asked = False
                if problem := self._rescue():
                    return End("", "", count, problem)
                continue
            counted = self._load()
            if counted is None:
                return End("", "", count, "no boot entry")
            index = "ab".index(self._slot)
            artifact, root = self._start.artifacts[index], self._start.roots[index]
            if not artifact or artifact != root:
                why = "boot artifact" if not artifact else "root image"
                if not counted:
                    return End(
                        "", "", count, f"slot {self._slot}, uncounted: its {why} is not whole"
                    )
                continue
            if self._asks_for_rescue(root):
                continue
            known = self.store.read() is not None
            # Once the loader counts no longer, it is committed: that start is no trial's.
            agent, dead = self._early(root, trials_die=trials_die and counted)
            recovered = recovered or not known
            if dead or agent is None:
                continue
            verdict = self._userspace(agent)
            missing = agent.running.digests() - self._images
            if missing:
                return End("", verdict, count, f"package images not whole: {sorted(missing)}")
            if verdict:
                paths = [str(p.relative_to(self.store.root)) for p in self.store.root.rglob("*")]
                runs = named(agent.running, paths)
                return End(runs, verdict, count, recovered=recovered, visits=self._visits)
        return End("", "", MOST_BOOTS, f"does not come to rest in {MOST_BOOTS} boots")

    @property
    def control(self) -> SystemdBoot:
        """Its boot control."""
        return SystemdBoot(self._esp, self._slot)

    def _load(self) -> bool | None:
        """The loader: picks a slot and counts. Returns whether it counts; None for no entry."""
        entries = self._esp / ENTRIES
        versions = {}
        for path in entries.iterdir():
            lines = path.read_text(errors="replace").splitlines()
            keys = dict(line.split(None, 1) for line in lines if len(line.split(None, 1)) == 2)
            target = keys.get("efi", "")
            if target and (self._esp / target.lstrip("/")).is_file():
                version = keys.get("version", "0")
                versions[path.name] = int(version) if version.isdigit() else 0
        started = systemd_boot(versions)
        if started is None:
            return None
        before, after = started
        if before != after:
            (entries / before).rename(entries / after)
        self._slot = "a" if before.startswith("orbital-a") else "b"
        self._next_boot()
        return "+" in after

    def _asks_for_rescue(self, root_hash: str) -> bool:
        """The initramfs: counts this start, or restarts for the rescue system."""
        if not self._config.rescue.partition:
            return False
        record, asks = visit.consult(self._starts.load(), root_hash)
        self._starts.save(record)
        self._asked = asks
        return asks

    def _rescue(self) -> str:
        """The rescue system. Why it does not restart, or ""."""
        if not self._start.rescue:
            return "the rescue system is not whole"
        self._visits += 1
        self._next_boot()
        return visit.enter(self._root, self._config, self._start.artifacts, self._start.roots)

    def _next_boot(self) -> None:
        self._boots += 1
        boot_id = self._root / "proc/sys/kernel/random/boot_id"
        boot_id.write_text(f"replayed-boot-{self._boots}\n")

    def _early(self, root_hash: str, *, trials_die: bool) -> tuple[Agent | None, bool]:
        """Early boot. Returns the agent, or None after giving up; and whether the start died."""
        image = RunningImage(self._slot, root_hash)
        choice, generation = choose(self.store, image, self._root)
        boot_id = f"replayed-boot-{self._boots}"
        if choice.give_up:
            view = view_of(self.store, self.control, generation, boot_id=boot_id)
            if isinstance(decide.give_up(view, choice.give_up), decide.GiveUp):
                apply(plan.give_up(view, choice.give_up, 0), self.store, self.control)
                return None, False
        prepare_layer(self.store.root, generation.etc_layer, parent_layer(self.store, generation))
        report = BootReport(
            boot_id=boot_id,
            slot=self._slot,
            generation=generation.number,
            trial=choice.trial,
            volatile=False,
            root_hash=root_hash,
        )
        agent = Agent(self._config, self.store, self.control, report, root=self._root, manager=self)
        return agent, trials_die and choice.trial

    def _userspace(self, agent: Agent) -> str:
        """Health and commit. Returns the name of the verdict if the device stays, else ""."""
        before = self._restarts
        if agent.health() == 0:
            agent.commit()
        if self._restarts != before:
            return ""
        verdict = agent.settle()
        if isinstance(verdict, decide.Waiting):
            return ""  # The operator, or the update's own policy, restarts.
        return type(verdict).__name__

    # The service manager that the agent talks to.

    def services(self) -> dict[str, ServiceState]:
        """All is well."""
        return {}

    def pending_jobs(self) -> tuple[str, ...]:
        """Nothing is being started."""
        return ()

    def start_watch(self) -> None:
        """Probation is not waited for."""

    def restart(self) -> None:
        """The agent wants a restart."""
        self._restarts += 1

    def say(self, text: str) -> None:
        """To the console."""
