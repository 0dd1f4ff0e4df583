"""`python -m benchmarks.delta.growth --sizes 0,100,400 --plot FOLDER`: cost against image size.

The same application changes in images that hold more and more other data. What is fetched should
follow the change, not the image; making and applying read both images once, so their time grows
with the image, and their memory should not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.delta import ours, plot
from benchmarks.delta.__main__ import plain_files
from benchmarks.delta.figures import Result
from benchmarks.delta.images import Workshop
from imager.cache import Cache, default_directory
from imager.tools import prepare_tools


@dataclass(frozen=True)
class Point:
    """An image and what an update of it costs. size in bytes."""

    size: int
    ours: Result

    def row(self) -> str:
        """One line of the table."""
        return f"{self.size / 1e6:8.1f} MB image  {self.ours.row()}"


def measure(workshop: Workshop, sizes: Sequence[int], workers: int) -> Iterator[Point]:
    """A point for each size of other data, in MiB."""
    for size in sizes:
        pair = workshop.grown(size << 20)
        with tempfile.TemporaryDirectory(prefix="orbital-bench-") as folder:
            files = plain_files(pair, Path(folder), 3600)
            # What is fetched in full is not looked at here.
            yield Point(pair.new.size, ours.run(files, workers=workers, level=1))


def drawn(points: Sequence[Point]) -> str:
    """The plot."""
    sizes = [point.size / 1e6 for point in points]
    costs = [(point.ours.size, point.ours.make, point.ours.apply) for point in points]
    series = {
        "to fetch, kB": [size / 1e3 for size, _, _ in costs],
        "to make, processor seconds": [made.cpu for _, made, _ in costs if made],
        "to apply, processor seconds": [applied.cpu for _, _, applied in costs if applied],
        "peak memory to apply, MiB": [
            applied.peak / (1 << 20) for _, _, applied in costs if applied
        ],
    }
    return plot.lines(
        "The same change in larger and larger images",
        "MB of the image",
        {name: list(zip(sizes, values, strict=True)) for name, values in series.items()},
    )


def main() -> int:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.delta.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", default="0,100,300,700,1900", help="MiB of other data")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of our maker")
    parser.add_argument("--cache", type=Path, default=default_directory())
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="writes growth.svg there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    tools = prepare_tools(Cache(default_directory()))
    workshop = Workshop(Cache(options.cache), tools, small=True)
    points: list[Point] = []
    for point in measure(
        workshop, [int(size) for size in options.sizes.split(",")], options.workers
    ):
        points.append(point)
        print(point.row(), file=out, flush=True)
    if options.plot:
        plot.save(options.plot, "growth.svg", drawn(points))
    if options.json:
        rows = [{"size": point.size, **point.ours.document()} for point in points]
        print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
