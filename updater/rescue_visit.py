"""One visit of the rescue system, carried out: what `recovery.rescue.decide` says, step by step.

Every repair is tried at most once in a visit; what fails is said, and the next one follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from recovery.boot import boot_id
from recovery.bootcontrol.open import BOOT_DIRECTORY
from recovery.device import UpdatePolicy
from recovery.errors import FetchError, OrbitalError, RefusedError
from recovery.partitions import find_partition
from recovery.rescue import decide, sticks
from recovery.rescue.decide import Diagnosis, Repair, Wait
from recovery.rescue.diagnosis import Site
from recovery.rescue.reset import erase, reset
from recovery.rescue.settle import follow_loader
from recovery.rescue.starting import activate, count_start
from recovery.slots import SLOTS, Slot, other_slot
from recovery.starts import Action
from recovery.value import replace
from updater.device import ANCHOR, Device
from updater.policy import load_policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.rescue import Reinstalled

NETWORK_SECONDS = 60.0
_NETWORK_PAUSE = 5.0
_ETC = "run/orbital/rescue-etc"
_BEFORE_SLOTS = (decide.Reset, decide.RepairBoot, decide.RepairState, decide.FollowLoader)


@dataclass
class Course:
    """A visit under way.

    problems: what failed, for the person who is waited for. network_seconds: in which a
    source that cannot be reached may come. clock: seconds since the epoch.
    """

    site: Site
    problems: list[str] = field(default_factory=list)
    network_seconds: float = NETWORK_SECONDS
    clock: Callable[[], float] = time.time

    def by_itself(self) -> Wait | None:
        """Repairs in their order. None: restart now; else what is waited for."""
        while True:
            repair = self.next_repair()
            if isinstance(repair, Wait):
                return repair
            try:
                with self.site.lock():
                    if self.carry_out(repair):
                        return None
            except Exception as error:  # Whatever the disk holds: the next repair follows.
                self.failed(error)

    def next_repair(self) -> Repair:
        """What comes next; the slots are only read when it depends on them."""
        found = self.site.diagnose(slots=False)
        repair = decide.next_repair(found)
        if found.person or isinstance(repair, _BEFORE_SLOTS):
            return repair
        return decide.next_repair(self.site.verify(found))

    def carry_out(self, repair: Repair) -> bool:
        """Tries one repair, noted as tried before. Whether to restart now. Raises as it fails."""
        site, say = self.site, self.site.reporter.message
        if isinstance(repair, decide.Reset):
            site.tried.add("action")
            self.reset(repair.action)
            return True
        if isinstance(repair, decide.RepairBoot):
            site.tried.add("boot")
            site.boot.repair(say)
            site.changed()
            return False
        if isinstance(repair, decide.RepairState):
            site.tried.add("state")
            site.state.repair(say)
            return False
        if isinstance(repair, decide.FollowLoader):
            site.tried.add("record")
            follow_loader(site.store, site.boot_control(), site.config, boot_id(site.root))
            say("state: what the loader has committed is written down")
            return False
        if isinstance(repair, decide.Start):
            site.tried.add("start-a" if repair.slot == "a" else "start-b")
            self.start(repair.slot)
            return True
        site.tried.add("reinstall")
        self.reinstall_from_anywhere()
        return True

    def start(self, slot: Slot, *, counted: bool = True) -> None:
        """Lets the loader start the slot. counted: by itself; a person may do it for ever."""
        site = self.site
        before = count_start(site.starts) if counted else 0
        other = other_slot(slot)
        other_may = site.content(other).whole and not before
        tries = site.config.trial.tries
        activate(site.boot_control(), slot, tries=tries, other_may_start=other_may)
        site.reporter.message(f"slot {slot} starts next, with {tries} tries")

    def reset(self, action: Action) -> None:
        """Factory reset; the wish is taken back when it is done."""
        site, say = self.site, self.site.reporter.message
        if action == "erase":
            erase(site.state, say)
        else:
            if site.diagnose(slots=False).state == "damaged":
                site.state.repair(say)
            site.require_state()
            who = site.visit.reason.removeprefix("asked by ") or "rescue"
            identity = boot_id(site.root)
            made = reset(site.store, site.boot_control(), who=who, boot_id=identity)
            say(f"reset: generation {made.number} is as delivered" if made else "reset: done")
        starts = site.starts
        if starts is not None:
            # ↓ Power cut before it: done once more.
            starts.save(replace(starts.load(), rescue=False, action="", reason=""))

    def reinstall_from_anywhere(
        self, *, insist: bool = False, slot: Slot | None = None
    ) -> Reinstalled:
        """From a stick, then from the network. Raises the last error when neither helps."""
        problem: OrbitalError | None = None
        for name, patience in self.sources():
            try:
                return self.reinstall(name, patience=patience, insist=insist, slot=slot)
            except (OrbitalError, OSError) as error:
                problem = error if isinstance(error, OrbitalError) else FetchError(f"{error}")
                self.failed(error)
        raise problem or RefusedError(
            "cannot reinstall: there is no stick with an image and no network source",
            resolution=self.what_to_bring(),
        )

    def sources(self) -> Iterator[tuple[str, float]]:
        """Where to look for an image, and for how many seconds to try again."""
        known = sticks.repositories(self.site.config, self.site.root)
        for path in known:
            yield str(path), 0.0
        source = self.policy().source
        if source and self.site.config.rescue.network:
            yield source, self.network_seconds
        # A stick takes seconds to appear: the person may have plugged it in just before.
        for path in sticks.repositories(self.site.config, self.site.root):
            if path not in known:
                yield str(path), 0.0

    def policy(self) -> UpdatePolicy:
        """The update policy, with what the committed generation's /etc changes in it."""
        site = self.site
        committed = site.committed()
        with suppress(OrbitalError, OSError):
            if committed is not None:
                layer = site.store.root / "etc" / str(committed.etc_layer) / "upper"
                etc = site.root / _ETC
                etc.mkdir(parents=True, exist_ok=True)
                (etc / "etc").unlink(missing_ok=True)
                (etc / "etc").symlink_to(layer)
                return load_policy(site.config, etc)
        return site.config.update

    def reinstall(
        self,
        source: str,
        *,
        patience: float = 0.0,
        insist: bool = False,
        slot: Slot | None = None,
    ) -> Reinstalled:
        """From one source. patience: seconds in which a source that is not there may come."""
        # Imported late: 11 MiB of memory, and this program may wait for a person for long.
        from updater.rescue import Rescue, reinstall

        site = self.site
        deadline = time.monotonic() + patience
        rescue = Rescue(self.device(), site.starts, site.whole(), site.reporter)
        site.changed()
        while True:
            try:
                done = reinstall(rescue, source, insist=insist, slot=slot, now=self.clock)
                break
            except FetchError as error:
                if time.monotonic() >= deadline:
                    raise
                site.reporter.message(f"{error.brief}; trying again")
                time.sleep(_NETWORK_PAUSE)
        site.reporter.message(
            f"{done.version} installed into slot {done.slot}: {done.fetched} bytes fetched, "
            f"{done.kept} kept, {done.written} written"
        )
        return done

    def device(self) -> Device:
        """The device as an installation needs it. Raises StateError, BootControlError."""
        site, config = self.site, self.site.config
        control = site.boot_control()
        return Device(
            config=config,
            store=site.store,
            boot_control=control,
            slots={slot: find_partition(config.slots[slot], site.root) for slot in SLOTS},
            boot_directory=site.root / BOOT_DIRECTORY if config.boot_partition else None,
            anchor=site.root / ANCHOR,
            boot_id=boot_id(site.root),
            generation=0,
            root=site.root,
            boot_slots={
                slot: find_partition(config.boot_slots[slot], site.root)
                for slot in SLOTS
                if slot in config.boot_slots
            },
            # Everything is in memory here, and there may be little: slower, but it fits.
            workers=1,
        )

    def failed(self, error: Exception) -> None:
        """Says what failed, and keeps it for the end."""
        text = str(error) or repr(error)
        self.problems.append(text)
        self.site.reporter.message(text.splitlines()[0])

    def what_to_bring(self) -> str:
        """What a person can do, in words."""
        config = self.site.config
        source = self.policy().source
        lines = [
            f"bring a stick (FAT or ext4) with the repository of system {config.system} for board "
            f"{config.board}, whole: metadata/, targets/ and chunks/"
        ]
        if source and config.rescue.network:
            lines.append(f"or connect the network, so that {source} can be reached")
        return "; ".join(lines)


