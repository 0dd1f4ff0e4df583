"""External signing commands: one shell-quoted line in a file, never run by a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from recovery.errors import ManifestError


def read_command(path: Path) -> tuple[str, ...]:
    """The words of the command in the file. Raises ManifestError when it names no output."""
    words = tuple(shlex.split(path.read_text()))
    if not any("{signed}" in word for word in words):
        raise ManifestError(
            f"cannot use {path}: no word contains {{signed}}",
            resolution="write the signing command with {unsigned} and {signed} as paths",
        )
    return words


def filled(words: Sequence[str], places: Mapping[str, Path]) -> list[str]:
    """The words with each "{NAME}" replaced by the path of that name."""
    found = []
    for word in words:
        text = word
        for name, path in places.items():
            text = text.replace(f"{{{name}}}", str(path))
        found.append(text)
    return found
