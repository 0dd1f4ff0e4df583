"""`python -m benchmarks.delta.versions`: cost against the number of published versions.

A system is published again and again, as its maker would: each version has one more of Debian's
security updates (`benchmarks.delta.images.SECURITY`), then an application's forth and back. Deltas
are made from the last versions before it, as `orbital repository publish` does by default. What a
release costs, and what a device has to fetch, should not follow how many there were before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from benchmarks.delta import plot
from benchmarks.delta.images import Image, Workshop
from benchmarks.install import offer
from imager.cache import Cache, default_directory
from imager.kernel import prepare_kernel
from imager.keys import make_development_keys
from imager.repository.create import create
from imager.repository.deltas import LAST, DeltaMaker
from imager.repository.keyring import KeyDirectory
from imager.repository.publish import publish
from imager.repository.roles import Periods
from imager.tools import Tools, prepare_tools
from manifests.catalogue import find, load_board
from recovery.reporter import SilentReporter


@dataclass(frozen=True)
class Release:
    """One published version. All but the first two in bytes.

    number: how many there are then. cpu: processor seconds that publishing it took, its children's
    included. stored: by how much the repository grew. full: a device fetches without a delta.
    deltas: it fetches with the delta from the version before, the one before that, and so on.
    metadata: signed metadata that a device fetches to see it.
    """

    number: int
    cpu: float
    stored: int
    full: int
    deltas: tuple[int, ...]
    metadata: int

    def row(self) -> str:
        """One line of the table."""
        deltas = ", ".join(f"{size / 1e6:.3f}" for size in self.deltas)
        return (
            f"{self.number:3} versions  publish {self.cpu:6.1f} s"
            f"  stored {self.stored / 1e6:7.2f} MB  full {self.full / 1e6:6.2f} MB"
            f"  deltas {deltas or 'none'} MB  metadata {self.metadata / 1e3:6.1f} kB"
        )


def measure(images: Iterable[Image], kernel: Path, work: Path, tools: Tools) -> Iterator[Release]:
    """Publishes them one after the other. kernel: what boot artifacts consist of."""
    repository = work / "repository"
    make_development_keys(work / "keys")
    keys = KeyDirectory(work / "keys")
    create(repository, keys, periods=Periods())
    # Of its own, so that nothing is there that an earlier run made.
    cache = Cache(work / "cache")
    for number, image in enumerate(images, 1):
        folder = work / str(number)
        folder.mkdir()
        index, _ = offer.build_version(
            f"{number}.0", image, kernel, folder, cache=cache, tools=tools
        )
        before, held = _cpu(), _size(repository)
        maker = DeltaMaker(cache, workers=1)
        done = publish(repository, [folder], keys, reporter=SilentReporter(), deltas=maker)
        cpu, stored = _cpu() - before, _size(repository) - held
        by_base = {int(float(made.from_version)): made.fetch_bytes for made in done.deltas}
        yield Release(
            number=number,
            cpu=cpu,
            stored=stored,
            full=sum(
                segment.stored_size
                for stream in (index.root.stream, index.boot.stream)
                for segment in stream.segments
            ),
            deltas=tuple(by_base[base] for base in sorted(by_base, reverse=True)),
            metadata=_metadata(repository / "metadata"),
        )


def drawn(known: Sequence[Release]) -> str:
    """The plot."""
    return plot.lines(
        "Cost by the number of published versions",
        "published versions",
        {
            "publishing one more, processor seconds": [(r.number, r.cpu) for r in known],
            "stored for it, MB": [(r.number, r.stored / 1e6) for r in known],
            "largest of its deltas, MB": [
                (r.number, max(r.deltas) / 1e6) for r in known if any(r.deltas)
            ],
            "signed metadata, MB": [(r.number, r.metadata / 1e6) for r in known],
        },
    )


def _cpu() -> float:
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _metadata(folder: Path) -> int:
    """Bytes of the newest file of each role, but the root's, which a device has."""
    newest: dict[str, tuple[int, int]] = {}
    for path in folder.glob("*.json"):
        number, _, role = path.name.removesuffix(".json").rpartition(".")
        found = int(number or 0), path.stat().st_size
        newest[role] = max(newest.get(role, found), found)
    return sum(size for role, (_, size) in newest.items() if role != "root")


def main() -> int:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.delta.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, default=default_directory(), help="for the images")
    parser.add_argument("--count", type=int, default=10, help="versions to publish (default 10)")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="writes versions.svg there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    cache = Cache(options.cache)
    tools = prepare_tools(cache)
    images = islice(Workshop(cache, tools, small=True).versions(), options.count)
    kernel = prepare_kernel(load_board(find("board", "qemu-x86_64")), cache, tools).image
    releases: list[Release] = []
    print(f"deltas from the last {LAST} versions", file=out)
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as folder:
        for release in measure(images, kernel, Path(folder), tools):
            releases.append(release)
            print(release.row(), file=out, flush=True)
    if options.plot:
        plot.save(options.plot, "versions.svg", drawn(releases))
    if options.json:
        print(json.dumps([asdict(release) for release in releases], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
