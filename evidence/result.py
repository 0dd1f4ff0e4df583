"""What a campaign found: one document a campaign and board, kept in the repository.

    evidence/results/CAMPAIGN[.BOARD].json

A campaign writes it when a full run has ended (`record`); samples that CI runs
write nothing. `evidence.report` makes docs/evidence.md of all of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from recovery import process
from recovery.errors import ToolError

FORMAT = 1
REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "evidence" / "results"

_COMMAND = re.compile(r"python -m evidence [a-z-]+( [^\n|`]+)?", re.ASCII)
_COUNT = re.compile(r"[a-z][a-z0-9 ,()/%-]{1,79}", re.ASCII)
_DATE = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{12}\+?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_BOARD = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One full run.

    board: name of the board; "" when the run does not depend on one. command:
    reproduces the run from the top of a checkout ("python -m evidence ...").
    commit: 12 hex digits; "+" after them when files differed from it. date:
    YYYY-MM-DD, UTC, of the end. seconds: taken, in all parts together. counts:
    what was counted, by lower-case name in words ("crash states judged").
    wrong: each outcome that breaks a promise; () is the aim of every campaign.
    notes: what a reader of the figures has to know, one sentence each.
    """

    campaign: str
    board: str
    command: str
    commit: str
    date: str
    seconds: int
    counts: dict[str, int]
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Raises ValueError: a document is whole or refused."""
        problems = [
            f"{field} {text!r}"
            for field, text, pattern in (
                ("campaign", self.campaign, _NAME),
                ("command", self.command, _COMMAND),
                ("commit", self.commit, _COMMIT),
                ("date", self.date, _DATE),
            )
            if not pattern.fullmatch(text)
        ]
        problems += [f"count {name!r}" for name in self.counts if not _COUNT.fullmatch(name)]
        problems += [f"{name}: {n}" for name, n in self.counts.items() if n < 0]
        problems += [
            f"text {text!r}"
            for text in (*self.wrong, *self.notes)
            if not text.strip() or not text.isprintable()
        ]
        if self.board and not _BOARD.fullmatch(self.board):
            problems.append(f"board {self.board!r}")
        if not self.counts or self.seconds < 0 or self.format != FORMAT:
            problems.append("no counts, a negative time or another format")
        if problems:
            raise ValueError("not a result: " + "; ".join(problems))

    @property
    def file_name(self) -> str:
        """Name of its file in the folder of results."""
        return f"{self.campaign}.{self.board}.json" if self.board else f"{self.campaign}.json"


def encode(result: Result) -> bytes:
    """The document, one field a line, so that a change of it reads well."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def decode(data: bytes) -> Result:
    """The document read back. Raises ValueError."""
    try:
        return msgspec.json.decode(data, type=Result)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def record(
    campaign: str,
    command: str,
    counts: Mapping[str, int],
    *,
    seconds: float,
    board: str = "",
    wrong: Sequence[str] = (),
    notes: Sequence[str] = (),
    folder: Path = RESULTS,
) -> Path:
    """Writes the result of a full run that ended now; returns its file. Raises ValueError."""
    result = Result(
        campaign=campaign,
        board=board,
        command=command,
        commit=commit(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        seconds=round(seconds),
        counts=dict(counts),
        wrong=tuple(" ".join(text.split()) for text in wrong),
        notes=tuple(" ".join(text.split()) for text in notes),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / result.file_name
    path.write_bytes(encode(result))
    return path


def load_all(folder: Path = RESULTS) -> tuple[Result, ...]:
    """Every result, in the order of their file names. Raises ValueError, naming the file."""
    return tuple(_load(folder))


def _load(folder: Path) -> Iterator[Result]:
    for path in sorted(folder.glob("*.json")):
        try:
            result = decode(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if result.file_name != path.name:
            raise ValueError(f"{path}: holds the result {result.file_name}")
        yield result


def commit() -> str:
    """The commit that is checked out; "+" after it when tracked files differ from it."""
    try:
        head = process.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=REPOSITORY)
        changes = process.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=REPOSITORY
        )
    except ToolError:
        return "0" * 12
    return head.stdout.strip()[:12] + ("+" if changes.stdout.strip() else "")
