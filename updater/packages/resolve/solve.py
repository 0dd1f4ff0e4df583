"""The solver: one version for each name that is needed, so that every requirement holds. Pure.

resolvelib searches, but it looks at every open name in every round: quadratic
in the size of the answer. Almost all of a real set needs no search: in an order
where each package comes before what it needs, the most preferred version that
fits is simply taken (`_take`). Where that finds no version for a name, a *core*
is given to resolvelib alone: this name and its users (who may need it), under
the requirements of what was taken outside. Its answer is held fixed, and the
rest is taken again. So:

* an answer of the core can only fail at a name outside: that joins, with its users;
* a core without an answer grows by all its users, so what is taken far above
  changes last; it is no proof until there is nobody left outside who may need
  something inside. Then the whole has no answer either.

The core grows until the whole is answered, and the rules are resolvelib's.

Three things resolvelib 1.1 does not promise, and we do. Its backjumping keeps what
it ruled out in one branch when it goes on in another, which nobody has proven
complete; so its "no" is checked by `search.search`, which goes through everything
(in 12,000 random cases it never had to correct one). And it knows no cycles: an
answer with a cycle is refused, and the search goes on without one release of
the cycle at a time. What it leaves of a branch that it gave up is not taken over
from it by its own `Result`, which follows a cycle there for ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep
from resolvelib.resolvers import Resolution

from updater.packages.resolve.candidates import Candidate, Requirement
from updater.packages.resolve.propagate import remaining
from updater.packages.resolve.search import search

ROUNDS = 5_000
"""Rounds of resolvelib (one version taken or given up in each) before we check its work."""
ROUNDS_EARLY = 2
"""Rounds for each name of a core that can still grow: a larger one is often easier."""
CYCLES = 64
"""Sets with a cycle that are looked at before the first cycle is reported."""


class Problem(Protocol):
    """What there is and what it needs."""

    def candidates(self, name: str) -> Sequence[Candidate]:
        """Most preferred first."""

    def usable(self, candidate: Candidate) -> bool:
        """Whether the candidate can be used at all; may be dear, asked only when it is next."""

    def requirements(self, candidate: Candidate) -> Sequence[Requirement]:
        """What a usable candidate needs."""

    def declared(self, candidate: Candidate) -> Sequence[Requirement]:
        """Those of its requirements that are known at once, usable or not."""

    def allowed(self, requirement: Requirement) -> frozenset[str]:
        """The versions that satisfy it."""

    def reachable(self, name: str) -> Iterable[str]:
        """Names that some candidate of the name may need, sorted."""


class UnsatisfiableError(Exception):
    """There is no answer. core: the names among which the reason is; cycle: if that is it."""

    def __init__(self, core: frozenset[str], cycle: tuple[Candidate, ...] = ()) -> None:
        super().__init__(", ".join(sorted(core)))
        self.core = core
        self.cycle = cycle


Answer = dict[str, Candidate]


def solve(problem: Problem, roots: Sequence[Requirement]) -> Answer:
    """The answer, without a cycle.

    Raises UnsatisfiableError, and RefusedError when there are too many combinations.
    """
    left = CYCLES
    first: tuple[Candidate, ...] = ()

    def attempt(without: frozenset[Candidate]) -> Answer | None:
        nonlocal left, first
        try:
            answer = _solve(problem, roots, without)
        except UnsatisfiableError:
            if not without:
                raise
            return None
        cycle = find_cycle(problem, answer)
        if not cycle:
            return answer
        first = first or cycle
        for candidate in reversed(cycle):
            left -= 1
            if left < 0:
                return None
            found = attempt(without | {candidate})
            if found is not None:
                return found
        return None

    answer = attempt(frozenset())
    if answer is None:
        raise UnsatisfiableError(frozenset(item.name for item in first), first)
    return answer


def find_cycle(problem: Problem, answer: Mapping[str, Candidate]) -> tuple[Candidate, ...]:
    """Packages of the answer that need each other in a circle, the smallest name first; or ()."""
    done: set[str] = set()
    for start in sorted(answer):
        path: dict[str, Iterator[Requirement]] = {}
        if start not in done:
            path[start] = iter(problem.requirements(answer[start]))
        while path:
            name = next(reversed(path))
            following = next(path[name], None)
            if following is None:
                done.add(name)
                del path[name]
            elif following.name in path:
                names = list(path)
                circle = names[names.index(following.name) :]
                turn = circle.index(min(circle))
                return tuple(answer[item] for item in circle[turn:] + circle[:turn])
            elif following.name not in done:
                path[following.name] = iter(problem.requirements(answer[following.name]))
    return ()


def _solve(problem: Problem, roots: Sequence[Requirement], without: frozenset[Candidate]) -> Answer:
    graph = _explore(problem, roots)
    core: frozenset[str] = frozenset()
    fixed: Answer = {}
    while True:
        answer, at_fault = _take(problem, roots, graph, fixed, without)
        if at_fault is None:
            return answer
        # It may be in the core already, when a user outside was taken later; that joins then.
        core = graph.with_users(core | {at_fault}, {at_fault})
        levels = 1
        while True:
            # Users are taken before what they need, so no answer of the core changes them.
            demands = [root for root in roots if root.name in core]
            demands += _demands(problem, answer, core)
            found = _search(problem, demands, graph, core, without)
            if found is not None:
                fixed = found
                break
            if graph.with_users(core, core) == core:
                raise UnsatisfiableError(core)
            # Further each time, so that a long way up costs few searches.
            for _ in range(levels):
                core = graph.with_users(core, core)
            levels *= 2


def _demands(problem: Problem, answer: Answer, core: frozenset[str]) -> list[Requirement]:
    """What was taken outside the core and needs something inside."""
    return [
        Requirement(need.name, need.versions, need.interfaces, only=need.only)
        for name, candidate in answer.items()
        if name not in core
        for need in problem.requirements(candidate)
        if need.name in core
    ]


@dataclass(frozen=True)
class _Graph:
    """All names that may matter. rank: each before what it may need. users: who may need it."""

    rank: dict[str, int]
    users: dict[str, list[str]]

    def with_users(self, core: frozenset[str], names: Collection[str]) -> frozenset[str]:
        """The core, and all that may need one of the names directly."""
        return core.union(*(self.users[name] for name in names))


def _explore(problem: Problem, roots: Sequence[Requirement]) -> _Graph:
    finished: list[str] = []
    users: dict[str, list[str]] = {}
    for root in sorted({root.name for root in roots}, reverse=True):
        if root in users:
            continue
        users[root] = []
        stack = [(root, iter(problem.reachable(root)))]
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                finished.append(name)
                stack.pop()
            elif following in users:
                users[following].append(name)
            else:
                users[following] = [name]
                stack.append((following, iter(problem.reachable(following))))
    return _Graph({name: rank for rank, name in enumerate(reversed(finished))}, users)


def _take(
    problem: Problem,
    roots: Sequence[Requirement],
    graph: _Graph,
    fixed: Mapping[str, Candidate],
    without: frozenset[Candidate],
) -> tuple[Answer, str | None]:
    """Takes the most preferred version that fits, name by name.

    Returns the answer, or what there is of it and the name for which there is no version.
    """
    pending: dict[str, list[Requirement]] = {}
    answer: Answer = {}
    queue: list[tuple[int, str]] = []

    def demand(requirement: Requirement) -> None:
        if requirement.name not in pending:
            pending[requirement.name] = []
            heapq.heappush(queue, (graph.rank[requirement.name], requirement.name))
        pending[requirement.name].append(requirement)

    for root in roots:
        demand(root)
    while queue:
        _, name = heapq.heappop(queue)
        candidate = fixed.get(name)
        if candidate is None:
            candidate = next(fitting(problem, name, pending[name], without), None)
        elif any(candidate.version not in problem.allowed(item) for item in pending[name]):
            # By a user outside the core that had not been taken when the core was answered.
            return answer, name
        if candidate is None:
            return answer, name
        answer[name] = candidate
        for requirement in problem.requirements(candidate):
            taken = answer.get(requirement.name)
            # Already taken: two names may need each other, in different versions.
            if taken is not None and taken.version not in problem.allowed(requirement):
                return answer, requirement.name
            demand(requirement)
    return answer, None


def dead_end(
    problem: Problem, roots: Sequence[Requirement]
) -> tuple[Answer, str, tuple[Requirement, ...]]:
    """Where taking the most preferred versions fails first: for telling why there is no answer.

    What was taken so far, the name without a fitting version ("" if all fit), and who needs it.
    """
    answer, name = _take(problem, roots, _explore(problem, roots), {}, frozenset())
    needs = (need for candidate in answer.values() for need in problem.requirements(candidate))
    return answer, name or "", tuple(need for need in (*roots, *needs) if need.name == name)


def fitting(
    problem: Problem,
    name: str,
    requirements: Iterable[Requirement],
    without: frozenset[Candidate] = frozenset(),
) -> Iterator[Candidate]:
    """The candidates that satisfy the requirements, most preferred first."""
    sets = [problem.allowed(requirement) for requirement in requirements]
    for candidate in problem.candidates(name):
        if (
            all(candidate.version in versions for versions in sets)
            and candidate not in without
            and problem.usable(candidate)
        ):
            yield candidate


class _Provider(AbstractProvider[Requirement, Candidate, str]):
    """The core as resolvelib sees it: requirements on names outside are left for later."""

    def __init__(
        self, problem: Problem, graph: _Graph, core: frozenset[str], without: frozenset[Candidate]
    ) -> None:
        self._problem = problem
        self._graph = graph
        self._core = core
        self._without = without

    def identify(self, requirement_or_candidate: Requirement | Candidate) -> str:
        return requirement_or_candidate.name

    def get_preference(
        self,
        identifier: str,
        resolutions: Any,  # noqa: ARG002
        candidates: Any,  # noqa: ARG002
        information: Any,  # noqa: ARG002
        backtrack_causes: Any,
    ) -> tuple[bool, int]:
        """Who takes part in the last dead end comes first, so that it is not met again and again.

        Then who needs comes before what is needed, so that preferences higher up count first.
        """
        part = any(
            identifier == item.requirement.name
            or (item.parent is not None and identifier == item.parent.name)
            for item in backtrack_causes
        )
        return not part, self._graph.rank[identifier]

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Requirement]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> Any:
        without = self._without | set(incompatibilities[identifier])
        asked = list(requirements[identifier])
        return lambda: fitting(self._problem, identifier, asked, without)

    def is_satisfied_by(self, requirement: Requirement, candidate: Candidate) -> bool:
        return candidate.version in self._problem.allowed(requirement)

    def get_dependencies(self, candidate: Candidate) -> list[Requirement]:
        needs = self._problem.requirements(candidate)
        return [requirement for requirement in needs if requirement.name in self._core]


def _search(
    problem: Problem,
    demands: Sequence[Requirement],
    graph: _Graph,
    core: frozenset[str],
    without: frozenset[Candidate],
) -> Answer | None:
    """The core's answer, or None when there is none, or, while the core can grow, none soon.

    Raises RefusedError when a core that cannot grow is too hard.
    """
    left = remaining(problem, demands, core, without)
    if left is None:
        return None
    kept = {candidate for candidates in left.values() for candidate in candidates}
    ruled_out = frozenset(
        candidate
        for name in core
        for candidate in problem.candidates(name)
        if candidate not in kept
    )
    whole = graph.with_users(core, core) == core
    provider = _Provider(problem, graph, core, ruled_out)
    try:
        found = Resolution(provider, BaseReporter()).resolve(
            demands, ROUNDS if whole else ROUNDS_EARLY * len(core)
        )
        return _needed(demands, found.mapping, provider)
    except (ResolutionImpossible, ResolutionTooDeep):
        return search(problem, demands, graph.rank, core, ruled_out) if whole else None


def _needed(
    demands: Sequence[Requirement], mapping: Mapping[str, Candidate], provider: _Provider
) -> Answer:
    """What of the mapping is needed: it also has what only given up branches asked for."""
    answer: Answer = {}
    todo = [demand.name for demand in demands]
    while todo:
        name = todo.pop()
        if name not in answer:
            answer[name] = mapping[name]
            todo += [need.name for need in provider.get_dependencies(mapping[name])]
    return answer
