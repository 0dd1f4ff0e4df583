"""The resolver against one that tries every combination, on small random universes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.constraints import parse_constraint
from manifests.package_index import PackageRelease
from tests.updater.packages.universe import GATEWAY, Kind, Table, present, release, want
from updater.packages.resolve.model import INSTALLED, USER, ConflictError, Installed, Want
from updater.packages.resolve.resolver import resolve

FEATURES = ("a", "b", "c", "d", "e")
LIBRARIES = ("l", "m", "n")
CONSTRAINTS = ("*", "=1", "=2", "=3", "<2", "<3", ">=2", ">=3", "!=2")


@dataclass(frozen=True)
class Universe:
    """What a case consists of."""

    packages: dict[str, tuple[PackageRelease, ...]]
    wants: tuple[Want, ...]
    installed: tuple[Installed, ...]


@st.composite
def universes(draw: st.DrawFn, names: tuple[str, ...] = FEATURES) -> Universe:
    """A few packages with a few versions that mostly depend on later names, so cycles are rare."""
    packages: dict[str, tuple[PackageRelease, ...]] = {}
    for kind, own in (("feature", names), ("library", LIBRARIES)):
        made_of: Kind = "feature" if kind == "feature" else "library"
        for place, name in enumerate(own):
            others = [*own[place + 1 :], *(LIBRARIES if kind == "feature" else ())]
            if draw(st.integers(0, 19)) == 0:
                others = [*own, *others]
            made = []
            for version in range(1, draw(st.integers(1, 3)) + 1):
                depends = (
                    draw(
                        st.dictionaries(
                            st.sampled_from(sorted(set(others))),
                            st.sampled_from(CONSTRAINTS),
                            max_size=3,
                        )
                    )
                    if others
                    else {}
                )
                made.append(
                    release(
                        name,
                        str(version),
                        *(f"{other} {text}" for other, text in depends.items()),
                        kind=made_of,
                        systems=draw(st.sampled_from([(), (), (), ("gateway >=3",)])),
                    )
                )
            packages[name] = tuple(made)
    wants = tuple(
        want(
            f"{name} {draw(st.sampled_from(CONSTRAINTS))}", draw(st.sampled_from([USER, INSTALLED]))
        )
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    )
    kept = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    installed = tuple(present(name, draw(st.sampled_from(packages[name]))) for name in sorted(kept))
    return Universe(packages, wants, installed)


def fits(made: PackageRelease) -> bool:
    """Whether the release is for this image."""
    return not made.systems


def accepted(constraint: str, version: str) -> bool:
    """As in a manifest."""
    return parse_constraint(constraint).allows(version)


def views(universe: Universe, owner: PackageRelease) -> Iterator[dict[str, PackageRelease]]:
    """Every valid view of a package, by trying all."""
    needed = [item for item in owner.depends if item.package in LIBRARIES]
    choices = [
        [None, *(made for made in universe.packages[name] if fits(made))] for name in LIBRARIES
    ]
    for combination in itertools.product(*choices):
        chosen = {n: m for n, m in zip(LIBRARIES, combination, strict=True) if m is not None}
        if valid(chosen, [(item.package, item.versions) for item in needed], set(LIBRARIES)):
            yield chosen


def valid(chosen: dict[str, PackageRelease], roots: list[tuple[str, str]], names: set[str]) -> bool:
    """Everything needed is there in an accepted version, nothing else is, and no circle."""
    demands = [
        *roots,
        *(
            (d.package, d.versions)
            for m in chosen.values()
            for d in m.depends
            if d.package in names
        ),
    ]
    if not all(n in chosen and accepted(text, chosen[n].version) for n, text in demands):
        return False
    reached: set[str] = set()
    todo = [name for name, _ in roots]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [d.package for d in chosen[name].depends if d.package in names]
    if reached != set(chosen):
        return False
    left = dict(chosen)
    while left:
        free = [n for n, m in left.items() if not any(d.package in left for d in m.depends)]
        if not free:
            return False
        for name in free:
            del left[name]
    return True


def answers(universe: Universe) -> Iterator[dict[str, PackageRelease]]:
    """Every valid set of features, by trying all."""
    names = sorted(set(universe.packages) - set(LIBRARIES))
    usable = {
        name: [
            made
            for made in universe.packages[name]
            if fits(made) and next(views(universe, made), None) is not None
        ]
        for name in names
    }
    roots = [(item.name, str(item.constraint)) for item in universe.wants]
    for combination in itertools.product(*([None, *usable[name]] for name in names)):
        chosen = {n: m for n, m in zip(names, combination, strict=True) if m is not None}
        if valid(chosen, roots, set(names)):
            yield chosen


def preference(universe: Universe, name: str, version: str) -> int:
    """Lower is better: what is installed, then the newest."""
    if any((i.name, i.release.version) == (name, version) for i in universe.installed):
        return 0
    return 1 + max(int(made.version) for made in universe.packages[name]) - int(version)


@settings(max_examples=400, deadline=None)
@given(universes())
def test_it_finds_an_answer_exactly_when_there_is_one(universe: Universe) -> None:
    offers = Table(**universe.packages)
    possible = list(answers(universe))
    try:
        found = resolve(universe.wants, offers, GATEWAY, universe.installed, upgrade=())
    except ConflictError:
        assert possible == []
        return
    features = {
        item.name: item.release for item in found.packages if item.release.kind == "feature"
    }
    assert features in possible
    for item in found.packages:
        if item.release.kind == "feature":
            view = {
                name: next(m for m in universe.packages[name] if m.version == version)
                for name, version in item.uses
            }
            assert view in list(views(universe, item.release))
    names = [item.name for item in universe.wants]
    ours = [preference(universe, name, features[name].version) for name in names]
    asked = [item.name for item in universe.wants if item.by == USER]
    for other in possible:
        theirs = [preference(universe, name, other[name].version) for name in names]
        better = any(
            preference(universe, name, other[name].version)
            < preference(universe, name, features[name].version)
            for name in asked
        )
        assert not (better and all(t <= o for t, o in zip(theirs, ours, strict=True)))


@settings(max_examples=100, deadline=None)
@given(universes())
def test_the_answer_does_not_depend_on_the_order_of_anything(universe: Universe) -> None:
    def outcome(offers: Table, wants: tuple[Want, ...], installed: tuple[Installed, ...]) -> str:
        try:
            return repr(resolve(wants, offers, GATEWAY, installed, upgrade=()))
        except ConflictError as error:
            return str(error)

    shuffled = Table(**{name: made[::-1] for name, made in universe.packages.items()})
    assert outcome(Table(**universe.packages), universe.wants, universe.installed) == outcome(
        shuffled, universe.wants[::-1], universe.installed[::-1]
    )
