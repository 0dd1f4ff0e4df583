"""One visit of the rescue system: how it was entered, kept for all its programs.

The wish in the start record is taken back as soon as rescue runs, so that a
person who cuts the power gets an ordinary start. What it said stays in /run.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from recovery import codec
from recovery.bootcontrol import loads
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError
from recovery.starts import MOST_LOADS, Action, Starts, open_starts
from recovery.value import Value, replace

FILE = "run/orbital/rescue.json"


class Visit(Value):
    """Why rescue runs.

    action: what it is to do, until it is done. reason: empty when nobody asked,
    that is when the loader had nothing else to start, or a menu or button was used.
    person: whether somebody asked for it. rescued: slots that rescue has started
    since a start was healthy, before this visit. starts: unfinished ones of a slot that
    the initramfs had counted.
    """

    action: Action = ""
    reason: str = ""
    person: bool = False
    rescued: int = 0
    starts: int = 0


def begin(config: DeviceConfig, root: Path = Path("/")) -> Visit:
    """This visit: at its first call from the start record, which is then an ordinary one again.

    The action stays in the record until it is done: a power cut in it brings
    rescue back. Never raises for what the disk holds.
    """
    path = root / FILE
    with suppress(OSError, ValueError):
        return _decode(path.read_bytes())
    file = None
    with suppress(OrbitalError):
        file = open_starts(config, root)
    record = file.load() if file is not None else Starts()
    by_firmware = loads.take_back(root)
    # ↓ Power cut: rescue is not asked for again before the slots have had as many starts.
    why = record.reason
    # Without a reason it would look like a button, and wait for a person.
    if not why and record.loads >= MOST_LOADS:
        why = f"{record.loads} starts of a slot in a row did not reach its initramfs"
    if not why and by_firmware is not None and by_firmware.count == loads.ASKED:
        why = f"{by_firmware.limit} starts in a row did not reach early boot"
    visit = Visit(record.action, why, record.by_person, record.rescued, record.starts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codec.encode(visit))
    # ↓ Power cut: rescue comes once more, and takes the wish back then.
    reason = record.reason if record.action else ""
    met = replace(record, rescue=False, reason=reason, asked=0, image="", starts=0, loads=0)
    if file is not None and met != record:
        with suppress(OrbitalError):
            file.save(met)
    return visit


def _decode(data: bytes) -> Visit:
    return codec.build(
        Visit,
        codec.parse_object(data),
        action=codec.one_of("", "reset", "erase"),
        reason=codec.text,
        person=codec.truth,
        rescued=codec.number,
        starts=codec.number,
    )
