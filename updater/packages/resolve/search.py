"""A complete search: finds an answer, or proves that there is none. Pure.

Depth first, users before what they need, so the first answer is the one that
prefers best. After a dead end it goes back to the last choice that had a part in
it (conflict-directed backjumping): each dead end is a set of choices that
cannot stand together, and choices outside the set are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from recovery.errors import RefusedError
from updater.packages.resolve.candidates import Candidate, Requirement

if TYPE_CHECKING:
    from updater.packages.resolve.solve import Problem

STEPS = 20_000
"""Versions tried before the search is given up: some seconds."""


class _Frame:
    """One choice: the versions of a name that are still to be tried.

    blame: names whose choices ruled versions of this one out, so far.
    asked: names that the present version put requirements on, to be taken back.
    """

    def __init__(self, name: str, rest: list[Candidate], blame: set[str]) -> None:
        self.name = name
        self.rest = rest
        self.blame = blame
        self.asked: list[str] = []


def search(
    problem: Problem,
    roots: Sequence[Requirement],
    rank: Mapping[str, int],
    core: frozenset[str],
    without: frozenset[Candidate] = frozenset(),
) -> dict[str, Candidate] | None:
    """The most preferred answer for the names in core, or None when there is none.

    Requirements on names outside the core are not looked at. Raises
    RefusedError when STEPS were not enough to know.
    """
    pending: dict[str, list[Requirement]] = {}
    answer: dict[str, Candidate] = {}
    stack: list[_Frame] = []
    steps = 0
    for root in roots:
        pending.setdefault(root.name, []).append(root)
    while True:
        name = min(
            (item for item in pending if item not in answer), key=rank.__getitem__, default=None
        )
        if name is None:
            return answer
        stack.append(_choice(problem, name, pending[name], without))
        while True:
            frame = stack[-1]
            dead_end = _advance(problem, frame, answer, pending, core)
            steps += 1
            if steps > STEPS:
                raise RefusedError(
                    "cannot decide which versions fit together: there are too many combinations",
                    details=f"no answer and no proof after {STEPS} steps",
                    resolution="name versions for some of the packages, "
                    "or install them one after another",
                )
            if dead_end is None:
                break
            # Back to the last choice that has a part in it; the ones between do not matter.
            stack.pop()
            while stack and stack[-1].name not in dead_end:
                _take_back(stack.pop(), answer, pending)
            if not stack:
                return None
            _take_back(stack[-1], answer, pending)
            stack[-1].blame |= dead_end - {stack[-1].name}


def _choice(
    problem: Problem,
    name: str,
    requirements: Sequence[Requirement],
    without: frozenset[Candidate],
) -> _Frame:
    """The versions to try, and who is to blame for the others and for the name being needed."""
    blame: set[str] = set()
    if all(requirement.by is not None for requirement in requirements):
        first = requirements[0].by
        assert first is not None
        blame.add(first.name)
    rest = []
    for candidate in problem.candidates(name):
        against = next(
            (
                requirement
                for requirement in requirements
                if candidate.version not in problem.allowed(requirement)
            ),
            None,
        )
        if against is None and candidate not in without:
            rest.append(candidate)
        elif against is not None and against.by is not None:
            blame.add(against.by.name)
    return _Frame(name, rest[::-1], blame)


def _advance(
    problem: Problem,
    frame: _Frame,
    answer: dict[str, Candidate],
    pending: dict[str, list[Requirement]],
    core: frozenset[str],
) -> set[str] | None:
    """Takes the next version that fits what is taken; None, or the choices that prevent all."""
    while frame.rest:
        candidate = frame.rest.pop()
        if not problem.usable(candidate):
            continue
        needs = [item for item in problem.requirements(candidate) if item.name in core]
        clash = next(
            (
                item.name
                for item in needs
                if (item.name in answer and answer[item.name].version not in problem.allowed(item))
                or (item.name == frame.name and candidate.version not in problem.allowed(item))
            ),
            None,
        )
        if clash is not None:
            frame.blame.add(clash)
            continue
        answer[frame.name] = candidate
        for item in needs:
            pending.setdefault(item.name, []).append(item)
            frame.asked.append(item.name)
        return None
    return frame.blame - {frame.name}


def _take_back(
    frame: _Frame, answer: dict[str, Candidate], pending: dict[str, list[Requirement]]
) -> None:
    """Undoes the frame's present version."""
    del answer[frame.name]
    for name in reversed(frame.asked):
        pending[name].pop()
        if not pending[name]:
            del pending[name]
    frame.asked.clear()
