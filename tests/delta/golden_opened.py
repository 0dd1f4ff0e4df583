"""The golden frame of codec 4 whose clusters are compressed, with libzstd 1.5.7.

    python -m tests.delta.golden_opened

writes tests/delta/golden/opened/{base,payload,result} where they are missing; never change them.
"""

from __future__ import annotations

from pathlib import Path

from delta.clusters import LIBRARY
from tests.delta.frames import decoded
from tests.delta.opened import pair, payload

FOLDER = Path(__file__).parent / "golden/opened"
RELEASE = 10507


def main() -> None:
    """Writes what is missing."""
    assert LIBRARY == RELEASE, "needs zstandard 0.25"
    old, new = pair(7, 40_000, 9000)
    made = payload(old, new)
    assert decoded(made, old.image, len(new.image)) == new.image
    FOLDER.mkdir(exist_ok=True)
    for name, data in (("base", old.image), ("payload", made), ("result", new.image)):
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
