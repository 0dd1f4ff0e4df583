"""What lies on the state partition has the kind that its readers expect; what has not goes aside.

`mend` runs in early boot, before anything is read. It looks at kinds only
(directory or file, never through a link), so it costs a few system calls and
writes nothing where nothing is wrong. What has the wrong kind holds nothing of
ours: a link or a special file is removed, and a directory in a file's place is
renamed to NAME.damaged. What is missing then is made again as after any loss.
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
    for folder in ("generations", "tuf"):
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
