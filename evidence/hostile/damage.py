"""What an attacker, or a dying disk, can make of one file or directory of the state partition."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

HUGE = 1 << 36

# Below /state, what early boot or the agent looks at (ARCHITECTURE.md, Disk).
PLACES = (
    "var", "orbital", "orbital/state.json", "orbital/lock", "orbital/generations",
    "orbital/generations/1.json", "orbital/generations/2.json", "orbital/history.jsonl",
    "orbital/audit.jsonl", "orbital/audit.lock", "orbital/etc", "orbital/etc/1",
    "orbital/etc/1/upper", "orbital/etc/1/work", "orbital/store", "orbital/layers",
    "orbital/install.json", "orbital/usage.json", "orbital/tuf", "orbital/tuf/seen.json",
    "orbital/tuf/timestamp.json", "orbital/grown",
)  # fmt: skip


def remove(path: Path) -> None:
    """Takes away what is there, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _deleted(path: Path, _outside: Path) -> None:
    remove(path)


def _empty(path: Path, _outside: Path) -> None:
    remove(path)
    path.touch()


def _noise(path: Path, _outside: Path) -> None:
    remove(path)
    path.write_bytes(random.Random(str(path.name)).randbytes(3000))


def _truncated(path: Path, _outside: Path) -> None:
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    else:
        for inner in list(path.iterdir()) if path.is_dir() else []:
            remove(inner)


def _huge(path: Path, _outside: Path) -> None:
    remove(path)
    path.touch()
    os.truncate(path, HUGE)


def _directory(path: Path, _outside: Path) -> None:
    remove(path)
    path.mkdir()


def _directory_with_files(path: Path, _outside: Path) -> None:
    _directory(path, _outside)
    for number in range(3):
        (path / f"{number}.json").mkdir()
        (path / f"{number}.json" / "x").touch()
    (path / ("9" * 30)).mkdir()


def _link_to_file(path: Path, outside: Path) -> None:
    remove(path)
    path.symlink_to(outside / "file")


def _link_to_directory(path: Path, outside: Path) -> None:
    remove(path)
    path.symlink_to(outside / "directory")


def _link_upwards(path: Path, _outside: Path) -> None:
    remove(path)
    path.symlink_to("../" * 12 + "etc/hostname")


def _link_to_nothing(path: Path, outside: Path) -> None:
    remove(path)
    path.symlink_to(outside / "made-by-following")


def _link_to_itself(path: Path, _outside: Path) -> None:
    remove(path)
    path.symlink_to(path.name)


def _pipe(path: Path, _outside: Path) -> None:
    remove(path)
    os.mkfifo(path)


def _device(path: Path, _outside: Path) -> None:
    remove(path)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero, which never ends


def _document(text: bytes) -> Callable[[Path, Path], None]:
    def write(path: Path, _outside: Path) -> None:
        remove(path)
        path.write_bytes(text)

    return write


def _old_copy(path: Path, _outside: Path) -> None:
    """The document as it was before, of another device, or that of another file."""
    other = "generations/1.json" if path.name == "state.json" else "state.json"
    source = path.parent / other
    data = source.read_bytes() if source.is_file() else b"{}"
    remove(path)
    path.write_bytes(data)


def _foreign_owner(path: Path, _outside: Path) -> None:
    if path.exists():
        os.chown(path, 1234, 1234)
        path.chmod(0)


def _open_to_all(path: Path, _outside: Path) -> None:
    if path.exists():
        path.chmod(0o7777)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "deleted": _deleted,
    "empty": _empty,
    "noise": _noise,
    "truncated": _truncated,
    "huge": _huge,
    "directory": _directory,
    "directory-with-files": _directory_with_files,
    "link-to-file": _link_to_file,
    "link-to-directory": _link_to_directory,
    "link-upwards": _link_upwards,
    "link-to-nothing": _link_to_nothing,
    "link-to-itself": _link_to_itself,
    "pipe": _pipe,
    "device": _device,
    "not-utf8": _document(b'{"format": 1, "x": "\xff"}'),
    "half-surrogate": _document(
        b'{"format": 1, "committed": 1, "next_generation": 2, "x": "\\ud800"}'
    ),
    "deep": _document(b"[" * 100_000),
    "long-number": _document(b'{"format": 1, "committed": ' + b"9" * 5000 + b"}"),
    "old-copy": _old_copy,
    "foreign-owner": _foreign_owner,
    "open-to-all": _open_to_all,
}
