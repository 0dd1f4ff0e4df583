"""Types, lint, format and import contracts: linters run as tests, so one command is CI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recovery import process

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("ruff", "check", "."), id="lint"),
        pytest.param(("ruff", "format", "--check", "."), id="format"),
        pytest.param(("mypy",), id="types"),
        pytest.param(("lint-imports",), id="import-contracts"),
    ],
)
def test_the_code_is_clean(command: tuple[str, ...]) -> None:
    done = process.run([BIN / command[0], *command[1:]], cwd=ROOT, check=False)
    assert done.returncode == 0, f"{done.pasteable}\n{done.stdout}\n{done.stderr}"
