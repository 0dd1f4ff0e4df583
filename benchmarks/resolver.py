"""Resolver: universes of up to 2,000 packages with 10 versions each, all in one answer.

`python -m benchmarks.resolver [--universes N] [--json]` makes universes out of fixed seeds and
resolves them on an empty device: three features in five, the rest libraries; features in
layers (deep chains), hubs that many depend on (wide), views of some libraries, and newest
versions that need what others rule out, so that older ones must be found by searching. Every
package that can be installed is wanted. Read from plain structures, as a device has them after
fetching; making the universe is not timed.

Times are processor seconds: the resolver does nothing but compute, and the machine may be busy.

The pathological cases have no answer, and the only proof is to try combinations: packages in
an odd ring, each of which must have another of two versions than its neighbour; and pigeons,
each of which wants a hole for itself, where there is one hole too few. Their time contains the
explanation; what the user is told is shown, "cannot decide" included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manifests.index import Stream
from manifests.package_index import Dependency, PackageRelease
from recovery.errors import RefusedError
from updater.packages.resolve.model import Environment, Want
from updater.packages.resolve.resolver import resolve

SIZES = (250, 500, 1000, 2000)
VERSIONS = 10
AIM_SECONDS = 2.0
CAPPED = 0.001
"""Share of dependencies that only accept versions older than the newest of their time."""
DENSE = 0.002
"""The same for universes that are harder than the aim is for; shown beside it."""
ENVIRONMENT = Environment(system="gateway", version="2.0", architecture="amd64")
_STREAM = Stream(size=0, sha256="", segment_size=0, segments=())


@dataclass(frozen=True)
class Universe:
    """Offers, and what is wanted of them."""

    packages: dict[str, tuple[PackageRelease, ...]]
    wants: tuple[Want, ...]

    def releases(self, name: str) -> tuple[PackageRelease, ...]:
        """See `updater.packages.resolve.model.Offers`."""
        return self.packages.get(name, ())


@dataclass(frozen=True)
class Growth:
    """One size. seconds: of each universe. chosen: packages in the first answer; older: features
    in each that are not at their newest version, because something ruled it out."""

    size: int
    seconds: tuple[float, ...]
    chosen: int
    older: tuple[int, ...]


def release(kind: str, version: int, depends: Sequence[tuple[str, str]]) -> PackageRelease:
    """A release with these (name, constraint) pairs."""
    return PackageRelease(
        version=f"1.{version}",
        kind="library" if kind == "library" else "feature",
        architecture="amd64",
        summary="",
        digest="",
        signature="",
        stream=_STREAM,
        built=0,
        depends=tuple(Dependency(name, text) for name, text in depends),
    )


def universe(size: int, seed: int, capped: float = CAPPED) -> Universe:
    """size packages with VERSIONS versions; an answer exists: all at version 1.0."""
    draw = random.Random(seed)
    libraries = [f"lib{number:04}" for number in range(size * 2 // 5)]
    features = [f"feature{number:04}" for number in range(size - len(libraries))]
    packages: dict[str, tuple[PackageRelease, ...]] = {}
    level = len(libraries) // 5
    for place, name in enumerate(libraries):
        below = libraries[(place // level + 1) * level :][:level]
        packages[name] = _versions(
            draw, capped, "library", draw.sample(below, min(len(below), 1 + place % 2))
        )
    hubs = features[-max(5, len(features) // 50) :]
    for place, name in enumerate(features):
        near = features[place + 1 : place + 30]
        below = draw.sample(near, min(len(near), draw.randint(1, 3)))
        if name not in hubs:
            below.append(draw.choice(hubs))
        names = sorted({*below, *draw.sample(libraries, 3)})
        packages[name] = _versions(draw, capped, "feature", names)
    return Universe(packages, tuple(Want(name) for name in features))


def _versions(
    draw: random.Random, share: float, kind: str, names: Sequence[str]
) -> tuple[PackageRelease, ...]:
    """Each needs what was there when it was made; some do not go with what is newest."""
    made = []
    for version in range(VERSIONS):
        depends = []
        for name in names:
            low = draw.randint(0, version)
            capped = version > 0 and draw.random() < share
            depends.append((name, f"<1.{version}" if capped else f">=1.{low}"))
        made.append(release(kind, version, depends))
    return tuple(made)


def ring(length: int) -> Universe:
    """No answer: each of an odd ring has one of two versions, never its neighbour's."""
    names = [f"ring{number:03}" for number in range(length)]
    packages: dict[str, tuple[PackageRelease, ...]] = {}
    for place, name in enumerate(names):
        following = names[(place + 1) % length]
        packages[f"pair-{name}"] = tuple(
            release("feature", version, [(name, f"=1.{version}"), (following, f"=1.{1 - version}")])
            for version in range(2)
        )
        packages[name] = tuple(release("feature", version, []) for version in range(2))
    return Universe(packages, tuple(Want(f"pair-{name}") for name in names))


