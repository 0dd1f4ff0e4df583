"""Which libraries one package sees. Pure.

Every package has a view of its own, so what its libraries are depends on it
alone: a small problem for each package, beside the large one of which packages
there are. Inside a view there is one version of each library, the newest that
all manifests in it accept; a package that stays as it is keeps its libraries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from updater.packages.resolve.candidates import Candidate, Catalogue, Requirement
from updater.packages.resolve.solve import UnsatisfiableError, solve


@dataclass(frozen=True)
class View:
    """libraries: nearest first. outside: what they need that is no library, on the owner's behalf.

    failure: why there is no view; then the rest is empty.
    """

    libraries: tuple[Candidate, ...] = ()
    outside: tuple[Requirement, ...] = ()
    failure: str = ""


class _Libraries:
    """The problem of one view; see `solve.Problem`."""

    def __init__(self, shelves: _Shelves, kept: dict[str, str]) -> None:
        self._shelves = shelves
        self._kept = kept

    def candidates(self, name: str) -> Sequence[Candidate]:
        """The version in the present view first, then the newest."""
        newest_first = self._shelves.newest_first(name)
        kept = self._kept.get(name)
        if kept is None:
            return newest_first
        return sorted(newest_first, key=lambda item: item.version != kept)

    def usable(self, candidate: Candidate) -> bool:  # noqa: ARG002
        """Libraries have no view of their own."""
        return True

    def requirements(self, candidate: Candidate) -> Sequence[Requirement]:
        """Other libraries."""
        return candidate.libraries

    def declared(self, candidate: Candidate) -> Sequence[Requirement]:
        """All."""
        return candidate.libraries

    def allowed(self, requirement: Requirement) -> frozenset[str]:
        """As in the catalogue."""
        return self._shelves.catalogue.allowed(requirement)

    def reachable(self, name: str) -> Iterable[str]:
        """Names of libraries that some version needs."""
        return self._shelves.reachable(name)


class _Shelves:
    """What all views ask of the catalogue, computed once for each library."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._newest_first: dict[str, tuple[Candidate, ...]] = {}
        self._reachable: dict[str, tuple[str, ...]] = {}

    def newest_first(self, name: str) -> tuple[Candidate, ...]:
        """What is installed for others does not matter here: each view has its own."""
        found = self._newest_first.get(name)
        if found is None:
            shelf = self.catalogue.shelf(name).candidates
            found = tuple(sorted(shelf, key=lambda item: item.key, reverse=True))
            self._newest_first[name] = found
        return found

    def reachable(self, name: str) -> tuple[str, ...]:
        """Names of libraries that some version needs, sorted."""
        found = self._reachable.get(name)
        if found is None:
            shelf = self.catalogue.shelf(name).candidates
            names = {need.name for item in shelf for need in item.libraries}
            found = self._reachable[name] = tuple(sorted(names))
        return found


class Views:
    """Views by owner, each solved once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._shelves = _Shelves(catalogue)
        self._found: dict[Candidate, View] = {}
        self._outside: dict[str, frozenset[str]] = {}

    def of(self, owner: Candidate) -> View:
        """The owner's view, or why there is none."""
        if not owner.libraries:
            return _NONE
        found = self._found.get(owner)
        if found is None:
            found = self._found[owner] = self._make(owner)
        return found

    def _make(self, owner: Candidate) -> View:
        try:
            answer = solve(_Libraries(self._shelves, self._kept(owner)), owner.libraries)
        except UnsatisfiableError as error:
            names = ", ".join(sorted(error.core))
            if error.cycle:
                circle = " needs ".join(item.title for item in (*error.cycle, error.cycle[0]))
                return View(failure=f"its libraries need each other in a circle: {circle}")
            return View(failure=f"no versions of its libraries fit together: {names}")
        ordered = _nearest_first(owner, answer)
        outside = tuple(
            Requirement(need.name, need.versions, need.interfaces, owner)
            for library in ordered
            for need in library.needs
        )
        return View(ordered, outside)

    def _kept(self, owner: Candidate) -> dict[str, str]:
        """The libraries that stay: none when the owner changes or somebody named it."""
        upgrade = self._catalogue.upgrade
        if owner.installed is None or upgrade is None or owner.name in upgrade:
            return {}
        return {name: version for name, version in owner.installed.uses if name not in upgrade}

    def outside(self, name: str) -> frozenset[str]:
        """Names other than libraries that a view with this library may need."""
        found = self._outside.get(name)
        if found is None:
            # Before the descent, so that libraries that need each other end it.
            self._outside[name] = frozenset()
            shelf = self._catalogue.shelf(name).candidates
            names = {need.name for item in shelf for need in item.needs}
            for library in self._shelves.reachable(name):
                names |= self.outside(library)
            found = self._outside[name] = frozenset(names)
        return found


_NONE = View()


def _nearest_first(owner: Candidate, answer: dict[str, Candidate]) -> tuple[Candidate, ...]:
    """Breadth first in the order of the manifests: whose file wins must not be a matter of luck."""
    found: dict[str, Candidate] = {}
    todo = deque(owner.libraries)
    while todo:
        need = todo.popleft()
        if need.name not in found:
            found[need.name] = answer[need.name]
            todo.extend(answer[need.name].libraries)
    return tuple(found.values())
