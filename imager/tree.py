"""A file tree as a value: paths and what is there, with contents left where they are.

Nothing here needs root: owners and modes are data, and a tree of 200 MB costs
only its list of names until it is written. Paths are relative, without "./",
e.g. "usr/bin/env"; the top itself is not an entry. `imager.archive` writes it.
"""

from __future__ import annotations

import fnmatch
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recovery.errors import ManifestError, ToolError

Kind = Literal["directory", "file", "symlink"]


@dataclass(frozen=True)
class Slice:
    """Bytes inside a file of the host (a member of a tar, or a whole file)."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass(frozen=True)
class Entry:
    """What is at one path. content: of a file. target: of a symlink. mode: permission bits."""

    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    content: bytes | Slice = b""
    target: str = ""

    @property
    def size(self) -> int:
        """Bytes of the file's content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    def read(self) -> bytes:
        """The file's content."""
        return self.content if isinstance(self.content, bytes) else self.content.read()


class Tree:
    """A mutable map of paths to entries. Parents of what is added appear by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    @classmethod
    def from_tar(cls, path: Path) -> Tree:
        """The tree in an uncompressed tar file, which must stay as it is while the tree is used.

        Device nodes and pipes are dropped. A hard link becomes a file of its
        own with the same content. Raises ToolError if it is not a tar.
        """
        tree = cls()
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    tree._take_member(path, member)
        except tarfile.TarError as error:
            raise ToolError(
                f"cannot read {path}: not an uncompressed tar file", details=str(error)
            ) from error
        return tree

    @classmethod
    def from_directory(cls, path: Path) -> Tree:
        """The tree below a host directory; everything belongs to root, modes are kept."""
        tree = cls()
        for item in sorted(path.rglob("*")):
            name = item.relative_to(path).as_posix()
            if item.is_symlink():
                tree.symlink(name, str(item.readlink()))
                continue
            mode = item.stat().st_mode & 0o7777
            if item.is_dir():
                tree.directory(name, mode)
            elif item.is_file():
                tree._entries[name] = Entry("file", mode, content=_whole(item))
        return tree

    def directory(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Makes a directory, or changes the mode and owner of the one that is there."""
        self._put(path, Entry("directory", mode, uid, gid))

    def file(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Puts a file of root with this content, in place of any file or link there."""
        data = content.encode() if isinstance(content, str) else content
        self._put(path, Entry("file", mode, content=data))

    def host_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Puts a file of root whose content is that of a host file (read when written)."""
        self._put(path, Entry("file", mode, content=_whole(source)))

    def symlink(self, path: str, target: str) -> None:
        """Puts a symbolic link, in place of any file or link there."""
        self._put(path, Entry("symlink", 0o777, target=target))

    def put(self, path: str, entry: Entry) -> None:
        """Puts any entry."""
        self._put(path, entry)

    def merge(self, other: Tree) -> None:
        """Adds another tree's entries over this one's; directories that exist keep their mode."""
        for path, entry in other.items():
            present = self._entries.get(path)
            if present is None or entry.kind != "directory" or present.kind != "directory":
                self._put(path, entry)

    def remove(self, *patterns: str) -> int:
        """Removes what matches (as `glob`) with everything below it; returns how many entries."""
        doomed: set[str] = set()
        for pattern in patterns:
            matched = set(self.glob(pattern))
            directories = tuple(
                f"{path}/" for path in matched if self._entries[path].kind == "directory"
            )
            doomed |= matched
            if directories:
                doomed.update(path for path in self._entries if path.startswith(directories))
        for path in doomed:
            del self._entries[path]
        return len(doomed)

    def glob(self, pattern: str) -> list[str]:
        """Sorted paths that match: "*" stays within one name, "**" crosses them."""
        if not re.search(r"[*?\[]", pattern):
            return [pattern] if pattern in self._entries else []
        match = _pattern(pattern).match
        return sorted(path for path in self._entries if match(path))

    def get(self, path: str) -> Entry | None:
        """The entry at path (links are not followed), or None."""
        return self._entries.get(path)

    def read(self, path: str) -> bytes:
        """Content of the file at path; links in its last name are followed within the tree.

        Raises ManifestError when there is no such file.
        """
        entry = self._entries.get(self.resolve(path))
        if entry is None or entry.kind != "file":
            raise ManifestError(f"cannot read {path} in the tree: there is no such file")
        return entry.read()

    def resolve(self, path: str) -> str:
        """The path with every symbolic link on the way followed within the tree (may not exist)."""
        done: list[str] = []
        todo = path.strip("/").split("/")
        for _ in range(1000):
            if not todo:
                return "/".join(done)
            name = todo.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                del done[-1:]
                continue
            entry = self._entries.get("/".join([*done, name]))
            if entry is not None and entry.kind == "symlink":
                if entry.target.startswith("/"):
                    done = []
                todo = [*entry.target.strip("/").split("/"), *todo]
            else:
                done.append(name)
        raise ManifestError(f"cannot follow {path} in the tree: its links form a loop")

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Every path with its entry, sorted so that a directory precedes what is in it."""
        for path in sorted(self._entries, key=_order):
            yield path, self._entries[path]

    def copy(self) -> Tree:
        """An independent tree with the same entries."""
        other = Tree()
        other._entries = dict(self._entries)
        return other

    def has_content(self, directory: str) -> bool:
        """Whether anything is below the directory."""
        prefix = f"{directory}/"
        return any(path.startswith(prefix) for path in self._entries)

    def chmod(self, path: str, mode: int) -> None:
        """Changes the mode of an entry that exists."""
        self._entries[path] = replace(self._entries[path], mode=mode)

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def size(self) -> int:
        """Bytes of all contents."""
        return sum(entry.size for entry in self._entries.values())

    def _put(self, path: str, entry: Entry) -> None:
        name = path.strip("/")
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise ManifestError(f"cannot put {path!r} into a tree: not a plain relative path")
        present = self._entries.get(name)
        if present is not None and present.kind == "directory" and entry.kind != "directory":
            raise ManifestError(
                f"cannot put a {entry.kind} at {name}: a directory is there",
                resolution="remove the directory first, or choose another path",
            )
        self._make_parents(name)
        self._entries[name] = entry

    def _make_parents(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        while parent:
            present = self._entries.get(parent)
            if present is not None:
                if present.kind != "directory":
                    raise ManifestError(
                        f"cannot put {name} into the tree: {parent} is a {present.kind}",
                        resolution="use the path that the link leads to (e.g. usr/lib, not lib)",
                    )
                return
            self._entries[parent] = Entry("directory", 0o755)
            parent = parent.rpartition("/")[0]

    def _take_member(self, path: Path, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./").strip("/")
        if name in ("", "."):
            return
        mode, uid, gid = member.mode & 0o7777, member.uid, member.gid
        if member.isdir():
            self._put(name, Entry("directory", mode, uid, gid))
        elif member.issym():
            self._put(name, Entry("symlink", 0o777, uid, gid, target=member.linkname))
        elif member.islnk():
            target = self._entries.get(member.linkname.removeprefix("./").strip("/"))
            if target is None:
                raise ToolError(f"cannot read {path}: {name} links to an absent file")
            self._put(name, target)
        elif member.isreg():
            content = Slice(path, member.offset_data, member.size)
            self._put(name, Entry("file", mode, uid, gid, content=content))


def _whole(path: Path) -> Slice:
    return Slice(path, 0, path.stat().st_size)


def _order(path: str) -> list[str]:
    # By components: "a" < "a/b" < "a.b", so a directory's content stays together.
    return path.split("/")


def _pattern(pattern: str) -> re.Pattern[str]:
    parts: list[str] = []
    for piece in re.split(r"(\*\*/?|\*|\?|\[[^\]]*\])", pattern):
        if piece == "**/":
            parts.append("(?:.*/)?")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif piece.startswith("["):
            parts.append(fnmatch.translate(piece)[4:-3])
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts) + r"\Z")


def matching(paths: Iterable[str], pattern: str) -> list[str]:
    """Those of the paths that match, as `Tree.glob`."""
    match = _pattern(pattern).match
    return [path for path in paths if match(path)]
