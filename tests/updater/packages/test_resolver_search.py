"""The resolver against a plain depth-first search, on universes with many conflicts.

Larger than those of `test_resolver_brute_force`: here the core has to grow more than once.
"""

from __future__ import annotations

import random
from functools import cache

import pytest

from manifests.constraints import parse_constraint
from manifests.package_index import PackageRelease
from tests.updater.packages.universe import GATEWAY, Table, release, want
from updater.packages.resolve.model import ConflictError
from updater.packages.resolve.resolver import resolve

NAMES = "abcdefgh"
CONSTRAINTS = ("*", "=1", "=2", "=3", "<2", "<3", ">=2", ">=3", "!=2")
Packages = dict[str, list[PackageRelease]]


@cache
def accepted(constraint: str, version: str) -> bool:
    """As in a manifest."""
    return parse_constraint(constraint).allows(version)


def packages(draw: random.Random) -> Packages:
    """Eight packages with two to four versions that depend on later names."""
    made: Packages = {}
    for place, name in enumerate(NAMES):
        later = NAMES[place + 1 :]
        made[name] = []
        for version in range(1, draw.randint(2, 4) + 1):
            others = draw.sample(later, min(len(later), draw.randint(0, 3)))
            depends = [f"{other} {draw.choice(CONSTRAINTS)}" for other in others]
            made[name].append(release(name, str(version), *depends))
    return made


def exists(made: Packages, chosen: frozenset[str], needs: dict[str, list[str]]) -> bool:
    """Whether there is an answer: tries every version of one name after the other."""
    name = next((name for name in NAMES if name in needs and name not in chosen), None)
    if name is None:
        return True
    for candidate in made[name]:
        if all(accepted(text, candidate.version) for text in needs[name]):
            more = {other: list(texts) for other, texts in needs.items()}
            for item in candidate.depends:
                more.setdefault(item.package, []).append(item.versions)
            if exists(made, chosen | {name}, more):
                return True
    return False


@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_a_plain_search(seed: int) -> None:
    draw = random.Random(seed)
    outcomes = set()
    for _ in range(150):
        made = packages(draw)
        names = draw.sample(NAMES[:5], 3)
        possible = exists(made, frozenset(), {name: ["*"] for name in names})
        outcomes.add(possible)
        try:
            found = resolve([want(name) for name in names], Table(**made), GATEWAY, (), upgrade=())
        except ConflictError:
            assert not possible
            continue
        assert possible
        chosen = {item.name: item.release for item in found.packages}
        assert set(names) <= set(chosen)
        for item in chosen.values():
            for need in item.depends:
                assert accepted(need.versions, chosen[need.package].version)
    assert outcomes == {True, False}


def test_a_cycle_in_a_branch_that_was_given_up_is_left_behind() -> None:
    """resolvelib 1.1 keeps b, which nobody but b needs any more, and follows it for ever."""
    offers = Table(
        a=[release("a", "1"), release("a", "2"), release("a", "3", "a *", "b *")],
        b=[release("b", "1", "a =1", "b *")],
    )
    found = resolve((want("a *"),), offers, GATEWAY, (), upgrade=())
    assert [(item.name, item.release.version) for item in found.packages] == [("a", "2")]
