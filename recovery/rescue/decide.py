"""What rescue does next: a pure function from a diagnosis to a repair.

The order, in words (`docs/rescue.md` has it for people):

0. What a person asked for before the restart: a factory reset. Then restart.
   A person who asked for nothing else, or who came by menu or button, gets the
   diagnosis and a menu; after `decide`'s caller has seen nobody for a while the
   visit goes on as if nobody had asked.
1. The boot control environment, once in a visit.
2. The state file system, once in a visit.
3. The state record, where it does not know yet what the loader has committed.
4. A slot that is whole: the committed one, in the next visit the other one. Never
   a version that is quarantined, or a trial whose tries are used up.
5. A new installation, once in a visit; where it fails, a whole slot again.
6. Nothing is left: a person.

Termination. A visit ends in a restart or in waiting, and tries each repair at most
once. Before rescue lets a slot start (4, 5) it counts that in the start record
(`rescued`), which only a healthy start clears; after `MOST_STARTS` it starts
nothing more by itself. So from any state a device is, after at most `MOST_STARTS`
slots of at most the trial's tries each, in a slot that became healthy or waiting
for a person. `tests/recovery/test_rescue_decide.py` explores all of it.

Cutting the power in rescue counts nothing: a repair that was cut is done again.
"""

from __future__ import annotations

from recovery.slots import other_slot
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from recovery.slots import Slot
    from recovery.starts import Action

    Condition = Literal["whole", "damaged", "lost"]
    Name = Literal["action", "boot", "state", "record", "start-a", "start-b", "reinstall"]

MOST_STARTS = 6
"""Slots that rescue starts by itself between two healthy starts."""


class SlotDiagnosis(Value):
    """One slot.

    whole: its root image was verified completely, and its boot artifact names it.
    damage: what is wrong when it is not. refused: why it may not be started by
    itself although it is whole: it failed on this device; empty when it may.
    """

    whole: bool
    damage: str = ""
    refused: str = ""

    @property
    def startable(self) -> bool:
        """Whether rescue may start it by itself."""
        return self.whole and not self.refused


class Diagnosis(Value):
    """All that is known now.

    action, person, rescued: of this visit (`recovery.rescue.visit`). boot, state:
    the boot control environment and the state file system; "lost" is what cannot be
    reached at all: the partition is not there. behind: the loader has committed what the
    state record does not know yet. first: the committed slot, or the one
    that the loader prefers when no record says; None when nobody knows. tried: the
    repairs of this visit, whatever came of them.
    """

    action: Action
    person: bool
    rescued: int
    boot: Condition
    state: Condition
    a: SlotDiagnosis
    b: SlotDiagnosis
    first: Slot | None = None
    tried: frozenset[Name] = frozenset()
    behind: bool = False

    def slot(self, slot: Slot) -> SlotDiagnosis:
        """What is known of the slot."""
        return self.a if slot == "a" else self.b

    def candidates(self) -> tuple[Slot, ...]:
        """The slots that rescue may start by itself, the one to begin with first."""
        first: Slot = self.first or "a"
        order = (first, other_slot(first))
        return tuple(slot for slot in order if self.slot(slot).startable)


class Reset(Value):
    """Do what was asked for, then restart."""

    action: Action


class RepairBoot(Value):
    """Repair the boot control environment."""


class RepairState(Value):
    """Repair the state file system."""


class FollowLoader(Value):
    """Write down what the loader has committed."""


class Start(Value):
    """Let the loader start the slot, and restart."""

    slot: Slot


class Reinstall(Value):
    """Install the committed version or a newer one, let the loader start it, and restart."""


class Wait(Value):
    """Wait for a person. retry: in a while, try the installation again."""

    reason: str
    retry: bool


Repair = Reset | RepairBoot | RepairState | FollowLoader | Start | Reinstall | Wait


def next_repair(found: Diagnosis) -> Repair:
    """What to do now. After a repair that does not end the visit: diagnose, and ask again."""
    tried = found.tried
    if found.action and "action" not in tried:
        return Reset(found.action)
    if found.person:
        return Wait("a person asked for rescue", retry=False)
    if found.boot == "damaged" and "boot" not in tried:
        return RepairBoot()
    if found.state == "damaged" and "state" not in tried:
        return RepairState()
    if found.behind and "record" not in tried:
        return FollowLoader()
    if found.rescued >= MOST_STARTS:
        return Wait(f"{found.rescued} starts in a row did not become healthy", retry=False)
    candidates = found.candidates()
    if found.rescued < len(candidates) and (slot := _turn(found, candidates)):
        return Start(slot)
    if "reinstall" not in tried:
        return Reinstall()
    # Perhaps what kept them from becoming healthy is over.
    if candidates and (slot := _turn(found, candidates)):
        return Start(slot)
    return Wait("no slot can be started and no image was found", retry=True)


def _turn(found: Diagnosis, candidates: tuple[Slot, ...]) -> Slot | None:
    """Whose turn it is: in each visit the next one's, but nobody's twice in a visit."""
    at = found.rescued % len(candidates)
    for slot in (*candidates[at:], *candidates[:at]):
        name: Name = "start-a" if slot == "a" else "start-b"
        if name not in found.tried:
            return slot
    return None
