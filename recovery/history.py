"""The history: an append-only journal of outcomes, one JSON object a line.

`/state/orbital/history.jsonl`. An outcome is written before the state record
that makes it final; `record_once` keeps a repetition after a power cut in
between from being told twice. A torn last line is ignored by readers.
"""

from __future__ import annotations

import json
from pathlib import Path

from recovery import codec, durable, reading
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from recovery.slots import Slot

    EventKind = Literal[
        "factory",
        "installed",
        "committed",
        "rolled-back",
        "fell-back",
        "interrupted",
        "probation-passed",
        "probation-failed",
        "state-recovered",
        "package-reverted",
        "reset",
    ]
else:
    EventKind = str

MOST_BYTES = 256 << 10
"""Then the older half goes: some 500 outcomes stay."""

EVENTS = (
    "factory",  # first boot of an image nobody installed here
    "installed",  # armed: the loader tries it at the next start
    "committed",  # passed its health checks; requested rollbacks end here too
    "rolled-back",  # ran, was found unhealthy, and gave up in favour of the one before
    "fell-back",  # never came far enough to judge itself; the loader went back
    "interrupted",  # cut before its commit point; nothing had changed
    "probation-passed",
    "probation-failed",  # unhealthy after its commit and nothing to go back to
    "state-recovered",  # the state record was lost or damaged and has been made again
    "package-reverted",  # one package of an OS trial failed; the trial went on without its update
    "reset",  # factory reset by the rescue system, user data kept
)


class Event(Value):
    """One outcome.

    generation: the one that the outcome is about. from_version: what ran
    before. to_version: what was tried. reason: why, for people. time:
    seconds since the epoch. boot_id: the boot that recorded it.
    """

    event: EventKind
    generation: int
    from_version: str
    to_version: str
    slot: Slot
    reason: str
    requested_by: str
    time: int
    boot_id: str


def decode(line: bytes) -> Event:
    """One line read back. Raises ValueError."""
    return codec.build(
        Event,
        codec.parse_object(line),
        event=codec.one_of(*EVENTS),
        generation=codec.number,
        from_version=codec.text,
        to_version=codec.text,
        slot=codec.one_of("a", "b"),
        reason=codec.text,
        requested_by=codec.text,
        time=codec.number,
        boot_id=codec.text,
    )


class History:
    """The journal below root (`/state/orbital`)."""

    def __init__(self, root: Path) -> None:
        """Nothing is read or written yet."""
        self.path = root / "history.jsonl"

    def append(self, event: Event) -> None:
        """Appends durably."""
        durable.make_directory(self.path.parent)
        durable.append_line(self.path, json.dumps(codec.plain(event), sort_keys=True).encode())
        if self.path.stat().st_size > MOST_BYTES:
            newest = reading.read_tail(self.path, MOST_BYTES // 2)
            # The first line may have lost its beginning. Cut: all of it, or the newer half.
            durable.replace_file(self.path, newest.partition(b"\n")[2])

    def record_once(self, event: Event) -> None:
        """Appends unless the same kind of event of the same generation is there already."""
        for known in self.events():
            if (known.event, known.generation) == (event.event, event.generation):
                return
        self.append(event)

    def events(self) -> tuple[Event, ...]:
        """Every readable line, oldest first; torn or unreadable lines are skipped."""
        try:
            data = reading.read_tail(self.path)
        except FileNotFoundError:
            return ()
        events = []
        for line in data.split(b"\n")[:-1]:
            try:
                events.append(decode(line))
            except ValueError:
                continue
        return tuple(events)
