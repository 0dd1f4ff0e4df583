"""Strict decoding of the records that `recovery` writes: nothing half-valid passes."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from recovery.value import Value

    T = TypeVar("T")
    V = TypeVar("V", bound=Value)


def plain(value: object) -> Any:
    """The value as what JSON can hold: values become objects, tuples lists."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if hasattr(value, "_fields"):
        return {name: plain(getattr(value, name)) for name in value._fields}
    return value


def encode(value: Value, **extra: object) -> bytes:
    """A JSON document with sorted keys; the same value gives the same bytes."""
    document = {**extra, **plain(value)}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in data. Raises ValueError."""
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def build(kind: type[V], document: object, /, **readers: Callable[[Any], object]) -> V:
    """The object decoded as kind, each field by its reader. Raises ValueError.

    Unknown and missing keys are refused, except keys whose field has a default.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{kind.__name__} is not an object")
    unknown = set(document) - set(readers)
    if unknown:
        raise ValueError(f"{kind.__name__} has unknown key {min(unknown)!r}")
    values: dict[str, Any] = {}
    for name, reader in readers.items():
        if name in document:
            values[name] = reader(document[name])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def text(value: object) -> str:
    """A string that UTF-8 can hold. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    if not value.isascii():
        # JSON can escape halves of a surrogate pair, which no path, log or console can hold.
        value.encode()
    return value


def number(value: object) -> int:
    """A whole number, 0 or more. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def truth(value: object) -> bool:
    """True or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def one_of(*choices: str) -> Callable[[object], str]:
    """A reader of one of the choices."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return value

    return read


def optional(reader: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """A reader that also takes null."""
    return lambda value: None if value is None else reader(value)


def several(reader: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A reader of a list."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        return tuple(reader(item) for item in value)

    return read
