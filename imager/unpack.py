"""Unpacks Debian packages into a tree as dpkg would, in an order of our own: no script runs.

What their scripts would have done is `imager.configure`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from imager.deb import Deb, read_deb
from imager.tree import Tree
from recovery.errors import ManifestError, ToolError

# Its links at the top (merged /usr) say where the files of older packages go.
_FIRST = "base-files"


def read_debs(archives: Iterable[bytes], directory: Path) -> list[Deb]:
    """Reads archives, several at a time, sorted by name; directory holds their files."""
    directory.mkdir()
    # Decompression releases Python's lock and is nearly all of the work.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        debs = list(pool.map(lambda data: read_deb(data, directory), archives))
    return sorted(debs, key=lambda deb: (deb.name != _FIRST, deb.name))


def unpack(debs: Sequence[Deb], excluded: Sequence[str] = ()) -> Tree:
    """The files of all packages, with dpkg's list of each package's files.

    excluded: patterns as of dpkg's path-exclude; "*" crosses folders.
    Raises ToolError when two packages have the same file and neither replaces the other.
    """
    tree = Tree()
    owners: dict[str, Deb] = {}
    for deb in debs:
        listed = ["/."]
        for path, entry in Tree.from_tar(deb.files).items():
            listed.append(f"/{path}")
            if any(fnmatchcase(f"/{path}", pattern) for pattern in excluded):
                continue
            parent, _, name = path.rpartition("/")
            place = f"{tree.resolve(parent)}/{name}" if parent else name
            present = tree.get(place)
            if present is not None and entry.kind == "directory":
                # The first says its mode, or it is a link such as /bin.
                continue
            if present is not None and deb.name in _replaced_by(owners[place]):
                continue
            if present is not None and owners[place].name not in deb.replaces:
                raise ToolError(
                    f"cannot unpack {deb.name}: {owners[place].name} has /{place} as well",
                    resolution="leave one of the two packages out of the system",
                )
            try:
                tree.put(place, entry)
            except ManifestError as error:
                raise ToolError(
                    f"cannot unpack {deb.name}: /{path} has no place", details=error.brief
                ) from error
            owners[place] = deb
        tree.file(f"var/lib/dpkg/info/{deb.name}.list", "".join(f"{line}\n" for line in listed))
    return tree


def _replaced_by(deb: Deb) -> frozenset[str]:
    return deb.replaces
