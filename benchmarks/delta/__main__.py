"""`python -m benchmarks.delta --pairs a,c`: what an update costs to fetch, beside other tools.

Pairs (`benchmarks.delta.images`): a, security update of a few packages; b, kernel update; c,
application change only; d, major release. All tools get the same two images in the same run, and
what each makes is compared with the new image, byte by byte. Sizes are all that has to be
fetched: index, document and data. A full run takes hours of processor time, nearly all of it
for the peers; `--small` takes minutes.

Exit code 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.delta import ours, peers, plot
from benchmarks.delta.figures import Result, Skipped
from benchmarks.delta.images import Image, Pair, Workshop
from imager.cache import Cache, default_directory
from imager.tools import prepare_tools
from recovery.errors import ToolError

# The most that our size may be of the best of casync, RAUC and zchunk, and of xdelta3 (issue 5).
AIMS: Mapping[str, tuple[float, float]] = {
    "a": (1 / 20, 0.4),
    "b": (1 / 5, 1.0),
    "c": (1 / 100, 0.5),
    "d": (1.0, 1.0),
}
_CHUNKS = ("casync", "RAUC", "zchunk")


def measure(
    pair: Pair, chosen: Sequence[str], work: Path, *, workers: int, patience: float
) -> Iterator[Result | Skipped]:
    """Ours, then the chosen peers."""
    files = plain_files(pair, work, patience)
    try:
        yield ours.run(files, workers=workers)
    except ToolError as error:
        yield Skipped("Orbital", str(error))
    shutil.rmtree(files.work)
    files.work.mkdir()
    for name in chosen:
        yield from peers.run(name, files)
    shutil.rmtree(files.work)


def plain_files(pair: Pair, work: Path, patience: float) -> peers.Files:
    """The old and the new image in that folder, and an empty folder beside them."""
    old, new = (_plain(image, work / name) for image, name in ((pair.old, "1"), (pair.new, "2")))
    scratch = work / "scratch"
    scratch.mkdir()
    streams = tuple(zip(old[1], new[1], strict=True))
    return peers.Files(old[0], new[0], scratch, patience, streams)


def _plain(image: Image, path: Path) -> tuple[Path, tuple[Path, ...]]:
    """The image without its verity tree, which no tool should have to carry; and its streams."""
    shutil.copyfile(image.path, path)
    os.truncate(path, image.size)
    if image.boot is None:
        return path, (path,)
    root = path.with_suffix(".root")
    shutil.copyfile(path, root)
    with path.open("ab") as whole:
        whole.write(image.boot.read_bytes())
    return path, (root, image.boot)


def _size(image: Image) -> int:
    return image.size + (image.boot.stat().st_size if image.boot else 0)


def best(results: Sequence[Result | Skipped], names: Sequence[str]) -> int | None:
    """The smallest of the results whose method begins with one of the names."""
    sizes = [
        result.size
        for result in results
        if isinstance(result, Result) and result.method.startswith(tuple(names))
    ]
    return min(sizes, default=None)


def verdicts(pair: str, results: Sequence[Result | Skipped]) -> Iterator[tuple[str, bool]]:
    """A line for each aim that can be judged, and whether it is met."""
    mine = best(results, ["Orbital"])
    chunks, delta = AIMS[pair]
    for what, names, aim in (
        ("the best of casync, RAUC and zchunk", _CHUNKS, chunks),
        ("the best of xdelta3", ("xdelta3",), delta),
    ):
        theirs = best(results, names)
        if mine is not None and theirs is not None:
            met = mine <= aim * theirs
            line = f"{mine / theirs:.4f} of {what}, aim ≤ {aim:.4f}"
            yield f"{line}: {'met' if met else 'MISSED'}", met


def main() -> int:
    """Prints the tables, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.delta",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", default="a,b,c,d", help="letters of pairs (default: all)")
    parser.add_argument(
        "--peers", default=",".join(peers.PEERS), help="peers to measure, or an empty text"
    )
    parser.add_argument("--small", action="store_true", help="a root of 80 MB, without a kernel")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of our maker")
    parser.add_argument(
        "--patience", type=float, default=3600, metavar="SECONDS", help="for a peer's program"
    )
    parser.add_argument(
        "--cache", type=Path, default=default_directory(), help="where images are kept"
    )
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="writes pairs.svg there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    tools = prepare_tools(Cache(default_directory()))
    workshop = Workshop(Cache(options.cache), tools, small=options.small)
    documents: list[dict[str, object]] = []
    panels: dict[str, list[tuple[str, int]]] = {}
    missed = False
    for name in options.pairs.split(","):
        pair = workshop.pair(name)
        print(
            f"{pair.name}: {pair.what}; {_size(pair.old) / 1e6:.1f} MB to "
            f"{_size(pair.new) / 1e6:.1f} MB, {len(pair.changed)} packages changed",
            file=out,
        )
        results: list[Result | Skipped] = []
        chosen = [peer for peer in options.peers.split(",") if peer]
        with tempfile.TemporaryDirectory(prefix="orbital-bench-") as folder:
            for result in measure(
                pair, chosen, Path(folder), workers=options.workers, patience=options.patience
            ):
                results.append(result)
                print(f"  {result.row()}", file=out, flush=True)
        judged = list(verdicts(name, results))
        for line, met in judged:
            print(f"  {line}", file=out)
            missed = missed or not met
        panels[f"{pair.name}: {pair.what}"] = [
            (result.method, result.size) for result in results if isinstance(result, Result)
        ]
        documents.append(
            {
                "pair": pair.name,
                "what": pair.what,
                "old_size": _size(pair.old),
                "new_size": _size(pair.new),
                "changed": pair.changed,
                "results": [result.document() for result in results],
                "aims": [{"text": line, "met": met} for line, met in judged],
            }
        )
    if options.plot:
        plot.save(options.plot, "pairs.svg", plot.bars(panels))
    if options.json:
        print(json.dumps({"small": options.small, "pairs": documents}, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
