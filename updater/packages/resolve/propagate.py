"""Rules out what cannot be part of any answer, before searching. Pure.

Two rules until nothing changes: a version goes when something it needs has no
fitting version left; and when a package that is needed for certain accepts it
in none of its remaining versions. What remains may still not fit together.
Only what is declared counts: making the view of every version would be dear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from updater.packages.resolve.candidates import Candidate, Requirement

if TYPE_CHECKING:
    from updater.packages.resolve.solve import Problem


def remaining(
    problem: Problem,
    demands: Sequence[Requirement],
    core: frozenset[str],
    without: frozenset[Candidate],
) -> dict[str, list[Candidate]] | None:
    """The versions of each name in the core that may be in an answer; None: there is no answer."""
    left = {
        name: [candidate for candidate in problem.candidates(name) if candidate not in without]
        for name in sorted(core)
    }
    needed = {demand.name for demand in demands}
    for demand in demands:
        allowed = problem.allowed(demand)
        left[demand.name] = [item for item in left[demand.name] if item.version in allowed]
    changed = True
    while changed:
        changed = False
        for name, candidates in left.items():
            kept = [item for item in candidates if _can_be(problem, item, left)]
            if len(kept) != len(candidates):
                left[name] = kept
                changed = True
        for name in sorted(needed):
            if not left[name]:
                return None
            for other, versions in _certain(problem, left[name], core).items():
                needed.add(other)
                kept = [item for item in left[other] if item.version in versions]
                if len(kept) != len(left[other]):
                    left[other] = kept
                    changed = True
        if any(not left[name] for name in needed):
            return None
    return left


def _can_be(problem: Problem, candidate: Candidate, left: dict[str, list[Candidate]]) -> bool:
    """Whether each thing it needs in the core has a fitting version left."""
    for need in problem.declared(candidate):
        if need.name in left:
            allowed = problem.allowed(need)
            if not any(other.version in allowed for other in left[need.name]):
                return False
    return True


def _certain(
    problem: Problem, candidates: list[Candidate], core: frozenset[str]
) -> dict[str, frozenset[str]]:
    """What every one of the versions needs: name → versions that at least one accepts."""
    common: dict[str, frozenset[str]] | None = None
    for candidate in candidates:
        mine: dict[str, frozenset[str]] = {}
        for need in problem.declared(candidate):
            if need.name in core:
                allowed = problem.allowed(need)
                mine[need.name] = mine.get(need.name, allowed) & allowed
        if common is None:
            common = mine
        else:
            common = {n: common[n] | mine[n] for n in common if n in mine}
    return common or {}
