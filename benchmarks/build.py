"""Image build: cold, warm, and after a one-line change.

`python -m benchmarks.build [--json]` builds the reference product with an empty stage cache
(Debian packages come from the mirror, the tools tree is made once and not counted), again
with nothing changed, and again with one line of the system manifest changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import Comparison, seconds
from imager.cache import default_directory
from recovery import process

ROOT = Path(__file__).parent.parent


def _orbital(cache: Path, *words: str | Path) -> None:
    process.run(
        [sys.executable, "-m", "orbital.main", *words],
        env={"ORBITAL_CACHE": str(cache)},
        cwd=ROOT,
    )


def measure() -> list[Comparison]:
    """Cold against itself, warm and changed against cold."""
    shared = default_directory()
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as name:
        work = Path(name)
        cache = work / "cache"
        cache.mkdir()
        keys = work / "keys"
        _orbital(shared, "keys", "make", keys)
        # The tools tree is an input like the compiler: made beforehand, not part of a build.
        _orbital(shared, "image", "tools")
        (cache / "stages").mkdir()
        (cache / "stages" / "tools").symlink_to(shared / "stages" / "tools")

        def build(system: Path, out: str) -> float:
            return seconds(
                lambda: _orbital(
                    cache,
                    "image",
                    "build",
                    "--system",
                    system,
                    "--keys",
                    keys,
                    "--output",
                    work / out,
                )
            )

        system = ROOT / "manifests" / "systems" / "gateway.yaml"
        cold = build(system, "cold")
        warm = [build(system, f"warm{index}") for index in range(3)]
        changed = work / "gateway.yaml"
        text = system.read_text(encoding="utf-8")
        changed.write_text(text.replace("hostname: gateway", "hostname: changed", 1))
        line = build(changed, "line")
        return [
            Comparison("warm build against cold", tuple(warm), (cold,) * 3, 0.20),
            Comparison("build after a one-line change against cold", (line,), (cold,)),
        ]


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure()
    if options.json:
        print(json.dumps([row.document() for row in rows], indent=1))
    else:
        print(f"{'':<44} {'ours':>10} {'floor':>10}")
        for row in rows:
            print(row.row())


if __name__ == "__main__":
    main()
