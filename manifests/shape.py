"""Compares plain values with a model and finds every difference, not only the first.

msgspec does the conversion; this walks the same type information beforehand
because msgspec stops at the first problem and knows neither lines nor fixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import inspect

from manifests.problem import Path, Problem, closest, listed, suggestion
from manifests.sizes import Size
from manifests.yamltree import Value


def shape_problems(value: Value, kind: inspect.Type, path: Path = ()) -> Iterator[Problem]:
    """Where value does not have the shape of the type."""
    expected = ""
    if isinstance(kind, inspect.Metadata):
        expected = str((kind.extra or {}).get("expected", ""))
        kind = kind.type
    match kind:
        case inspect.UnionType():
            yield from _union(value, kind, path)
        case inspect.StructType() if isinstance(value, dict):
            yield from _struct(value, kind, path)
        case inspect.VarTupleType() if isinstance(value, list):
            if len(value) < (kind.min_length or 0):
                yield Problem(path, "a list that is not empty", "an empty list", "add an item")
            if kind.max_length is not None and len(value) > kind.max_length:
                yield Problem(path, f"at most {kind.max_length} items", f"{len(value)}")
            for number, item in enumerate(value):
                yield from shape_problems(item, kind.item_type, (*path, number))
        case inspect.DictType() if isinstance(value, dict):
            for key, item in value.items():
                yield from shape_problems(item, kind.value_type, (*path, key))
        case inspect.AnyType():
            return
        case _:
            if not _fits(value, kind):
                choices = [str(word) for word in _choices(kind)]
                yield Problem(
                    path,
                    expected or expected_text(kind),
                    got_text(value),
                    _fix(value, kind, choices),
                )


def _fits(value: Value, kind: inspect.Type) -> bool:
    """Whether a scalar has the type and keeps its limits."""
    match kind:
        case inspect.NoneType():
            return value is None
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return (
                isinstance(value, int)
                and not isinstance(value, bool)
                and (kind.ge is None or value >= kind.ge)
                and (kind.le is None or value <= kind.le)
            )
        case inspect.LiteralType():
            return isinstance(value, str) and value in kind.values
        case inspect.CustomType(cls=cls) if cls is Size:
            return _is_size(value)
        case inspect.StrType():
            # fullmatch: "$" alone would let a final newline pass.
            return (
                isinstance(value, str)
                and len(value) >= (kind.min_length or 0)
                and (kind.pattern is None or re.fullmatch(kind.pattern, value) is not None)
            )
    return False


def _is_size(value: Value) -> bool:
    try:
        Size.parse(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _union(value: Value, union: inspect.UnionType, path: Path) -> Iterator[Problem]:
    """Either "something or absent", or one of several structs told apart by a tag."""
    if value is None and any(isinstance(kind, inspect.NoneType) for kind in union.types):
        return
    kinds = [kind for kind in union.types if not isinstance(kind, inspect.NoneType)]
    structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
    if len(kinds) == 1:
        yield from shape_problems(value, kinds[0], path)
    elif not isinstance(value, dict):
        yield Problem(path, "a mapping", got_text(value))
    else:
        field = structs[0].tag_field or ""
        chosen = [kind for kind in structs if kind.tag == value.get(field)]
        if chosen:
            yield from _struct(value, chosen[0], path)
        else:
            yield _wrong_tag(value, field, [str(kind.tag) for kind in structs], path)


def _wrong_tag(value: dict[str, Value], field: str, tags: list[str], path: Path) -> Problem:
    if field not in value:
        return Problem(
            (*path, field), listed(tags), "nothing", f'add the key "{field}": {listed(tags)}'
        )
    word = value[field]
    return Problem(
        (*path, field),
        listed(tags),
        got_text(word),
        f"{suggestion(str(word), tags)}allowed values: {', '.join(tags)}",
    )


def _struct(value: dict[str, Value], struct: inspect.StructType, path: Path) -> Iterator[Problem]:
    fields = {item.encode_name: item for item in struct.fields}
    known = [*([struct.tag_field] if struct.tag_field else []), *fields]
    missing = [name for name, item in fields.items() if item.required and name not in value]
    if struct.tag_field and value.get(struct.tag_field) != struct.tag:
        yield _wrong_tag(value, struct.tag_field, [str(struct.tag)], path)
    for key in value:
        if key in known:
            continue
        # A missing key is the likelier meaning of a misspelt one; then it is one
        # mistake, not two.
        meant = closest(key, missing)
        hint = suggestion(key, missing) or suggestion(key, known)
        missing = [name for name in missing if name != meant]
        yield Problem(
            (*path, key), "a known key", "an unknown one", f"{hint}known keys: {', '.join(known)}"
        )
    for name in missing:
        kind = fields[name].type
        yield Problem(
            (*path, name),
            expected_text(kind),
            "nothing",
            f'add the key "{name}"{_choice_list(kind)}',
        )
    for key, item in value.items():
        if key in fields:
            yield from shape_problems(item, fields[key].type, (*path, key))


def expected_text(kind: inspect.Type) -> str:
    """What a type wants, for people."""
    match kind:
        case inspect.Metadata():
            return str((kind.extra or {}).get("expected", "")) or expected_text(kind.type)
        case inspect.UnionType():
            kinds = [item for item in kind.types if not isinstance(item, inspect.NoneType)]
            return expected_text(kinds[0])
        case inspect.LiteralType():
            return listed([str(value) for value in kind.values])
        case inspect.CustomType():
            return 'a size such as "512MiB"'
        case inspect.DictType():
            return "a mapping"
        case inspect.StructType():
            return f"a mapping with the keys {', '.join(item.name for item in kind.fields)}"
        case inspect.VarTupleType():
            return "a list"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number"
        case _:
            return "text"


def got_text(value: Value) -> str:
    """What the document has, for people."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            shown = value if len(value) <= 60 else value[:57] + "..."
            return f'"{shown}"'.replace("\n", "\\n")
        case list():
            return "a list"
        case dict():
            return "a mapping"


def _choices(kind: inspect.Type) -> tuple[object, ...]:
    return tuple(kind.values) if isinstance(kind, inspect.LiteralType) else ()


def _choice_list(kind: inspect.Type) -> str:
    choices = [str(value) for value in _choices(kind)]
    return f": {listed(choices)}" if choices else ""


def _fix(value: Value, kind: inspect.Type, choices: list[str]) -> str:
    """How to make value acceptable, when that can be said."""
    if choices:
        return f"{suggestion(str(value), choices)}allowed values: {', '.join(choices)}"
    if isinstance(kind, inspect.StrType) and isinstance(value, int | float | bool):
        return f'put it in quotes: "{got_text(value).removeprefix("the number ")}"'
    if isinstance(kind, inspect.CustomType):
        return 'write a number and a unit (B, KiB, MiB, GiB, TiB) together, e.g. "64MiB"'
    if isinstance(kind, inspect.BoolType):
        return "write true or false without quotes"
    if isinstance(kind, inspect.IntType) and isinstance(value, str):
        return "write the number without quotes"
    if isinstance(kind, inspect.IntType) and isinstance(value, int):
        return "choose a number within these limits"
    if isinstance(kind, inspect.VarTupleType):
        return 'write each item on its own line after "- "'
    return ""
