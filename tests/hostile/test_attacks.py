"""Every attack of the table is refused, in time, at a bounded cost; then a good update works."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.hostile.judge import judged
from tests.hostile.table import ATTACKS, ELSEWHERE, TUF, Attack

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_refused_and_good_afterwards(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    # No power is cut here.
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "sync", lambda: None)
    assert judged(attack) == ""


def test_the_judge_notices_an_attack_that_succeeds() -> None:
    harmless = Attack("none", "no attack", lambda _world: None)
    assert judged(harmless).startswith("not refused")


def test_the_table_has_every_attack_of_the_tuf_specification() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))
    kinds = {attack.kind for attack in ATTACKS}
    missing = {kind for kind in TUF if kind not in kinds}
    others = [name for made in ELSEWHERE.values() for name in made]
    assert all(any(kind in name for name in others) for kind in missing), missing


@pytest.mark.parametrize("file", ELSEWHERE)
def test_attacks_that_other_tests_make_are_there(file: str) -> None:
    tree = ast.parse((REPOSITORY / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert names.issuperset(ELSEWHERE[file].values())
