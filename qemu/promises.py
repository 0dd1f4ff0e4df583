"""What each board was seen to keep, and how long it took: from scenarios to one table.

A scenario adds a line for each promise that it has seen kept:

    {"board": "qemu-armhf", "promise": "good update", "seconds": 61.2, "how": "1.0 to 2.0"}

The lines of a session, of all its workers, are in ARTIFACTS/promises.jsonl; its summary
prints them. `python -m qemu.promises ARTIFACTS/promises.jsonl --write README.md` puts the
table between the markers in that file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "promises.jsonl"
BEGIN, END = "<!-- promises: begin -->", "<!-- promises: end -->"
PROMISES = (
    "factory disk boots",
    "good update",
    "package set follows",
    "damaged slot",
    "panic",
    "hang",
    "failed health",
)


@dataclass(frozen=True)
class Kept:
    """A promise that a board kept. seconds: of the scenario's part. how: what was booted."""

    board: str
    promise: str
    seconds: float
    how: str


class Evidence:
    """Adds what one board was seen to keep to a file that several processes share.

    board: its name.
    """

    def __init__(self, path: Path, board: str) -> None:
        self._path = path
        self.board = board

    @contextmanager
    def of(self, promise: str, how: str) -> Iterator[None]:
        """Times the block; nothing is written when it raises."""
        if promise not in PROMISES:
            raise ValueError(f"no such promise: {promise}")
        began = time.monotonic()
        yield
        kept = Kept(self.board, promise, round(time.monotonic() - began, 1), how)
        line = json.dumps(asdict(kept)).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            # One write: lines of several workers do not mix.
            os.write(fd, line)
        finally:
            os.close(fd)


def read(path: Path) -> tuple[Kept, ...]:
    """What the file holds; nothing when there is none."""
    if not path.exists():
        return ()
    return tuple(Kept(**json.loads(line)) for line in path.read_text().splitlines())


def table(kept: Iterable[Kept]) -> str:
    """Boards by promises in Markdown; a cell has the seconds of the newest time it was seen."""
    seen = {(item.board, item.promise): item for item in kept}
    boards = sorted({board for board, _ in seen})
    lines = [
        f"| board | {' | '.join(PROMISES)} | seconds |",
        f"|---|{'---|' * (len(PROMISES) + 1)}",
    ]
    for board in boards:
        mine = [seen.get((board, promise)) for promise in PROMISES]
        cells = [f"{item.seconds:.0f} s" if item else "not run" for item in mine]
        total = sum(item.seconds for item in mine if item)
        lines.append(f"| {board} | {' | '.join(cells)} | {total:.0f} |")
    return "\n".join(lines) + "\n"


def summary(kept: Iterable[Kept]) -> list[str]:
    """One line for each promise, and what each board took in all."""
    ordered = sorted(kept, key=lambda item: (item.board, PROMISES.index(item.promise)))
    lines = [
        f"{item.board:22} {item.promise:20} {item.seconds:6.1f} s  {item.how}" for item in ordered
    ]
    for board in sorted({item.board for item in ordered}):
        total = sum(item.seconds for item in ordered if item.board == board)
        lines.append(f"{board:22} {'in all':20} {total:6.1f} s")
    return lines


def replaced(text: str, inner: str) -> str:
    """The text with inner between its markers. Raises ValueError when they are not there."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{inner}\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table of several sessions into a document."""
    parser = argparse.ArgumentParser(
        prog="python -m qemu.promises", description="Puts what boards kept into a document."
    )
    parser.add_argument("files", nargs="+", type=Path, help="promises.jsonl, older ones first")
    parser.add_argument("--write", required=True, type=Path, metavar="FILE", help="the document")
    options = parser.parse_args(arguments)
    kept = [item for path in options.files for item in read(path)]
    text = options.write.read_text(encoding="utf-8")
    options.write.write_text(replaced(text, table(kept)), encoding="utf-8")


if __name__ == "__main__":
    main()
