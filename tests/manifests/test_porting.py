"""The porting guide says what is true of the shipped boards."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from manifests.catalogue import REPOSITORY, names

GUIDE = (REPOSITORY / "docs/porting.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| .*\(\.\./boards/([a-z0-9_-]+)\.yaml\) \| (\d+) \| (\d*) ?\|$", re.MULTILINE)


def lines(board: str) -> list[str]:
    """The lines that somebody has to write."""
    text = (REPOSITORY / f"boards/{board}.yaml").read_text(encoding="utf-8")
    bare = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines())
    return [line for line in bare if line]


def changed(board: str, base: str) -> int:
    """How many lines of board are not in base."""
    matcher = SequenceMatcher(None, lines(base), lines(board), autojunk=False)
    return len(lines(board)) - sum(block.size for block in matcher.get_matching_blocks())


def test_the_numbers_of_lines_are_those_of_the_board_files() -> None:
    base = ""
    rows = ROW.findall(GUIDE)
    assert len(rows) >= 8
    wrong = []
    for board, count, differing in rows:
        found = (str(len(lines(board))), str(changed(board, base)) if differing else "")
        if found != (count, differing):
            wrong.append(f"{board}: {found[0]} lines {found[1]}")
        if not differing:
            base = board
    assert not wrong, f"write in the table of docs/porting.md: {wrong}"


def test_every_kind_of_firmware_has_a_file_to_start_from() -> None:
    kinds = {re.findall(r"kind: (\S+)", "\n".join(lines(board)))[0] for board in names("board")}
    described = {kind for kind in kinds if f"| `{kind}` |" in GUIDE}
    assert described == kinds == {"bios", "raspberry-pi", "u-boot", "uefi"}
