"""The start record and the rescue system of a device that a power cut left.

The record is read and changed by the code that ships, and so is a visit: the diagnosis, the
decision and what is done (`updater.rescue_visit`). The initramfs is a shell script; what it does
with the record is written down again here, and a test holds both against each other.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.device import DeviceConfig
from recovery.reporter import SilentReporter
from recovery.rescue.diagnosis import Site
from recovery.rescue.slot import Content
from recovery.rescue.statefs import StateFileSystem
from recovery.rescue.visit import FILE
from recovery.slots import Slot
from recovery.starts import ASKED_IN_VAIN, MOST, MOST_UNFINISHED, OFFSET, SIZE, StartFile, Starts
from recovery.value import replace
from updater.rescue_visit import Course

if TYPE_CHECKING:
    from recovery.rescue.decide import Condition

_RECORD = "environment"


def make_partitions(root: Path, record: bytes) -> StartFile:
    """The partitions that the code finds by their labels; the first has that start record."""
    for number, label in enumerate((_RECORD, "rescue"), start=1):
        folder = root / f"sys/class/block/vda{number}"
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"PARTNAME={label}\nPARTN={number}\n")
    (root / "dev").mkdir(exist_ok=True)
    path = root / "dev/vda1"
    with path.open("wb") as out:
        out.seek(OFFSET)
        out.write(record.ljust(SIZE, b"\0"))
    return StartFile(path)


def consult(record: Starts, root_hash: str) -> tuple[Starts, bool]:
    """What a slot's initramfs makes of the record, and whether it restarts for the rescue system.

    consult_starts in imager/initramfs/init. root_hash: of the image that starts.
    """
    record = replace(record, loads=0)
    if record.rescue or record.action:
        if record.asked < ASKED_IN_VAIN:
            return replace(record, rescue=True, asked=record.asked + 1), True
        record = replace(record, rescue=False, action="", reason="", asked=0, starts=0)
    image = root_hash[:32]
    starts = record.starts if record.image == image else 0
    record = replace(record, image=image, starts=starts)
    if starts >= MOST_UNFINISHED and record.asked < ASKED_IN_VAIN:
        reason = f"{starts} starts of the image {image} in a row did not end well"
        return replace(record, rescue=True, reason=reason, asked=record.asked + 1), True
    return replace(record, starts=min(starts + 1, MOST)), False


def enter(
    root: Path, config: DeviceConfig, artifacts: tuple[str, str], roots: tuple[str, str]
) -> str:
    """A whole visit of the rescue system. Why it does not end in a restart, or "".

    artifacts, roots: root hashes of what the slots hold whole.
    """
    (root / FILE).unlink(missing_ok=True)  # In memory: from an earlier visit.
    alone = dataclasses.replace(config, rescue=dataclasses.replace(config.rescue, network=False))
    course = Course(_Site(alone, root, artifacts, roots))
    waits = course.by_itself()
    if waits is not None and course.site.visit.person:
        course.site.forget_person()  # Nobody comes: it goes on after ten minutes.
        waits = course.by_itself()
    if waits is None:
        return ""
    return "; ".join([f"rescue waits for a person: {waits.reason}", *course.problems])


class _Site(Site):
    """The device with what the judge knows: slots were compared, the state was mounted."""

    def __init__(
        self,
        config: DeviceConfig,
        root: Path,
        artifacts: tuple[str, str],
        roots: tuple[str, str],
    ) -> None:
        super().__init__(config, SilentReporter(), root)
        self.state = _Mounted(config, root)
        self._held = {"a": (artifacts[0], roots[0]), "b": (artifacts[1], roots[1])}

    def content(self, slot: Slot) -> Content:
        """What the slot holds."""
        artifact, root = self._held[slot]
        damage = "" if artifact and artifact == root else "it is not whole"
        return Content(slot, artifact, damage)


class _Mounted(StateFileSystem):
    """The state, whose journal was replayed."""

    def condition(self, _say: object) -> Condition:
        """What cannot be mounted is judged before."""
        return "whole"
