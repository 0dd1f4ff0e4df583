"""Checks documents of any kind, each with all that it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.capabilities import load_capabilities
from manifests.catalogue import (
    REPOSITORY,
    load_board,
    load_package,
    load_product,
    load_system,
    names,
)
from manifests.document import read_document
from manifests.problem import listed
from manifests.schema import MODELS
from recovery.errors import ManifestError


@dataclass(frozen=True)
class Checked:
    """The outcome for one document: no error means that it can be used."""

    path: Path
    kind: str
    error: ManifestError | None = None


def check_document(path: Path, search: Sequence[Path] = (REPOSITORY,)) -> Checked:
    """Checks one document; its kind is told by its keys.

    A system is also checked with its packages and with every board it can be
    built for.
    """
    kind = "document"
    try:
        kind = kind_of(path)
        if kind == "board":
            load_board(path)
        elif kind == "package":
            load_package(path)
        elif kind == "capabilities":
            load_capabilities(path)
        else:
            for board in load_system(path).boards or names("board", search):
                load_product(str(path.resolve()), board, search)
    except ManifestError as error:
        return Checked(path, kind, error)
    return Checked(path, kind)


def kind_of(path: Path) -> str:
    """Which of MODELS it is. Raises ManifestError when the document is none of them."""
    value = read_document(path).value
    found = [kind for kind in MODELS if isinstance(value, dict) and kind in value]
    if len(found) != 1:
        raise ManifestError(
            f"cannot use {path}:1: expected exactly one of the keys {listed(list(MODELS))}",
            resolution="the first key says what kind of document it is",
        )
    return found[0]