def described(site: Site, found: Diagnosis) -> list[str]:
    """A diagnosis for people, one line for each thing."""
    lines = [f"boot control: {found.boot}", f"state: {found.state}"]
    if found.behind:
        lines.append("state: the record is not up to date with the loader")
    for slot in SLOTS:
        what = found.slot(slot)
        words = "whole" if what.whole else f"damaged: {what.damage}"
        if what.refused:
            words += f"; not started by itself: {what.refused}"
        lines.append(f"slot {slot}: {words}" + (", committed" if slot == found.first else ""))
    if site.visit.starts:
        lines.append(f"starts of a slot that did not become healthy: {site.visit.starts}")
    if found.rescued:
        lines.append(f"starts by rescue since the last healthy one: {found.rescued}")
    return lines + site.story().lines()


def as_document(site: Site, found: Diagnosis, repair: Repair) -> dict[str, object]:
    """A diagnosis for programs, with what rescue would do next."""
    story = site.story()
    return {
        "boot_control": found.boot,
        "state": found.state,
        "slots": {
            slot: {
                "whole": found.slot(slot).whole,
                "damage": found.slot(slot).damage,
                "refused": found.slot(slot).refused,
                "loader": dict(story.loader)[slot],
            }
            for slot in SLOTS
        },
        "committed": found.first,
        "reason": site.visit.reason,
        "starts": site.visit.starts,
        "rescued": found.rescued,
        "action": found.action,
        "trial": story.trial,
        "quarantined": list(story.quarantined),
        "history": list(story.events),
        "packages_missing": list(story.missing),
        "next": type(repair).__name__,
    }
