"""What would resolve a conflict: relaxations that were tried and found to work. Pure.

Each is resolved again with all wants, so none is a guess. Their number is
bounded, and so is the time: the user waits for this text.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from manifests.constraints import parse_constraint
from recovery.errors import RefusedError
from updater.packages.resolve.candidates import Catalogue
from updater.packages.resolve.model import ANY, INSTALLED, USER, Question, Want
from updater.packages.resolve.resolver import Packages, roots_of
from updater.packages.resolve.solve import Answer, UnsatisfiableError, solve

SECONDS = 2.0
ATTEMPTS = 24
SYSTEM_VERSIONS = 4
"""Newer versions of the system that are looked at, lowest first."""


def suggestions(few: Sequence[Want], question: Question, problem: Packages) -> list[str]:
    """Sentences, the smallest change first. few: the wants that are in conflict."""
    end = time.monotonic() + SECONDS
    found = []
    present = question.environment.version
    system_found = False
    for tried, relaxed in enumerate(_relaxations(few, question, problem)):
        if tried == ATTEMPTS or time.monotonic() > end:
            break
        newer_system = relaxed.question.environment.version != present
        if system_found and newer_system:
            continue
        answer = _attempt(relaxed.question)
        if answer is not None:
            system_found = system_found or newer_system
            version = answer[relaxed.name].version if relaxed.name else ""
            found.append(relaxed.text.format(version=version))
    return found


def _attempt(question: Question) -> Answer | None:
    try:
        return solve(Packages(Catalogue(question)), roots_of(question.wants))
    except (UnsatisfiableError, RefusedError):
        return None


@dataclass(frozen=True)
class _Relaxed:
    """text: what to do; {version} stands for the version that name then gets."""

    text: str
    question: Question
    name: str = ""


def _relaxations(few: Sequence[Want], question: Question, problem: Packages) -> Iterator[_Relaxed]:
    environment = question.environment
    for want in few:
        rest = [other for other in question.wants if other is not want]
        if want.constraint.parts:
            text = (
                f"ask for {want.name} {{version}} instead of {want.name} {want.constraint}"
                if want.by == USER
                else f"update {want.name} as well, to {{version}}"
            )
            free = replace(question, wants=[replace(want, constraint=ANY), *rest])
            yield _Relaxed(text, free, want.name)
    names = _names(few, problem)
    for name in sorted({name for name, _ in environment.quarantined} & names):
        retried = replace(environment, retry=environment.retry | {name})
        yield _Relaxed(
            f"try the version of {name} again that failed on this device before",
            replace(question, environment=retried),
        )
    for version in _system_versions(names, problem):
        newer = replace(environment, version=version)
        yield _Relaxed(
            f"update the system to {version} or later", replace(question, environment=newer)
        )
    if len(few) > 1:
        for want in sorted(few, key=lambda want: (want.by == USER, want.name)):
            rest = [other for other in question.wants if other is not want]
            text = f"remove {want.name}" if want.by == INSTALLED else f"go without {want.name}"
            yield _Relaxed(text, replace(question, wants=rest))


def _names(few: Sequence[Want], problem: Packages) -> set[str]:
    """All names that the conflicting wants may lead to, libraries too."""
    found: set[str] = set()
    todo = [want.name for want in few]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for made in problem.catalogue.releases(name):
                todo += [item.package for item in made.depends] + list(made.members)
    return found


def _system_versions(names: Collection[str], problem: Packages) -> list[str]:
    """Newer versions of the system that some release asks for, lowest first."""
    catalogue = problem.catalogue
    environment = catalogue.environment
    bounds = {
        bound
        for name in sorted(names)
        for made in catalogue.releases(name)
        for fit in made.systems
        if fit.system == environment.system
        for sign, bound in parse_constraint(fit.versions).parts
        if sign in (">=", "=")
    }
    newer = [item for item in bounds if catalogue.key(item) > catalogue.key(environment.version)]
    return sorted(newer, key=catalogue.key)[:SYSTEM_VERSIONS]
