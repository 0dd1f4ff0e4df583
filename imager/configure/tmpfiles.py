"""What installation makes by tmpfiles.d(5), but for /dev, /proc, /run, /sys, /tmp and /var.

Nothing of an image lies there, and the device's systemd-tmpfiles makes it at
every start. Here are only the few kinds of lines that packages use for the rest.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from imager.tree import Tree
from recovery.errors import ToolError

_ELSEWHERE = ("/dev/", "/proc/", "/run/", "/sys/", "/tmp/", "/var/")
_MODIFIERS = "!-=~^$"


def apply_tmpfiles(tree: Tree, names: Iterable[str]) -> None:
    """Does what the named files of usr/lib/tmpfiles.d say.

    Raises ToolError for a line that is not understood.
    """
    lines: list[tuple[str, str]] = []
    for name in sorted({*names}):
        path = f"usr/lib/tmpfiles.d/{name}"
        text = tree.read(path).decode() if path in tree else ""
        lines += [(line, path) for line in text.splitlines() if line and line[0] != "#"]
    for line, path in lines:
        words = shlex.split(line)
        if not f"{words[1]}/".startswith(_ELSEWHERE):
            _apply(tree, words, path)


def _apply(tree: Tree, words: list[str], source: str) -> None:
    kind, path = words[0], words[1].strip("/")
    mode, user, group = (_word(words, number).lstrip(":~") for number in (2, 3, 4))
    plain = kind.rstrip(_MODIFIERS)
    if plain in ("r", "R", "x", "X") or "^" in kind:
        # Removals find nothing; "^" takes the content from a credential of the device.
        return
    if {user, group} - {"", "root", "0"} or "%" in path:
        raise _unknown(words, source)
    place = tree.resolve(path)
    if plain in ("d", "D", "v", "q", "Q"):
        # ":" before a mode: only of a directory that is made by this line.
        if place not in tree or (mode and not _word(words, 2).startswith(":")):
            tree.directory(place, int(mode or "755", 8))
    elif plain in ("L", "L?", "L+") and len(words) > 6:
        parent, _, name = path.rpartition("/")
        link = f"{tree.resolve(parent)}/{name}" if parent else name
        if plain == "L+" and link in tree:
            tree.remove(link)
        if link not in tree:
            tree.symlink(link, words[6])
    elif plain == "z":
        if place in tree and mode:
            tree.chmod(place, int(mode, 8))
    else:
        raise _unknown(words, source)


def _unknown(words: list[str], source: str) -> ToolError:
    return ToolError(
        f"cannot apply a line of /{source}: {' '.join(words)}",
        details="lines about /etc and the like may make directories and links of root",
        resolution="teach it to imager/configure/tmpfiles.py",
    )


def _word(words: list[str], number: int) -> str:
    return words[number] if len(words) > number and words[number] != "-" else ""
