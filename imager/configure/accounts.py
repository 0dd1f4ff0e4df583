"""Users and groups: the masters of base-passwd, and sysusers.d(5) as systemd-sysusers does it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from imager.tree import Tree
from recovery.errors import ToolError

_MASTERS = {
    "etc/passwd": "usr/share/base-passwd/passwd.master",
    "etc/group": "usr/share/base-passwd/group.master",
}
# Identifiers that an image gives to users and groups of Debian packages: what belongs to
# them on a device's state partition outlives every update, so a name keeps its number.
KNOWN = {
    "systemd-journal": 999,
    "systemd-network": 998,
    "messagebus": 997,
    "input": 996,
    "sgx": 995,
    "clock": 994,
    "kvm": 993,
    "render": 992,
}
# systemd's range for such identifiers (SYSTEM_UID_MAX is 999), below the known ones.
_FIRST, _LAST = 300, 899
_DAY = 86_400


@dataclass
class _Accounts:
    """users: name to (uid, gid). groups: name to gid. lines: added, by file."""

    users: dict[str, tuple[int, int]]
    groups: dict[str, int]
    lines: dict[str, list[str]] = field(default_factory=dict)

    def append(self, file: str, *fields: str | int) -> None:
        self.lines.setdefault(file, []).append(":".join(map(str, fields)))


def make_accounts(tree: Tree, epoch: int) -> None:
    """Writes passwd, group, shadow and gshadow of /etc.

    epoch: seconds; the day on which passwords (all of them locked) were last changed.
    Raises ToolError for a line of sysusers.d that is not understood.
    """
    for path, master in _MASTERS.items():
        if path not in tree and master in tree:
            tree.file(path, tree.read(master))
    accounts = _Accounts(
        {words[0]: (int(words[2]), int(words[3])) for words in _lines(tree, "etc/passwd")},
        {words[0]: int(words[2]) for words in _lines(tree, "etc/group")},
    )
    wishes = list(_wishes(tree))
    # In the order of their numbers, as if made one after the other; groups before users.
    wishes.sort(key=lambda words: -KNOWN.get(words[1], 0))
    for words in wishes:
        _add(accounts, words, epoch)
    for path, lines in accounts.lines.items():
        secret = path.endswith("shadow")
        before = tree.read(path).decode() if path in tree else ""
        tree.file(path, before + "".join(f"{line}\n" for line in lines), 0o000 if secret else 0o644)


def _add(accounts: _Accounts, words: list[str], epoch: int) -> None:
    kind, name, wanted = words[0].rstrip("!"), words[1], _word(words, 2)
    uid_text, _, gid_text = wanted.partition(":")
    if kind == "g":
        _add_group(accounts, name, uid_text)
        return
    if name in accounts.users:
        return
    gid = accounts.groups.get(gid_text) if gid_text and not gid_text.isdigit() else None
    if gid is None:
        gid = int(gid_text) if gid_text else _add_group(accounts, name, uid_text)
    taken = {uid for uid, _ in accounts.users.values()}
    # A user has the number of its group unless it is taken.
    uid = int(uid_text) if uid_text else (gid if gid not in taken else _free(name, taken))
    home = _word(words, 4) or "/"
    shell = _word(words, 5) or "/usr/sbin/nologin"
    accounts.users[name] = (uid, gid)
    accounts.append("etc/passwd", name, "x", uid, gid, _word(words, 3), home, shell)
    # "u!": the account itself is locked, and not only its password (it expired on day 1).
    expires = "1" if words[0].endswith("!") else ""
    accounts.append("etc/shadow", name, "!*", epoch // _DAY, "", "", "", "", expires, "")


def _add_group(accounts: _Accounts, name: str, wanted: str) -> int:
    if name not in accounts.groups:
        taken = {*accounts.groups.values()} | {uid for uid, _ in accounts.users.values()}
        gid = int(wanted) if wanted else _free(name, taken)
        accounts.groups[name] = gid
        accounts.append("etc/group", name, "x", gid, "")
        accounts.append("etc/gshadow", name, "!*", "", "")
    return accounts.groups[name]


def _free(name: str, taken: set[int]) -> int:
    """The name's number: known, or by its hash, so that it rarely depends on other packages."""
    if name in KNOWN and KNOWN[name] not in taken:
        return KNOWN[name]
    size = _LAST - _FIRST + 1
    start = int.from_bytes(sha256(name.encode()).digest()[:4], "big")
    for step in range(size):
        number = _FIRST + (start + step) % size
        if number not in taken:
            return number
    raise ToolError(f"cannot make the user {name}: no number is free")


def _wishes(tree: Tree) -> Iterator[list[str]]:
    """Lines of sysusers.d about users (u) and groups (g), as words; memberships last."""
    for path in tree.glob("usr/lib/sysusers.d/*.conf"):
        for line in tree.read(path).decode().splitlines():
            words = shlex.split(line, comments=line.lstrip().startswith("#"))
            if not words or words[0] == "r":
                continue
            if words[0] not in ("u", "u!", "g") or "/" in _word(words, 2):
                raise ToolError(
                    f"cannot make the users of /{path}: {line.strip()}",
                    details="lines of kind m, and identifiers taken from a file, are not supported",
                )
            yield words


def _word(words: list[str], number: int) -> str:
    return words[number] if len(words) > number and words[number] != "-" else ""


def _lines(tree: Tree, path: str) -> list[list[str]]:
    return [line.split(":") for line in tree.read(path).decode().splitlines()]
