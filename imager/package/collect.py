"""What one source of content puts into a package: every entry is judged before it is taken.

Contents come from archives that anybody may have made: a path, a link or a
kind of file that has no business in a package is a finding, never followed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace

from imager.package.findings import Finding
from imager.tree import Entry, Tree, matching
from recovery.errors import ManifestError

# Debian's links at the top (merged /usr): what lies there lies below usr/.
_MERGED = ("bin", "sbin", "lib", "lib64")
_SPECIAL_BITS = 0o6000
_CONTROL = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")
_PATH_MAX = 1024


class Collector:
    """The entries of one source.

    label: how findings name the source. drop_outside: what lies outside usr/ is
    left out (Debian packages have configuration there); otherwise it is a finding.
    """

    def __init__(self, label: str, *, drop_outside: bool = False) -> None:
        self.label = label
        self.tree = Tree()
        self.findings: list[Finding] = []
        self.left_out: list[str] = []
        self._drop_outside = drop_outside

    def add(self, name: str, entry: Entry) -> None:
        """Takes an entry, or finds what is wrong with it."""
        path = self._place(name, entry)
        if path is None:
            return
        if entry.mode & _SPECIAL_BITS and entry.kind != "symlink":
            self.find(
                path,
                f"has the set-user-id or set-group-id bit (mode {entry.mode:04o})",
                "a service gets rights from its capabilities in package.yaml",
            )
        if entry.kind == "symlink":
            problem = _link_problem(path, entry.target)
            if problem:
                self.find(path, problem)
                return
        present = self.tree.get(path)
        if present is not None and not present.kind == entry.kind == "directory":
            self.find(path, "appears twice")
            return
        try:
            self.tree.put(path, _normal(entry))
        except ManifestError as error:
            self.find(path, f"cannot be placed ({error.brief})")

    def find(self, where: str, problem: str, advice: str = "") -> None:
        """Notes what is wrong."""
        self.findings.append(Finding(_printable(where), f"{problem} (from {self.label})", advice))

    def exclude(self, patterns: Iterable[str]) -> None:
        """Leaves out what matches, with everything below it; findings about it go, too."""
        places = [path for path, _ in self.tree.items()]
        places += [finding.where for finding in self.findings]
        for pattern in patterns:
            self.tree.remove(pattern)
            doomed = tuple(matching(places, pattern))
            below = tuple(f"{path}/" for path in doomed)
            self.findings = [
                finding
                for finding in self.findings
                if finding.where not in doomed and not finding.where.startswith(below)
            ]

    def _place(self, name: str, entry: Entry) -> str | None:
        """Where the entry belongs; None when it is not taken."""
        path = name.removeprefix("./").rstrip("/")
        if path in ("", "."):
            return None
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or len(path) > _PATH_MAX:
            self.find(name, "is not a plain relative path")
            return None
        if _CONTROL.search(path):
            self.find(name, "has a name with control characters or not in UTF-8")
            return None
        if parts[0] in _MERGED:
            if len(parts) == 1 and entry.kind != "file":
                return None
            return f"usr/{path}"
        if parts[0] == "usr" and (len(parts) > 1 or entry.kind == "directory"):
            return path
        if self._drop_outside:
            if entry.kind != "directory":
                self.left_out.append(path)
        elif entry.kind != "directory":
            self.find(
                path, "lies outside usr/", "packages consist of usr/ only; move or exclude it"
            )
        return None


def find_kind(collector: Collector, name: str, kind: str) -> None:
    """Notes something that is neither file, directory nor link."""
    collector.find(name.removeprefix("./"), f"is a {kind}", "packages hold files and links only")


def _link_problem(path: str, target: str) -> str:
    """Why a link at path may not lead to target; "" when it may."""
    if not target or _CONTROL.search(target) or len(target) > _PATH_MAX:
        return f"is a link to the unusable target {_printable(target)!r}"
    if target.startswith("/"):
        place = posixpath.normpath(target).lstrip("/")
    else:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    top = place.split("/")[0]
    if top == "usr" or (target.startswith("/") and top in _MERGED):
        return ""
    return f"is a link to {target}, which leaves usr/"


def _normal(entry: Entry) -> Entry:
    """Owner and mode as every package has them: they do not depend on anybody's umask."""
    if entry.kind == "symlink":
        return Entry("symlink", 0o777, target=entry.target)
    runs = entry.kind == "directory" or entry.mode & 0o111
    return replace(entry, mode=0o755 if runs else 0o644, uid=0, gid=0)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