def pigeons(count: int) -> Universe:
    """No answer: count packages that each take one of count - 1 places, one place for one."""
    packages: dict[str, tuple[PackageRelease, ...]] = {}
    names = [f"pigeon{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        packages[name] = tuple(
            release("feature", hole, [(f"hole{hole:03}", f"=1.{number}")])
            for hole in range(count - 1)
        )
    for hole in range(count - 1):
        packages[f"hole{hole:03}"] = tuple(
            release("feature", number, []) for number in range(count)
        )
    return Universe(packages, tuple(Want(name) for name in names))


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def grow(size: int, universes: int, capped: float = CAPPED) -> Growth:
    """Resolves universes of that size, each from nothing. Raises RefusedError for none."""
    times = []
    answers = []
    for seed in range(1, universes + 1):
        made = universe(size, seed, capped)
        times.append(
            seconds(
                lambda made=made: answers.append(  # type: ignore[misc]
                    resolve(made.wants, made, ENVIRONMENT, (), upgrade=())
                )
            )
        )
    older = tuple(
        sum(
            item.release.kind == "feature" and item.version != f"1.{VERSIONS - 1}"
            for item in answer.packages
        )
        for answer in answers
    )
    return Growth(size, tuple(times), len(answers[0].packages), older)


def refusal(made: Universe) -> tuple[float, str]:
    """How long a universe without an answer takes, and what the user is told."""
    told = ""

    def attempt() -> None:
        nonlocal told
        try:
            resolve(made.wants, made, ENVIRONMENT, (), upgrade=())
        except RefusedError as error:
            told = error.brief

    return seconds(attempt), told


def main() -> int:
    """Prints the table; 0 when the aim is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--universes", type=int, default=6, help="universes of each size (default: 6)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    # Once beforehand: imports and the interpreter's caches are not the resolver's.
    grow(50, 1)
    growth = [grow(size, arguments.universes) for size in SIZES]
    dense = grow(SIZES[-1], arguments.universes, DENSE)
    hard = {
        "ring of 11": refusal(ring(11)),
        "ring of 51": refusal(ring(51)),
        "5 pigeons": refusal(pigeons(5)),
        "9 pigeons": refusal(pigeons(9)),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    worst = max(growth[-1].seconds)
    if arguments.json:
        print(
            json.dumps(
                {
                    "growth": [
                        {
                            "packages": item.size,
                            "versions": VERSIONS,
                            "seconds": list(item.seconds),
                            "chosen": item.chosen,
                            "older": list(item.older),
                        }
                        for item in growth
                    ],
                    "dense_seconds": list(dense.seconds),
                    "aim_seconds": AIM_SECONDS,
                    "without_answer": {
                        name: {"seconds": taken, "told": told}
                        for name, (taken, told) in hard.items()
                    },
                    "peak_bytes": peak,
                }
            )
        )
    else:
        for item in growth:
            middle = statistics.median(item.seconds)
            print(
                f"{item.size:>5} packages × {VERSIONS}: {middle:6.2f} s, at most "
                f"{max(item.seconds):.2f} s ({middle / item.size * 1000:.2f} ms a package; "
                f"{item.chosen} chosen; features not the newest: {item.older})"
            )
        met = "met" if worst < AIM_SECONDS else "MISSED"
        print(f"aim: {SIZES[-1]} packages under {AIM_SECONDS:.0f} s: {worst:.2f} s at most, {met}")
        print(
            f"twice as many that go with nothing newer: {statistics.median(dense.seconds):.2f} s, "
            f"at most {max(dense.seconds):.2f} s (features not the newest: {dense.older})"
        )
        for name, (taken, told) in hard.items():
            print(f"no answer, {name}: {taken:6.2f} s: {told}")
        print(f"peak memory {peak >> 20} MiB")
    return 0 if worst < AIM_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
