"""Deltas between published images: which, made how, stored where.

Everything is made from the repository's own chunks, so that a publisher needs to
keep nothing but the repository. Making one takes minutes for large images: results
are kept in the build cache by the two images and the code that made them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from delta.clusters import LIBRARY
from delta.frame import OPENED
from imager.cache import Cache, Input
from imager.repository.chunks import store_chunks
from imager.repository.encode import code, encode, identity, write_parts
from imager.repository.images import Build
from imager.repository.targets import Targets, add_target, read_target
from manifests.delta import FORMAT, Delta, delta_target, fetch_bytes
from manifests.index import OsIndex, Release
from manifests.versions import compare_versions, version_key
from recovery.errors import RefusedError
from recovery.reporter import Reporter

LAST = 3
"""Published versions, counted back from a new one, from which deltas are made."""
_DOCUMENT = "delta.json"


@dataclass(frozen=True)
class DeltaMaker:
    """How deltas are made. last: from so many published versions before; named: and from these.

    workers: processes, all cores when None.
    """

    cache: Cache
    last: int = LAST
    named: tuple[str, ...] = ()
    workers: int | None = None

    def among(self, versions: Iterable[str]) -> DeltaMaker:
        """The same, of the named versions only those."""
        known = set(versions)
        return replace(self, named=tuple(name for name in self.named if name in known))


@dataclass(frozen=True)
class PublishedDelta:
    """A delta that is now on offer. fetch_bytes: what a device fetches with it; full_bytes:
    without it."""

    system: str
    board: str
    version: str
    from_version: str
    fetch_bytes: int
    full_bytes: int


def require_named(named: Sequence[str], published: Collection[str]) -> None:
    """Raises RefusedError when a version named as a base is not among the published ones."""
    for name in named:
        if name not in published:
            raise RefusedError(
                f"cannot make a delta from {name}: it is not published",
                details=f"published: {', '.join(sorted(published, key=version_key)) or 'nothing'}",
                resolution="name a published version with --delta-from",
            )


def bases(releases: Sequence[Release], version: str, last: int, named: Sequence[str]) -> list[str]:
    """The versions from which deltas to a version are made, newest first.

    The newest versions below it, those from which a device may go down to it, and the named.
    """
    known = {release.version: release for release in releases}
    older = [name for name in known if compare_versions(name, version) < 0]
    older.sort(key=version_key, reverse=True)
    wanted = {*older[:last], *named} - {version}
    if last and version in known:
        wanted |= {name for name in known[version].downgrade_from if name in known}
    return sorted(wanted, key=version_key, reverse=True)


def add_deltas(
    directory: Path,
    targets: Targets,
    build: Build,
    *,
    releases: Sequence[Release],
    maker: DeltaMaker,
    reporter: Reporter,
) -> list[PublishedDelta]:
    """Makes the deltas to a build whose chunks are in the repository, and adds them to targets.

    A delta that saves nothing is not offered. Raises TrustError for damaged chunks, ToolError.
    """
    found = []
    for version in bases(releases, build.index.version, maker.last, maker.named):
        document = targets[f"{build.base}/{version}/index.json"]
        old = msgspec.json.decode(read_target(directory, document), type=OsIndex)
        if old.root.root_hash == build.index.root.root_hash:
            continue
        result = _make(directory, old, build.index, maker, reporter)
        delta = msgspec.json.decode((result / _DOCUMENT).read_bytes(), type=Delta)
        index = build.index
        needed = fetch_bytes(delta, index)
        if needed >= index.stored_size:
            continue
        sizes = {part.sha256: part.size for part in delta.parts}
        store_chunks(directory, result / "chunks", sizes, f"a delta to {build.name}", reporter)
        path = delta_target(index.system, index.board, index.version, old.root.root_hash)
        add_target(directory, targets, path, (result / _DOCUMENT).read_bytes())
        found.append(
            PublishedDelta(
                index.system, index.board, index.version, version, needed, index.stored_size
            )
        )
    return found


def _make(
    directory: Path, old: OsIndex, new: OsIndex, maker: DeltaMaker, reporter: Reporter
) -> Path:
    """Stage "delta": the document, and the chunks with its parts."""
    cache = maker.cache

    def build(result: Path) -> None:
        # What makes deltas is large, and most publications need none anew.
        from imager.delta.parts import Packer, part_size
        from imager.delta.stream import PIECES

        reporter.stage(f"delta {old.version} to {new.version}")
        packer = Packer(part_size(new.stored_size))
        root, boot = (
            encode(
                directory,
                before,
                after,
                packer,
                result,
                pieces=PIECES,
                workers=maker.workers,
                reporter=reporter,
            )
            for before, after in (
                (old.root.stream, new.root.stream),
                (old.boot.stream, new.boot.stream),
            )
        )
        parts = write_parts(packer, result)
        opened = any(
            frame.size and packer.parts[frame.part][frame.offset + 1] == OPENED for frame in root
        )
        libzstd = LIBRARY if opened else 0
        delta = Delta(FORMAT, old.version, old.root.root_hash, root, boot, parts, libzstd)
        (result / _DOCUMENT).write_bytes(msgspec.json.encode(delta) + b"\n")

    inputs: dict[str, Input] = {
        "old": _identity(old),
        "new": _identity(new),
        "libzstd": LIBRARY,
        "code": [Path(__file__), *code()],
    }
    return cache.stage("delta", inputs, build)


def _identity(index: OsIndex) -> str:
    return f"{index.version} {identity(index.root.stream)} {identity(index.boot.stream)}"
