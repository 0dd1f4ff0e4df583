"""Files below /run that follow from a package set: each whole, none left over."""

from __future__ import annotations

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
    changed = False
    present = {path.name for path in children(directory)}
    for name in present - set(files) - set(links):
        if ours(name):
            (directory / name).unlink()
            changed = True
    if files or links:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
    for name, text in files.items():
        path = directory / name
        if name in present and path.read_text() == text:
            continue
        fresh = directory / f".{name}.new"
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.rename(path)
        changed = True
    for name, target in links.items():
        path = directory / name
        if name in present and str(path.readlink()) == target:
            continue
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        changed = True
    return changed


def children(directory: Path) -> list[Path]:
    """What is in the directory, sorted; nothing when it does not exist."""
    return sorted(directory.iterdir()) if directory.is_dir() else []
