"""Configuration slices: what values a package's configuration may have, and which it has.

A slice is described by a small part of JSON Schema (draft 2020-12,
json-schema.org), small enough to be checked by this file on a device:

    type         object, array, string, integer, number or boolean; always there
    properties, required                       of an object
    items, minItems, maxItems                  of an array
    pattern, minLength, maxLength              of a string
    minimum, maximum                           of an integer or number
    enum                                       of a string, integer or number
    description                                of anything, for people

The outermost type is object. Stricter than JSON Schema where a program that
reads the values would be surprised: keys that properties does not name are
refused (as "additionalProperties": false says, which may be written), 1.0 is
no integer, NaN and infinity are no numbers.
"""

from __future__ import annotations

import json

from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping
    from typing import Any

    Path = tuple[str | int, ...]
else:
    Path = tuple

MAX_DEPTH = 8
"""Types within types."""

_COMMON = ("type", "description")
_LIMITS = {
    "array": ("minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
}
_KEYWORDS = {
    "object": (*_COMMON, "properties", "required", "additionalProperties"),
    "array": (*_COMMON, "items", *_LIMITS["array"]),
    "string": (*_COMMON, "enum", "pattern", *_LIMITS["string"]),
    "integer": (*_COMMON, "enum", *_LIMITS["integer"]),
    "number": (*_COMMON, "enum", *_LIMITS["number"]),
    "boolean": _COMMON,
}
_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


class Issue(Value):
    """One thing that is wrong: keys and list positions that lead to it, and what it should be."""

    path: Path
    expected: str
    got: str

    def __str__(self) -> str:
        """As people read it: "peers[0].port: expected at most 65535, got 70000"."""
        place = ""
        for part in self.path:
            place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
        return f"{place or 'the slice'}: expected {self.expected}, got {self.got}"


def problems(schema: object, values: object) -> tuple[str, ...]:
    """Why the values do not fit the schema, in words; empty when they do.

    Raises ValueError when the schema itself cannot be used (see `check_schema`).
    """
    return tuple(map(str, value_issues(schema, values)))


def check_schema(schema: object) -> tuple[str, ...]:
    """Why the schema cannot be used, in words; empty when it can."""
    return tuple(map(str, schema_issues(schema)))


def merge(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that count: those that somebody set, over the defaults.

    A mapping in both is merged in the same way; a list that is set replaces the default.
    """
    merged = dict(defaults)
    for key, value in values.items():
        default = merged.get(key)
        if isinstance(default, dict) and isinstance(value, dict):
            merged[key] = merge(default, value)
        else:
            merged[key] = value
    return merged


def value_issues(schema: object, values: object) -> tuple[Issue, ...]:
    """`problems` with their places. Raises ValueError when the schema cannot be used."""
    wrong = schema_issues(schema)
    if wrong:
        raise ValueError(f"not a usable schema: {wrong[0]}")
    return tuple(_value(schema, values, ()))


def schema_issues(schema: object) -> tuple[Issue, ...]:
    """`check_schema` with the places."""
    found = tuple(_schema(schema, (), 1))
    if isinstance(schema, dict) and schema.get("type") != "object" and not found:
        return (Issue(("type",), "object", _shown(schema["type"])),)
    return found


def _schema(schema: object, path: Path, depth: int) -> Iterator[Issue]:
    if not isinstance(schema, dict):
        yield Issue(path, "a mapping with the key type", _shown(schema))
        return
    if depth > MAX_DEPTH:
        yield Issue(path, f"at most {MAX_DEPTH} types within each other", "more")
        return
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _KEYWORDS:
        yield Issue((*path, "type"), " or ".join(_KEYWORDS), _shown(kind))
        return
    for keyword in schema:
        if keyword not in _KEYWORDS[kind]:
            allowed = ", ".join(_KEYWORDS[kind])
            yield Issue((*path, keyword), f"a keyword of type {kind} ({allowed})", "another one")
    yield from _limits(schema, kind, path)
    if not isinstance(schema.get("description", ""), str):
        yield Issue((*path, "description"), "text", _shown(schema["description"]))
    match kind:
        case "object":
            yield from _object_schema(schema, path, depth)
        case "array":
            yield from _schema(schema.get("items"), (*path, "items"), depth + 1)
        case "string" | "integer" | "number":
            yield from _choices(schema, kind, path)
    if "pattern" in schema and kind == "string":
        yield from _pattern_schema(schema["pattern"], (*path, "pattern"))


def _object_schema(schema: dict[str, Any], path: Path, depth: int) -> Iterator[Issue]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        yield Issue((*path, "properties"), "a mapping of names to schemas", _shown(properties))
        properties = {}
    for name, inner in properties.items():
        yield from _schema(inner, (*path, "properties", name), depth + 1)
    required = schema.get("required", [])
    if not isinstance(required, list):
        yield Issue((*path, "required"), "a list of names", _shown(required))
        required = []
    for number, name in enumerate(required):
        if not isinstance(name, str) or name not in properties:
            yield Issue((*path, "required", number), "one of the properties", _shown(name))
    if schema.get("additionalProperties", False) is not False:
        got = _shown(schema["additionalProperties"])
        yield Issue((*path, "additionalProperties"), "false", got)


def _limits(schema: dict[str, Any], kind: str, path: Path) -> Iterator[Issue]:
    """minimum and maximum are numbers, lengths whole numbers from 0; in the right order."""
    good: dict[str, Any] = {}
    for name in _LIMITS.get(kind, ()):
        if name not in schema:
            continue
        limit = schema[name]
        if kind in ("integer", "number"):
            right, expected = _is("number", limit), "a number"
        else:
            right, expected = _is("integer", limit) and limit >= 0, "a whole number from 0"
        if right:
            good[name] = limit
        else:
            yield Issue((*path, name), expected, _shown(limit))
    if len(good) == 2:
        (lower, least), (upper, most) = good.items()
        if least > most:
            yield Issue((*path, upper), f"at least {lower}, {least}", str(most))


def _choices(schema: dict[str, Any], kind: str, path: Path) -> Iterator[Issue]:
    if "enum" not in schema:
        return
    choices = schema["enum"]
    if not isinstance(choices, list) or not choices:
        yield Issue((*path, "enum"), "a list that is not empty", _shown(choices))
        return
    for number, choice in enumerate(choices):
        if not _is(kind, choice):
            yield Issue((*path, "enum", number), _NAMES[kind], _shown(choice))


def _pattern_schema(pattern: object, path: Path) -> Iterator[Issue]:
    import re

    try:
        _pattern(pattern if isinstance(pattern, str) else "(")
    except (re.error, OverflowError, RecursionError):
        yield Issue(path, "a regular expression", _shown(pattern))


def _value(schema: Any, value: Any, path: Path) -> Iterator[Issue]:
    """The issues of a value; the schema was checked."""
    kind = schema["type"]
    if not _is(kind, value):
        yield Issue(path, _NAMES[kind], _shown(value))
        return
    if "enum" in schema and value not in schema["enum"]:
        yield Issue(path, " or ".join(map(_shown, schema["enum"])), _shown(value))
    if kind == "object":
        yield from _object(schema, value, path)
    elif kind in _LIMITS:
        yield from _within(schema, kind, value, path)
    if kind == "array":
        for number, item in enumerate(value):
            yield from _value(schema["items"], item, (*path, number))
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield Issue(path, f"text that matches {schema['pattern']}", _shown(value))


def _object(schema: dict[str, Any], value: dict[str, Any], path: Path) -> Iterator[Issue]:
    properties = schema["properties"]
    for name in schema.get("required", ()):
        if name not in value:
            yield Issue((*path, name), _NAMES[properties[name]["type"]], "nothing")
    for name, item in value.items():
        if name in properties:
            yield from _value(properties[name], item, (*path, name))
        else:
            known = ", ".join(properties) or "none"
            yield Issue((*path, name), f"a known key ({known})", "an unknown one")


def _within(schema: dict[str, Any], kind: str, value: Any, path: Path) -> Iterator[Issue]:
    """A number between its limits; a text or list whose length is."""
    least, most = _LIMITS[kind]
    size, unit = value, ""
    if kind in ("string", "array"):
        size, unit = len(value), " characters" if kind == "string" else " items"
    got = f"{size}{unit}"
    if least in schema and size < schema[least]:
        yield Issue(path, f"at least {schema[least]}{unit}", got)
    if most in schema and size > schema[most]:
        yield Issue(path, f"at most {schema[most]}{unit}", got)


def _is(kind: str, value: object) -> bool:
    match kind:
        case "object":
            return isinstance(value, dict) and all(isinstance(key, str) for key in value)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float):
        return value - value == 0  # neither NaN nor infinite
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(pattern: str) -> re.Pattern[str]:
    r"""The pattern with "$" as JSON Schema (ECMA-262) has it: the very end.

    Python's "$" also matches before a final newline, which would let "name\n" into
    files that programs read line by line.
    """
    import re

    result, inside, at = "", False, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            result += pattern[at : at + 2]
            at += 2
            continue
        if char == "[":
            inside = True
        elif char == "]":
            inside = False
        result += r"\Z" if char == "$" and not inside else char
        at += 1
    return re.compile(result)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
