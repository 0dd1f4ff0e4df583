"""What lies on the state partition has the kind that its readers expect; what has not goes aside.

`mend` runs in early boot, before anything is read. It looks at kinds only
(directory or file, never through a link), so it costs a few system calls and
writes nothing where nothing is wrong. What has the wrong kind holds nothing of
ours: a link or a special file is removed, and a directory in a file's place is
renamed to NAME.damaged. What is missing then is made again as after any loss.
`remove_damaged` removes those directories once a start has been healthy.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from recovery import durable

DIRECTORIES = ("var", "orbital")
# Below orbital/ (ARCHITECTURE.md, Disk).
OWN_DIRECTORIES = ("generations", "etc", "store", "layers", "tuf")
FILES = (
    "state.json", "lock", "history.jsonl", "audit.jsonl", "audit.1.jsonl", "audit.lock",
    "install.json", "usage.json", "grown",
)  # fmt: skip
_WITH_RECORDS = ("generations", "tuf")
# Of directory entries, at one start: a tree that somebody made may be of any size.
MOST_REMOVED = 10_000


def mend(state: Path, notes: list[str]) -> None:
    """Puts aside what has the wrong kind below the mounted state partition; appends to notes.

    Raises OSError when that cannot be looked at or changed.
    """
    own = state / "orbital"
    for name in DIRECTORIES:
        _directory(state / name, notes)
    for name in OWN_DIRECTORIES:
        _directory(own / name, notes)
    for name in FILES:
        _file(own / name, notes)
    for folder in _WITH_RECORDS:
        for path in _inside(own / folder):
            _file(path, notes)
    for layer in _inside(own / "etc"):
        _directory(layer, notes)
        if layer.is_dir():
            _directory(layer / "upper", notes)
            _directory(layer / "work", notes)


def kind(path: Path) -> int:
    """The file type bits of what is at path itself; 0 for nothing. Raises OSError."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _directory(path: Path, notes: list[str]) -> None:
    if kind(path) not in (0, stat.S_IFDIR):
        _aside(path, notes, "directory")


def _file(path: Path, notes: list[str]) -> None:
    if kind(path) not in (0, stat.S_IFREG) and not path.name.endswith(".damaged"):
        _aside(path, notes, "file")


def _inside(folder: Path) -> list[Path]:
    if kind(folder) != stat.S_IFDIR:
        return []
    return sorted(folder.iterdir())


def _aside(path: Path, notes: list[str], expected: str) -> None:
    if kind(path) == stat.S_IFDIR:
        place = path.with_name(f"{path.name}.damaged")
        # Not removed: it may hold anything, of any depth.
        number = 1
        while kind(place):
            number += 1
            place = path.with_name(f"{path.name}.{number}.damaged")
        path.rename(place)
    else:
        path.unlink()
    durable.sync_directory(path.parent)
    notes.append(f"{path.name} was no {expected}")


def remove_damaged(state: Path, most: int = MOST_REMOVED) -> list[str]:
    """Removes what `mend` put aside; returns the names of those that are gone.

    most: directory entries that one call removes; the rest stays for the next. What
    cannot be removed stays: it is in nobody's way but for its room.
    """
    gone: list[str] = []
    own = state / "orbital"
    for folder in (own, *(own / name for name in _WITH_RECORDS)):
        removed = False
        for path in _inside(folder):
            if not path.name.endswith(".damaged") or kind(path) != stat.S_IFDIR:
                continue
            try:
                most = _remove_tree(path, most)
            except OSError:
                continue
            if not kind(path):
                gone.append(path.name)
                removed = True
        if removed:
            durable.sync_directory(folder)
    return gone


def _remove_tree(top: Path, most: int) -> int:
    """Removes a directory of any depth; returns how much of most is left.

    What lies deeper is moved to the top first: no path gets long, nothing recurses. A cut
    leaves less of it, under the same name. Raises OSError.
    """
    number = 0
    while most > 0:
        entries = _some(top, most)
        if not entries:
            top.rmdir()
            return most - 1
        for path in entries:
            most -= 1
            if kind(path) != stat.S_IFDIR:
                path.unlink()
                continue
            for child in _some(path, max(most, 1)):
                most -= 1
                if kind(child) != stat.S_IFDIR:
                    child.unlink()
                    continue
                while kind(top / f"{number}"):
                    number += 1
                child.rename(top / f"{number}")
            if not _some(path, 1):
                path.rmdir()
            if most <= 0:
                break
    return most


def _some(folder: Path, most: int) -> list[Path]:
    with os.scandir(folder) as found:
        return [folder / entry.name for entry, _ in zip(found, range(most), strict=False)]
