"""What is wrong with a package that is being built: collected, and refused all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recovery.errors import RefusedError


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong.

    where: a path in the package or a part of its manifest. problem: what is
    wrong, after "where: ". advice: what to do, for people; may be empty.
    """

    where: str
    problem: str
    advice: str = ""

    def __str__(self) -> str:
        """One line, or two with advice."""
        line = f"{self.where}: {self.problem}"
        return f"{line}\n    {self.advice}" if self.advice else line


def refuse(package: str, findings: Iterable[Finding]) -> None:
    """Raises RefusedError that lists every finding, sorted, each once; nothing when none."""
    found = sorted(set(findings))
    if not found:
        return
    count = "1 finding" if len(found) == 1 else f"{len(found)} findings"
    raise RefusedError(
        f"cannot build package {package}: {count}",
        details="\n".join(map(str, found)),
        resolution="declare what is needed in package.yaml, or change the content",
    )
