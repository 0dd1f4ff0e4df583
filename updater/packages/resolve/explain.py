"""Why there is no answer, in words: who wants what, what there is, and what would help. Pure.

First the wants are cut down to a few that cannot stand together; then the
first dead end among these is told: each chain from a want to the package
nobody can agree on, and every version with what is against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby

from recovery.errors import RefusedError
from updater.packages.resolve.candidates import Candidate, Requirement
from updater.packages.resolve.model import (
    INSTALLED,
    USER,
    ConflictError,
    Question,
    Want,
)
from updater.packages.resolve.resolver import Packages, roots_of
from updater.packages.resolve.solve import Answer, UnsatisfiableError, dead_end, solve
from updater.packages.resolve.suggest import suggestions

SECONDS = 2.0
NAMED = 6
"""Wants that the first line names."""
ATTEMPTS = 60
"""Sets of wants that are tried to find a small one: enough for about 20 wants."""


def explain(question: Question, problem: Packages, error: UnsatisfiableError) -> ConflictError:
    """The error to raise. problem: as it was tried, with all that was read from the offers."""
    few = _fewer(question.wants, lambda some: _fails(problem, some))
    names = [_want(want) for want in few]
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} others"]
    what = _list(names)
    brief = (
        f"cannot find a fitting version of {what}"
        if len(few) == 1
        else f"cannot find versions that fit together for {what}"
    )
    if error.cycle:
        details = "they need each other in a circle: " + " needs ".join(
            item.title for item in (*error.cycle, error.cycle[0])
        )
        return ConflictError(
            brief, details=details, resolution="the publisher has to remove one of these needs"
        )
    roots = roots_of(few)
    answer, name, needs = dead_end(problem, roots)
    details = (
        "\n".join(_story(problem, roots, answer, name, needs))
        if name
        else (
            "every combination of their versions fails somewhere below them: "
            + ", ".join(sorted(error.core))
        )
    )
    helps = suggestions(few, question, problem)
    resolution = (
        "what would help:\n" + "\n".join(f"  {text}" for text in helps)
        if helps
        else ("nothing on offer helps; ask the publisher for a version that fits")
    )
    return ConflictError(brief, details=details, resolution=resolution)


def _fails(problem: Packages, wants: Sequence[Want]) -> bool:
    try:
        solve(problem, roots_of(wants))
    except UnsatisfiableError:
        return True
    except RefusedError:
        return False
    return False


def _fewer(wants: Sequence[Want], fails: Callable[[Sequence[Want]], bool]) -> list[Want]:
    """A small part of the wants that still fails: leaves out halves, quarters, ... single ones.

    What the user asked for is left out last, so that it is told if it has a part in it.
    """
    few = sorted(wants, key=lambda want: (want.by == USER, want.name))
    size = max(1, len(few) // 2)
    left = ATTEMPTS
    end = time.monotonic() + SECONDS
    while True:
        start = 0
        while start < len(few) and left > 0 and len(few) > 1 and time.monotonic() < end:
            left -= 1
            without = [*few[:start], *few[start + size :]]
            if without and fails(without):
                few = without
            else:
                start += size
        if size == 1 or left == 0 or time.monotonic() >= end:
            return sorted(few, key=lambda want: (want.by != USER, want.name))
        size = max(1, size // 2)


def _want(want: Want) -> str:
    text = str(want.constraint)
    return want.name if text == "*" else f"{want.name} {text}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _story(
    problem: Packages,
    roots: Sequence[Requirement],
    answer: Answer,
    name: str,
    needs: Sequence[Requirement],
) -> list[str]:
    lines: list[str] = []
    chains: list[Candidate] = []
    ordered = [_chain(problem, roots, answer, need) for need in needs]
    # What the user asked for first: it is what brought the conflict about.
    ordered.sort(key=lambda chain: (chain[0].who != USER, [_says(item) for item in chain]))
    needs = [chain[-1] for chain in ordered]
    for chain in ordered:
        chains += [item.by for item in chain if item.by is not None]
        lines.append("; ".join(_says(item) for item in chain))
    lines += [f"{name}:", *_versions(problem, name, needs)]
    told = {name}
    for user in chains:
        if user.name in told:
            continue
        told.add(user.name)
        asked = [
            need
            for need in (*roots, *(n for c in answer.values() for n in problem.requirements(c)))
            if need.name == user.name
        ]
        others = _others(problem, user, asked, name, needs)
        if others:
            lines += [f"other versions of {user.name}:", *others]
    return lines


def _chain(
    problem: Packages, roots: Sequence[Requirement], answer: Answer, need: Requirement
) -> list[Requirement]:
    """From a want down to the need: a shortest way."""
    chain = [need]
    seen = {need.name}
    while (user := chain[0].by) is not None:
        above = [root for root in roots if root.name == user.name] or [
            item
            for candidate in answer.values()
            for item in problem.requirements(candidate)
            if item.name == user.name
        ]
        if not above or user.name in seen:
            break
        seen.add(user.name)
        chain.insert(0, above[0])
    return chain


def _says(need: Requirement) -> str:
    """One link of a chain."""
    versions = "" if need.versions in ("", "*") else f" {need.versions}"
    if need.by is not None:
        offering = "".join(f" with {i} {v}".removesuffix(" *") for i, v in need.interfaces)
        return f"{need.by.title} needs {need.name}{versions}{offering}"
    if need.who == USER:
        return f"you asked for {need.name}{versions}"
    if need.who == INSTALLED:
        return f"{need.name}{versions} is installed"
    return f"{need.who} wants {need.name}{versions}"


def _versions(problem: Packages, name: str, needs: Sequence[Requirement]) -> list[str]:
    """Every version of the name with what is against it."""
    shelf = problem.catalogue.shelf(name)
    found = list(shelf.ruled_out)
    for candidate in shelf.candidates:
        found.append((candidate.version, _against(problem, candidate, needs)))
    if not found:
        return ["  nobody offers it"]
    return _grouped(problem, found)


def _against(problem: Packages, candidate: Candidate, needs: Sequence[Requirement]) -> str:
    for need in needs:
        if candidate.version not in problem.allowed(need):
            who = need.by.title if need.by is not None else ""
            if problem.catalogue.accepts(need.versions, candidate.version):
                missing = problem.catalogue.missing(need, candidate)
                return f"does not offer {missing}, which {who} needs"
            if need.by is None:
                return _says(need)
            return f"{who} needs {need.versions}"
    return problem.views.of(candidate).failure or "would do"


def _others(
    problem: Packages,
    user: Candidate,
    asked: Sequence[Requirement],
    name: str,
    needs: Sequence[Requirement],
) -> list[str]:
    """The other versions of one who takes part, and why they do not help."""
    shelf = problem.catalogue.shelf(user.name)
    found = list(shelf.ruled_out)
    rest = [need for need in needs if need.by is not user]
    for candidate in shelf.candidates:
        if candidate is user:
            continue
        reason = _against(problem, candidate, asked)
        if reason == "would do":
            reason = "leads to no answer either"
            for need in problem.requirements(candidate):
                if need.name == name and not any(
                    problem.allowed(need) >= {other.version}
                    and all(other.version in problem.allowed(item) for item in rest)
                    for other in problem.candidates(name)
                ):
                    reason = f"needs {name} {need.versions}".removesuffix(" *")
        found.append((candidate.version, reason))
    return _grouped(problem, found)


def _grouped(problem: Packages, found: Sequence[tuple[str, str]]) -> list[str]:
    """Newest first, neighbours with the same reason on one line."""
    ordered = sorted(found, key=lambda item: problem.catalogue.key(item[0]), reverse=True)
    return [
        f"  {', '.join(version for version, _ in group)}: {reason}"
        for reason, group in groupby(ordered, key=lambda item: item[1])
    ]
