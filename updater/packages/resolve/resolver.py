"""`resolve`: wants and offers in, a consistent set out, or an error that explains. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from updater.packages.resolve.candidates import Candidate, Catalogue, Requirement
from updater.packages.resolve.model import (
    USER,
    Environment,
    Installed,
    Offers,
    Question,
    Resolution,
    Resolved,
    Want,
)
from updater.packages.resolve.solve import Answer, UnsatisfiableError, solve
from updater.packages.resolve.view import Views

IMPROVEMENTS = 4
"""How often a better version of something the user asked for is looked for."""


class Packages:
    """The large problem: features, suites, system packages, and libraries that are wanted
    by themselves. One version of each name; see `solve.Problem`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.views = Views(catalogue)

    def candidates(self, name: str) -> Sequence[Candidate]:
        """Most preferred first."""
        return self.catalogue.shelf(name).candidates

    def usable(self, candidate: Candidate) -> bool:
        """Whether its libraries can be had together."""
        return not self.views.of(candidate).failure

    def requirements(self, candidate: Candidate) -> Sequence[Requirement]:
        """What it needs, and what its libraries need that is no library."""
        if not candidate.libraries:
            return candidate.needs
        return (*candidate.needs, *self.views.of(candidate).outside)

    def declared(self, candidate: Candidate) -> Sequence[Requirement]:
        """What its own manifest says of features and system packages."""
        return candidate.needs

    def allowed(self, requirement: Requirement) -> frozenset[str]:
        """The versions that satisfy it."""
        return self.catalogue.allowed(requirement)

    def reachable(self, name: str) -> Iterable[str]:
        """Names that some version may need."""
        names: set[str] = set()
        for candidate in self.candidates(name):
            names.update(need.name for need in candidate.needs)
            for library in candidate.libraries:
                names |= self.views.outside(library.name)
        return sorted(names)


def resolve(
    wants: Sequence[Want],
    offers: Offers,
    environment: Environment,
    installed: Sequence[Installed],
    *,
    upgrade: Collection[str] | None,
) -> Resolution:
    """The packages that satisfy all wants.

    installed: everything that is there, each version of a library by itself.
    It is only kept if something wants it, so what somebody requested is among
    the wants, by INSTALLED. upgrade: names that move to their newest version
    (a library: in the views of all); None: everything does; the rest stays as
    it is unless a requirement forces it. The same arguments give the same
    answer, in whatever order offers and installed come.

    Raises ConflictError, which explains, when there is no answer, and
    RefusedError when it cannot be decided.
    """
    question = Question(wants, offers, environment, installed, upgrade)
    problem = Packages(Catalogue(question))
    roots = roots_of(wants)
    try:
        answer = solve(problem, roots)
    except UnsatisfiableError as error:
        from updater.packages.resolve.explain import explain

        raise explain(question, problem, error) from error
    answer = _improve(problem, roots, answer)
    return _resolution(problem, roots, answer)


def roots_of(wants: Sequence[Want]) -> list[Requirement]:
    """The wants as requirements, the user's first."""
    ordered = sorted(wants, key=lambda want: (want.by != USER, want.name, str(want.constraint)))
    return [Requirement(want.name, str(want.constraint), who=want.by) for want in ordered]


def _improve(problem: Packages, roots: Sequence[Requirement], answer: Answer) -> Answer:
    """Better versions of what the user asked for, where these cost no other wanted package.

    A package in between may have taken its newest version and with it ruled
    out a newer version of one that the user asked for.
    """
    names = sorted({root.name for root in roots})
    asked = sorted({root.name for root in roots if root.who == USER})
    left = IMPROVEMENTS
    better = True
    while better:
        better = False
        for name in asked:
            shelf = problem.candidates(name)
            place = shelf.index(answer[name])
            if place == 0 or left == 0:
                continue
            bounds = {other: _not_worse(problem, other, answer, other == name) for other in names}
            if not _conceivable(problem, name, bounds):
                continue
            left -= 1
            only = [
                Requirement(other, "*", only=frozenset(item.version for item in some))
                for other, some in bounds.items()
            ]
            try:
                answer = solve(problem, [*roots, *only])
                better = True
            except UnsatisfiableError:
                continue
    return answer


def _conceivable(problem: Packages, name: str, bounds: Mapping[str, Sequence[Candidate]]) -> bool:
    """Whether some version of the name goes with each other wanted package by itself.

    Cheap, and rules out nearly all searches that would fail.
    """

    def together(user: Candidate, other: str, candidate: Candidate) -> bool:
        return all(
            candidate.version in problem.allowed(need) for need in user.needs if need.name == other
        )

    return any(
        all(
            any(
                together(theirs, name, candidate) and together(candidate, other, theirs)
                for theirs in some
            )
            for other, some in bounds.items()
            if other != name
        )
        for candidate in bounds[name]
    )


def _not_worse(problem: Packages, name: str, answer: Answer, strictly: bool) -> Sequence[Candidate]:
    shelf = problem.candidates(name)
    place = shelf.index(answer[name])
    return shelf[:place] if strictly else shelf[: place + 1]


def _resolution(problem: Packages, roots: Sequence[Requirement], answer: Answer) -> Resolution:
    wanted: dict[Candidate, set[str]] = {}
    for root in roots:
        wanted.setdefault(answer[root.name], set()).add(root.who)
    libraries: dict[Candidate, set[str]] = {}
    for candidate in answer.values():
        for need in problem.requirements(candidate):
            wanted.setdefault(answer[need.name], set()).add(candidate.name)
        for library in problem.views.of(candidate).libraries:
            libraries.setdefault(library, set()).add(candidate.name)
    for library, owners in libraries.items():
        wanted.setdefault(library, set()).update(owners)
    everything = {(item.name, item.version): item for item in (*answer.values(), *libraries)}
    packages = []
    for item in sorted(everything.values(), key=lambda item: (item.name, item.key)):
        if item.release is None:
            continue
        # A library that is only in views of others has no view, so nothing below it.
        own = answer.get(item.name) is item
        uses = problem.views.of(item).libraries if own else ()
        needs = problem.requirements(item) if own else ()
        packages.append(
            Resolved(
                name=item.name,
                release=item.release,
                uses=tuple((library.name, library.version) for library in uses),
                needs=tuple(
                    sorted({need.name for need in needs if answer[need.name].release is not None})
                ),
                wanted_by=tuple(sorted(wanted[item])),
            )
        )
    inside = sorted((item.name, item.version) for item in answer.values() if item.release is None)
    return Resolution(tuple(packages), tuple(inside))
