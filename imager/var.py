"""/var of the image: an empty mount point, filled on the device by systemd-tmpfiles.

/var lies on the state partition. What Debian's packages put there is turned into
rules of tmpfiles.d(5): a folder is created if missing; a file is copied from
/usr/share/factory/var if missing. Both run at every boot, so an update that
brings new content adds it, and nothing of the device's is ever overwritten.
"""

from __future__ import annotations

from imager.tree import Entry, Tree

RULES = "usr/lib/tmpfiles.d/orbital-var.conf"
_FACTORY = "usr/share/factory"
# State of the package manager and of the build machine, caches, logs.
_UNWANTED = (
    "var/backups",
    "var/cache/*",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/pam",
    "var/lib/python",
    "var/lib/shells.state",
    "var/lib/systemd",
    "var/lib/ucf",
    "var/log/*",
    "var/tmp/*",
)


def move_var(tree: Tree) -> None:
    """Empties /var of the tree into rules and factory copies."""
    tree.remove(*_UNWANTED)
    known = _paths_with_rules(tree)
    lines = ["# Made by the imager from what the packages have in /var."]
    for path in tree.glob("var/**"):
        entry = tree.get(path)
        if entry is None or f"/{path}" in known:
            continue
        lines.append(_rule(f"/{path}", entry))
        if entry.kind == "file":
            tree.put(f"{_FACTORY}/{path}", entry)
    tree.remove("var")
    tree.directory("var")
    tree.file(RULES, "\n".join(lines) + "\n")


def _rule(path: str, entry: Entry) -> str:
    # Type, path, mode, user, group, age, argument; "%" starts a specifier.
    name = path.replace("%", "%%").replace(" ", "\\x20")
    if entry.kind == "symlink":
        return f"L {name} - - - - {entry.target.replace('%', '%%')}"
    kind = "d" if entry.kind == "directory" else "C"
    return f"{kind} {name} {entry.mode:04o} {entry.uid} {entry.gid} -"


def _paths_with_rules(tree: Tree) -> set[str]:
    """Paths for which a package ships a rule of its own."""
    found: set[str] = set()
    for path in tree.glob("usr/lib/tmpfiles.d/*.conf"):
        for line in tree.read(path).decode(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and not line.startswith("#"):
                found.add(words[1].rstrip("/"))
    return found
