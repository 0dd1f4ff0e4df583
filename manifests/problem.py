"""What is wrong with a document, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    path: keys and list positions that lead to the value, e.g.
        ("layout", "partitions", 0, "size").
    expected, got: complete the sentence "expected ..., got ...".
    fix: what to change.
    """

    path: Path
    expected: str
    got: str
    fix: str = ""

    @property
    def text(self) -> str:
        """The problem without its place."""
        return f"expected {self.expected}, got {self.got}"


def key_text(path: Path) -> str:
    """A path as people write it: layout.partitions[0].size."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the document"


def repeated(
    words: Sequence[str], place: Path, noun: str = "name", key: str | None = None
) -> Iterator[Problem]:
    """A problem for each word that came before. place: of the list; key: in its items."""
    for number, word in enumerate(words):
        if word in words[:number]:
            where = (*place, number) if key is None else (*place, number, key)
            yield Problem(where, f"each {noun} once", f'"{word}" again', "remove or rename one")


def unknown(word: str, known: Sequence[str], place: Path, expected: str) -> Iterator[Problem]:
    """A problem when word is none of the known ones, with the closest of them."""
    if word not in known:
        names = ", ".join(dict.fromkeys(known)) or "none"
        yield Problem(place, expected, f'"{word}"', f"{suggestion(word, known)}known: {names}")


def listed(values: Sequence[str]) -> str:
    """Words in one phrase: "a, b or c"."""
    if len(values) < 2:
        return "".join(values)
    return f"{', '.join(values[:-1])} or {values[-1]}"


def closest(word: str, known: Sequence[str]) -> str:
    """The known word that word is a likely misspelling of, or ""."""
    import difflib

    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), "")


def suggestion(word: str, known: Sequence[str]) -> str:
    """A sentence that offers the closest of the known words, or ""."""
    close = closest(word, known)
    return f'did you mean "{close}"? ' if close else ""
