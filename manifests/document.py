"""A YAML document to a typed model, or one error that names file, line, key and fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, Union

import msgspec
from msgspec import inspect

from manifests.problem import Problem, key_text
from manifests.shape import shape_problems
from manifests.sizes import Size
from manifests.yamltree import Tree, YamlError, parse_yaml
from recovery.errors import ManifestError

MAX_BYTES = 256 * 1024
_MAX_SHOWN = 20

T = TypeVar("T", bound=msgspec.Struct)
Check = Callable[[T], Iterable[Problem]]


@dataclass(frozen=True)
class OneOf(Generic[T]):
    """Documents of several kinds that a tag tells apart. T: the union of the structs."""

    structs: tuple[type[msgspec.Struct], ...]


Model = type[T] | OneOf[T]


def load_document(path: Path, model: Model[T], check: Check[T] | None = None) -> T:
    """Reads a document from a file. Raises ManifestError when it cannot be used.

    check finds what is wrong beyond types; it is asked only when all types
    are right.
    """
    return _convert(read_document(path), str(path), model, check)


def parse_document(data: bytes, name: str, model: Model[T], check: Check[T] | None = None) -> T:
    """The same from bytes; name stands for the file in errors."""
    return _convert(_tree(data, name), name, model, check)


def read_document(path: Path) -> Tree:
    """Reads a file as plain values with their lines. Raises ManifestError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(
            f"cannot read {path}: {error.strerror}", resolution="check the path"
        ) from error
    return _tree(data, str(path))


def _tree(data: bytes, name: str) -> Tree:
    if len(data) > MAX_BYTES:
        raise ManifestError(
            f"cannot use {name}: it is larger than {MAX_BYTES // 1024} KiB",
            resolution="check that this is the right file",
        )
    try:
        return parse_yaml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem((), "UTF-8 text", "other bytes", "save the file as UTF-8")
        raise _error(name, [(line, problem)]) from error
    except YamlError as error:
        raise _error(name, [(error.line, error.problem)]) from error


def as_type(model: Model[T]) -> Any:
    """The model as one type: the struct, or the union of several."""
    return Union[model.structs] if isinstance(model, OneOf) else model  # noqa: UP007


def _convert(tree: Tree, name: str, model: Model[T], check: Check[T] | None) -> T:
    kind = as_type(model)
    refuse(name, tree, shape_problems(tree.value, inspect.type_info(kind)))
    try:
        document: T = msgspec.convert(tree.value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ManifestError(f"cannot use {name}: {error}") from error
    if check is not None:
        refuse(name, tree, check(document))
    return document


def refuse(name: str, tree: Tree, problems: Iterable[Problem]) -> None:
    """Raises ManifestError when there are problems; the first in the file leads."""
    placed = [(tree.line(problem.path), problem) for problem in problems]
    if placed:
        raise _error(name, sorted(placed, key=lambda item: item[0]))


def _error(name: str, problems: list[tuple[int, Problem]]) -> ManifestError:
    def sentence(line: int, problem: Problem) -> str:
        key = f"{key_text(problem.path)}: " if problem.path else ""
        return f"{name}:{line}: {key}{problem.text}"

    details = [
        sentence(line, problem) + (f" ({problem.fix})" if problem.fix else "")
        for line, problem in problems[1:_MAX_SHOWN]
    ]
    if len(problems) > _MAX_SHOWN:
        details.append(f"and {len(problems) - _MAX_SHOWN} more")
    return ManifestError(
        f"cannot use {sentence(*problems[0])}",
        details="\n".join(details),
        resolution=problems[0][1].fix,
    )


def _decode(kind: type, value: object) -> object:
    if kind is Size:
        return Size.parse(str(value))
    raise NotImplementedError(kind)
