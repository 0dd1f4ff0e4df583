"""Files below /run that follow from a package set: each whole, none left over.

At boot this is most of what an activation does, several files for each
service; so it works by names in an open directory, not by paths.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def write_files(
    directory: Path,
    files: Mapping[str, str],
    ours: Callable[[str], bool],
    links: Mapping[str, str] | None = None,
) -> bool:
    """Makes the directory hold exactly these files and links, of those that are ours.

    Each appears whole, by a rename; nothing is synced: all of it is in memory.
    Returns whether anything changed.
    """
    links = links or {}
    if not directory.is_dir():
        if not files and not links:
            return False
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as found:
            present = {entry.name for entry in found}
        changed = False
        for name in present - set(files) - set(links):
            if ours(name):
                os.unlink(name, dir_fd=fd)
                changed = True
        for name, text in files.items():
            changed |= _write(fd, name, text.encode(), name in present)
        for name, target in links.items():
            changed |= _link(fd, name, target, name in present)
    finally:
        os.close(fd)
    return changed


def children(directory: Path) -> list[Path]:
    """What is in the directory, sorted; nothing when it does not exist."""
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _write(directory: int, name: str, data: bytes, present: bool) -> bool:
    if present and _content(directory, name, len(data)) == data:
        return False
    fresh = f".{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(fresh, flags, 0o644, dir_fd=directory)
    try:
        # PID 1 and a shell have different masks.
        os.fchmod(fd, 0o644)
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _content(directory: int, name: str, size: int) -> bytes | None:
    """Content of a file that may have that size; None of anything else."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        return os.read(fd, size + 1)
    finally:
        os.close(fd)


def _link(directory: int, name: str, target: str, present: bool) -> bool:
    if present:
        try:
            if os.readlink(name, dir_fd=directory) == target:
                return False
        except OSError:
            pass  # a file in its place
        os.unlink(name, dir_fd=directory)
    os.symlink(target, name, dir_fd=directory)
    return True
