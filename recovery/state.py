"""The state record: what this device has decided about its generations.

    /state/orbital/state.json   one StateRecord, replaced whole and durably
    /state/orbital/lock         flock: one change at a time

Together with the boot loader's record this is all that `recovery.decide`
looks at. A record that is absent or damaged is not an error: early boot makes
a new one from the image that runs (see `synthesise`), so that a device
without its state still boots and can be reached.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from pathlib import Path

from recovery import codec, durable, reading
from recovery.errors import RefusedError, StateError
from recovery.generations import GenerationStore
from recovery.history import History
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    Stage = Literal["early", "userspace", "health"]
else:
    Stage = str

FORMAT = 1
STATE_ROOT = Path("/state/orbital")
STAGES = ("early", "userspace", "health")


class Attempt(Value):
    """One start of a trial, as far as it got.

    stage: early (recovery.early ran), userspace (systemd started our
    services), health (a verdict was reached; detail says why it was bad).
    detail: empty while nothing is wrong. time: seconds since the epoch.
    """

    boot_id: str
    stage: Stage
    detail: str
    time: int


class Trial(Value):
    """A generation that may run but is not trusted yet.

    tries: starts that the loader was told to grant. armed_boot: the boot in
    which it was installed; until another boot it is simply waiting.
    attempts: oldest first; written before an attempt goes on.
    """

    generation: int
    tries: int
    armed_boot: str
    attempts: tuple[Attempt, ...] = ()


class Probation(Value):
    """The time after a commit in which a failure still goes back.

    since: seconds since the epoch. seconds: of uninterrupted uptime that end
    it. limit: starts within it that are allowed; one more is a crash loop.
    boots: starts so far, not counting the boot that committed. failure: why it
    failed; once written, the generation gives up its boot entry.
    """

    generation: int
    since: int
    seconds: int
    limit: int
    boots: int = 0
    failure: str = ""


class Quarantine(Value):
    """A version that failed here and is not tried again unless someone asks for it by name.

    package: the feature package whose version it is; "" for the OS.
    """

    version: str
    reason: str
    time: int
    generation: int
    package: str = ""


class PackageChange(Value):
    """A change of the package set that is under way in the running system.

    generation: the one that is being tried; the committed one has the set to
    go back to. boot_id: of the boot in which it began: in any other boot it
    is over, and the committed set runs.
    """

    generation: int
    boot_id: str


class StateRecord(Value):
    """Everything that is decided.

    next_generation: number of the next one to be made. committed: the
    generation that this device goes back to. previous: the one before it,
    still whole in the other slot, or None. At most one trial at a time. change:
    the committed slot is trying another package set without a reboot.
    """

    next_generation: int
    committed: int
    previous: int | None = None
    trial: Trial | None = None
    probation: Probation | None = None
    quarantined: tuple[Quarantine, ...] = ()
    change: PackageChange | None = None
    undo: int | None = None

    def quarantine_of(self, version: str, package: str = "") -> Quarantine | None:
        """Why the version (of a package, or of the OS) is quarantined, or None."""
        wanted = (package, version)
        return next((q for q in self.quarantined if (q.package, q.version) == wanted), None)

    def referenced(self) -> frozenset[int]:
        """Numbers of the generations that must not be pruned."""
        numbers = {self.committed}
        if self.previous is not None:
            numbers.add(self.previous)
        if self.trial is not None:
            numbers.add(self.trial.generation)
        if self.change is not None:
            numbers.add(self.change.generation)
        if self.undo is not None:
            numbers.add(self.undo)
        return frozenset(numbers)


def synthesise(running: int, known: tuple[int, ...]) -> StateRecord:
    """The record of a device whose record is absent: what runs is committed, nothing else is.

    running: the generation of the running image. known: numbers in use.
    """
    return StateRecord(next_generation=max((running, *known)) + 1, committed=running)


def encode(record: StateRecord) -> bytes:
    """The record as deterministic JSON."""
    return codec.encode(record, format=FORMAT)


def decode(data: bytes) -> StateRecord:
    """The record read back. Raises ValueError."""
    document = codec.parse_object(data)
    if document.pop("format", None) != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    return codec.build(
        StateRecord,
        document,
        next_generation=codec.number,
        committed=codec.number,
        previous=codec.optional(codec.number),
        trial=codec.optional(_trial),
        probation=codec.optional(_probation),
        quarantined=codec.several(_quarantine),
        change=codec.optional(_change),
        undo=codec.optional(codec.number),
    )


def _attempt(document: object) -> Attempt:
    return codec.build(
        Attempt,
        document,
        boot_id=codec.text,
        stage=codec.one_of(*STAGES),
        detail=codec.text,
        time=codec.number,
    )


def _trial(document: object) -> Trial:
    return codec.build(
        Trial,
        document,
        generation=codec.number,
        tries=codec.number,
        armed_boot=codec.text,
        attempts=codec.several(_attempt),
    )


def _probation(document: object) -> Probation:
    return codec.build(
        Probation,
        document,
        generation=codec.number,
        since=codec.number,
        seconds=codec.number,
        limit=codec.number,
        boots=codec.number,
        failure=codec.text,
    )


def _quarantine(document: object) -> Quarantine:
    return codec.build(
        Quarantine,
        document,
        version=codec.text,
        reason=codec.text,
        time=codec.number,
        generation=codec.number,
        package=codec.text,
    )


def _change(document: object) -> PackageChange:
    return codec.build(PackageChange, document, generation=codec.number, boot_id=codec.text)


class StateStore:
    """The state directory: the record, the generations, the history, the lock."""

    def __init__(self, root: Path = STATE_ROOT) -> None:
        """root: `/state/orbital`. Nothing is read or written yet."""
        self.root = root
        self.path = root / "state.json"
        self.generations = GenerationStore(root)
        self.history = History(root)

    def read(self) -> StateRecord | None:
        """The record, or None when it is absent or damaged. Never raises for its content."""
        try:
            return decode(reading.read_record(self.path))
        except (OSError, ValueError):
            return None

    def load(self) -> StateRecord:
        """The record. Raises StateError when it is absent or damaged."""
        try:
            return decode(reading.read_record(self.path))
        except FileNotFoundError as error:
            raise StateError(
                f"cannot read {self.path}: no such file",
                resolution="it is made at boot; reboot the device",
            ) from error
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot read {self.path}: {error}",
                resolution="it is made again from the running image at boot; reboot the device",
            ) from error

    def save(self, record: StateRecord) -> None:
        """Replaces the record durably; a power cut leaves the old or the new one, whole."""
        durable.make_directory(self.root)
        durable.replace_file(self.path, encode(record))

    def _open_lock(self) -> int:
        path = self.root / "lock"
        try:
            return reading.open_record(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StateError(
                f"cannot open {path}: {error.strerror}",
                resolution="what has taken its place is put aside at boot; reboot the device",
            ) from error

    def tidy(self) -> None:
        """Removes what cut writes left. The caller holds the lock."""
        for directory in (self.root, self.generations.directory):
            durable.remove_leftovers(directory)

    @contextmanager
    def lock(self, who: str, wait_seconds: float = 0) -> Iterator[None]:
        """Holds the right to change this device; given back when the process dies.

        Raises RefusedError, naming the holder, when it is still held after
        wait_seconds (0: at once).
        """
        durable.make_directory(self.root)
        fd = self._open_lock()
        deadline = time.monotonic() + wait_seconds
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() < deadline:
                        time.sleep(0.2)
                        continue
                    holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
                    raise RefusedError(
                        f"cannot start: {holder or 'another process'} is changing this device",
                        resolution="wait until it has finished, then try again",
                    ) from error
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{who} (process {os.getpid()})\n".encode(), 0)
            yield
        finally:
            os.close(fd)
