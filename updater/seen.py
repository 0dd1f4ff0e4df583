"""The highest versions of TUF metadata this device has seen, and the last time it knows.

Kept apart from the metadata itself: metadata is a cache that may be lost,
torn or deleted; this record is what makes a replay of old, correctly signed
metadata fail all the same.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from manifests.decoding import decode_json
from recovery import durable
from recovery.errors import StateError, TrustError
from recovery.reading import read_record

FORMAT = 1


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may not go down any more.

    root, timestamp, snapshot: versions; 0 for never seen. targets: version of
    every targets role by name ("targets", "os"). online_keys: key ids of
    timestamp and snapshot that root named at the time, sorted.
    time: seconds since the epoch, a moment that has certainly passed.
    """

    format: int = FORMAT
    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: dict[str, int] = {}
    online_keys: tuple[str, ...] = ()
    time: int = 0


def load(path: Path) -> Seen:
    """The record; an empty one when there is none yet.

    Raises StateError when it is damaged: it is replaced in one step, so
    damage is not a power cut's doing.
    """
    try:
        data = read_record(path)
    except FileNotFoundError:
        return Seen()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    try:
        seen = decode_json(data, Seen)
    except msgspec.MsgspecError as error:
        raise _damaged(path, str(error)) from error
    if seen.format != FORMAT:
        raise StateError(f"cannot use {path}: format {seen.format} is not {FORMAT}")
    return seen


def save(path: Path, seen: Seen) -> None:
    """Replaces the record durably: after a power cut the old or the new one."""
    durable.replace_file(path, msgspec.json.encode(seen) + b"\n")


def advance(old: Seen, new: Seen) -> Seen:
    """The record after new was verified. Pure. Raises TrustError when anything goes down.

    When root has replaced the keys of timestamp or snapshot, the versions
    signed by the old keys no longer bind (TUF specification 5.3.11): else a
    thief of those keys could lock devices out by signing a huge version.
    """
    if new.root < old.root:
        raise _replay("root", old.root, new.root)
    if old.online_keys in ((), new.online_keys):
        if new.timestamp < old.timestamp:
            raise _replay("timestamp", old.timestamp, new.timestamp)
        if new.snapshot < old.snapshot:
            raise _replay("snapshot", old.snapshot, new.snapshot)
        for role, version in old.targets.items():
            if new.targets.get(role, 0) < version:
                raise _replay(role, version, new.targets.get(role, 0))
    return msgspec.structs.replace(new, time=max(old.time, new.time))


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"cannot use {path}: the record of the highest metadata versions is damaged",
        details=why,
        resolution=f"remove {path} if you trust the update source: replays that this device "
        "has seen before are not recognised until its next update",
    )


def _replay(role: str, seen: int, offered: int) -> TrustError:
    return TrustError(
        f"cannot trust the update source: its {role} metadata is older than what this device "
        "has seen",
        details=f"{role} version {offered} is offered, version {seen} was seen: an old copy of the "
        "repository, or an attacker replaying one",
        resolution="use a current copy of the repository",
    )
