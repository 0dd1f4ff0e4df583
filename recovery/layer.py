"""The /etc layer of a generation: an overlay's upper directory, copied from its parent's.

    /state/orbital/etc/N/upper    what differs from the image's /etc
    /state/orbital/etc/N/work     overlayfs's own
    /state/orbital/etc/N.new      a copy that was cut; made again

A layer meets another image below it after an update. The kernel allows that
for overlays without index, metacopy, redirects and xino ("Changes to
underlying filesystems", Documentation/filesystems/overlayfs.rst), so these are
off, and of overlayfs's own attributes only "opaque" is copied: the others name
files of the old image.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from recovery import durable

OPTIONS = "index=off,metacopy=off,redirect_dir=off,xino=off"
_OPAQUE = "trusted.overlay.opaque"


def prepare_layer(state: Path, number: int, parent: int | None) -> Path:
    """The directory with the upper and work directories of generation `number`.

    Made at its first start from its parent's layer, whole or not at all:
    everything is synced before the rename. state: `/state/orbital`.
    """
    base = state / "etc"
    layer = base / str(number)
    if (layer / "upper").is_dir():
        # Lost to a repair of the file system; it never holds anything between two boots.
        (layer / "work").mkdir(mode=0o755, exist_ok=True)
        return layer
    fresh = base / f"{number}.new"
    if fresh.exists():
        _remove(fresh)
    durable.make_directory(base)
    try:
        fresh.mkdir(mode=0o755)
        (fresh / "work").mkdir(mode=0o755)
        origin = base / str(parent) / "upper" if parent is not None else None
        if origin is not None and origin.is_dir():
            copy_tree(origin, fresh / "upper")
        else:
            (fresh / "upper").mkdir(mode=0o755)
        durable.sync_filesystem(fresh)
    except Exception:
        # A disk that it filled must not stay full: the generation before needs room, too.
        _remove(fresh)
        raise
    if layer.exists():
        _remove(layer)  # without an upper directory: nothing of ours
    # Cut before this: no layer; it is copied again. After: the layer is whole.
    durable.rename(fresh, layer)
    return layer


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def overlay_options(lower: Path, layer: Path) -> str:
    """Mount options for the overlay of layer on lower."""
    return f"lowerdir={lower},upperdir={layer / 'upper'},workdir={layer / 'work'},{OPTIONS}"


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory with owners, modes, times, attributes and overlay whiteouts."""
    info = source.lstat()
    target.mkdir()
    with os.scandir(source) as found:
        for entry in found:
            _copy(entry, target / entry.name)
    _copy_metadata(source, target, info)


def _copy(entry: os.DirEntry[str], target: Path) -> None:
    info = entry.stat(follow_symlinks=False)
    source = Path(entry.path)
    if stat.S_ISDIR(info.st_mode):
        copy_tree(source, target)
        return
    if stat.S_ISREG(info.st_mode):
        _copy_content(source, target)
    elif stat.S_ISLNK(info.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISSOCK(info.st_mode):
        return
    else:
        # Device 0/0 is overlayfs's whiteout: a file of the image that was deleted.
        os.mknod(target, info.st_mode, info.st_rdev)
    _copy_metadata(source, target, info)


def _copy_content(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(1 << 16):
            writer.write(block)


def _copy_metadata(source: Path, target: Path, info: os.stat_result) -> None:
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        target.chmod(stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if name == _OPAQUE or not name.startswith("trusted.overlay."):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
