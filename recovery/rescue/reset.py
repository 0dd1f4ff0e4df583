"""Factory reset: /etc, packages and their state as delivered; or all data erased.

What stays in a reset: the installed version, /var (user data and what the product
keeps there), the history, the audit trail, what is known of versions that failed, and
the highest metadata versions seen. What goes: the /etc layers of all generations, the
package set, packages' state and configuration, the package store.

Write order of `reset`, one commit point:

    (trial's boot entry removed) → generations/N.json, as of a factory image
    → history → **state.json: committed = N** → everything else removed

A cut before it: nothing has changed. After it: what is left over is not used; the
action is still open in the start record, so rescue comes back and does it again.

`erase` has no way back from its first step: the action stays open until a new file
system has been made. It keeps one thing, in memory and best effort: the highest
metadata versions seen, so that an erased device cannot be given an old repository.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from recovery import durable, process
from recovery.errors import OrbitalError, StateError, ToolError
from recovery.generations import Generation
from recovery.history import Event
from recovery.reading import read_record
from recovery.rescue.statefs import StateFileSystem
from recovery.state import StateRecord, StateStore
from recovery.steps import MarkUnbootable, Save, Step, Tell, WriteGeneration, apply
from recovery.trial import next_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from recovery.slots import BootControl

_SEEN = "tuf/seen.json"
# Below /state/orbital: what belongs to packages, and an update that was begun.
_FOLDERS = ("etc", "layers", "store")
_FILES = ("install.json",)
ERASE_SECONDS = 24 * 3600
_AT_ONCE = 1 << 20
_UNIT = 4096
_ZEROS, _ONES = bytes(_AT_ONCE), b"\xff" * _AT_ONCE


def reset(
    store: StateStore, boot_control: BootControl, *, who: str, boot_id: str
) -> Generation | None:
    """Takes the device back to its image as delivered, user data kept.

    Returns the generation that is committed now; None where no record told which
    one was: then the next boot begins as the first one did. Raises OSError,
    StateError, BootControlError.
    """
    record = store.read()
    committed = store.generations.load(record.committed) if record is not None else None
    if record is None or committed is None:
        # ↓ Cut between them: the next boot finds no record, or none that it can use.
        durable.remove_file(store.path)
        _remove(store, keep=None)
        return None
    number = next_number(record, store)
    made = Generation(
        number=number,
        slot=committed.slot,
        system=committed.system,
        version=committed.version,
        root_hash=committed.root_hash,
        parent=None,
        created=int(time.time()),
        origin="factory",
        requested_by=who,
    )
    apply(_steps(record, store, committed, made, boot_id), store, boot_control)
    _remove(store, keep=number)
    return made


def _steps(
    record: StateRecord, store: StateStore, before: Generation, made: Generation, boot_id: str
) -> tuple[Step, ...]:
    trial = store.generations.load(record.trial.generation) if record.trial else None
    told = Event(
        event="reset",
        generation=made.number,
        from_version=before.version,
        to_version=made.version,
        slot=made.slot,
        reason="factory reset, user data kept",
        requested_by=made.requested_by,
        time=made.created,
        boot_id=boot_id,
    )
    fresh = StateRecord(
        next_generation=made.number + 1,
        committed=made.number,
        quarantined=tuple(item for item in record.quarantined if not item.package),
    )
    # Its entry first: a trial without one is dropped as interrupted.
    disarmed = trial is not None and trial.slot != made.slot
    return (
        *((MarkUnbootable(trial.slot),) if trial is not None and disarmed else ()),
        WriteGeneration(made),
        Tell(told),
        Save(fresh),
    )


def _remove(store: StateStore, keep: int | None) -> None:
    """Removes what the reset leaves behind: the layers first, then the records."""
    for name in _FOLDERS:
        shutil.rmtree(store.root / name, ignore_errors=True)
    for name in _FILES:
        durable.remove_file(store.root / name)
    store.generations.prune(() if keep is None else (keep,))


def erase(state: StateFileSystem, say: Callable[[str], None]) -> None:
    """Erases the state partition and makes a new file system on it, mounted.

    Raises OrbitalError, OSError.
    """
    seen = _remembered(state)
    state.unmount()
    how = erase_device(state)
    say(f"erase: {how}")
    state.renew(say)
    if seen:
        root = state.directory / "orbital"
        durable.make_directory((root / _SEEN).parent)
        durable.replace_file(root / _SEEN, seen)


def erase_device(state: StateFileSystem) -> str:
    """Erases the partition as well as its disk can; returns how. Raises ToolError, StateError.

    A discard is a hint: disks leave out what is no whole block of theirs, and may show what was
    there. So all is read after it, and what is still there is overwritten.
    """
    device = state.device()
    if not _blkdiscard(device, "--secure"):
        return "securely: the disk has erased every copy that it kept"
    if _blkdiscard(device):
        problem = _blkdiscard(device, "--zeroout")
        if not problem:
            return "overwritten with zeros: the disk may keep old copies"
    else:
        try:
            left = zero_rest(device)
        except OSError as error:
            problem = str(error)
        else:
            how = f", and {left} bytes that it still had overwritten" if left else ""
            return f"discarded{how}: the disk returns nothing of it, but may keep old copies"
    raise StateError(
        "cannot erase the state partition",
        details=problem,
        resolution="the disk refuses; destroy it, or try again",
    )


def _blkdiscard(device: Path, *options: str) -> str:
    """Why it did not work; empty when it did."""
    try:
        process.run(["blkdiscard", "--force", *options, device], timeout=ERASE_SECONDS)
    except ToolError as error:
        return str(error)
    return ""


def zero_rest(path: Path) -> int:
    """Overwrites what is neither all 0x00 nor all 0xFF, as erased flash is; returns how much.

    Durable when it returns. Bytes, in units of `_UNIT`. Raises OSError.
    """
    left = at = 0
    # One piece of memory for all of a large partition, compared as a whole.
    piece = bytearray(_AT_ONCE)
    with path.open("rb", buffering=0) as device:
        while count := device.readinto(piece):
            if not _is_erased(data := piece if count == _AT_ONCE else piece[:count]):
                units = [bytes(data[start : start + _UNIT]) for start in range(0, count, _UNIT)]
                full = {number for number, unit in enumerate(units) if not _is_erased(unit)}
                empty = (bytes(len(unit)) if n in full else unit for n, unit in enumerate(units))
                durable.overwrite(path, at, b"".join(empty))
                left += sum(len(units[number]) for number in full)
            at += count
    return left


def _is_erased(data: bytes | bytearray) -> bool:
    return data in (_ZEROS[: len(data)], _ONES[: len(data)])


def _remembered(state: StateFileSystem) -> bytes:
    """The record of the highest metadata versions; empty where it cannot be read."""
    try:
        state.mount()
        return read_record(state.directory / "orbital" / _SEEN)
    except (OSError, OrbitalError):
        return b""
