"""Configuration slices against another implementation of JSON Schema, and where we are stricter."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.packages.slices import MAX_DEPTH, check_schema, merge, problems

WIREGUARD = {
    "type": "object",
    "required": ["port"],
    "properties": {
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "mode": {"type": "string", "enum": ["road", "site"]},
        "keepalive": {"type": "number", "minimum": 0.5},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8, "description": "shown"},
        "addresses": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
        "peers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key"],
                "properties": {"key": {"type": "string", "minLength": 3}},
            },
        },
    },
}


def closed(schema: Any) -> Any:
    """The schema with the rule that ours always has: no other keys."""
    if isinstance(schema, dict):
        more = {"additionalProperties": False} if schema.get("type") == "object" else {}
        return {key: closed(value) for key, value in schema.items()} | more
    return schema


NAMES = st.sampled_from(["a", "b", "c", "type", "enum"])
TEXTS = st.text("abc19 é", max_size=6)
INTEGERS = st.integers(-5, 5)
# Whole floats apart: JSON Schema calls 1.0 an integer, ours does not.
NUMBERS = INTEGERS | st.sampled_from([-2.5, 0.25, 1.5, 4.75])


def limits(low: str, high: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Some of two limits, in the right order."""
    pairs = st.lists(values, min_size=2, max_size=2).map(sorted)
    both = pairs.map(lambda pair: dict(zip((low, high), pair, strict=True)))
    return both.flatmap(lambda found: st.sets(st.sampled_from([low, high])).map(
        lambda keep: {name: found[name] for name in found if name in keep}
    ))  # fmt: skip


def scalar(kind: str, values: st.SearchStrategy[Any], *more: st.SearchStrategy[Any]) -> Any:
    """Schemas of a type, with any of the keywords."""
    choices = st.none() | st.lists(values, min_size=1, max_size=3)
    enum = choices.map(lambda found: {} if found is None else {"enum": found})
    return st.tuples(enum, *more).map(
        lambda parts: {"type": kind} | {key: item for part in parts for key, item in part.items()}
    )


LENGTHS = st.integers(0, 4)
PATTERNS = st.sampled_from(["^a", "b$", "[a-c]+", r"\d", "^(a|b)*$", "[$]", r"\$", ""])
SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    scalar("string", TEXTS, limits("minLength", "maxLength", LENGTHS),
           st.none().map(lambda _: {}) | PATTERNS.map(lambda text: {"pattern": text})),
    scalar("integer", INTEGERS, limits("minimum", "maximum", INTEGERS)),
    scalar("number", NUMBERS, limits("minimum", "maximum", NUMBERS)),
)  # fmt: skip


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Object schemas, each requiring some of its properties."""
    return st.dictionaries(NAMES, inner, max_size=3).flatmap(
        lambda found: st.lists(
            st.sampled_from(sorted(found) or [""]), unique=True, max_size=len(found)
        ).map(lambda names: {"type": "object", "properties": found, "required": names})
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Array schemas."""
    return st.tuples(inner, limits("minItems", "maxItems", LENGTHS)).map(
        lambda pair: {"type": "array", "items": pair[0]} | pair[1]
    )


SCHEMAS = objects(st.recursive(SCALARS, lambda inner: arrays(inner) | objects(inner), max_leaves=4))
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def near(schema: Any) -> st.SearchStrategy[Any]:
    """Values that often fit the schema."""
    match schema["type"]:
        case "object":
            inner = {name: near(item) for name, item in schema["properties"].items()}
            whole: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional=inner)
        case "array":
            whole = st.lists(near(schema["items"]), max_size=3)
        case "string":
            whole = TEXTS
        case "boolean":
            whole = st.booleans()
        case "integer":
            whole = INTEGERS
        case _:
            whole = NUMBERS
    chosen = st.sampled_from(schema["enum"]) if "enum" in schema else whole
    return chosen | whole | JUNK


@settings(deadline=None)
@given(st.data())
def test_values_fit_exactly_when_another_implementation_says_so(data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    values = data.draw(near(schema))
    assert check_schema(schema) == ()
    jsonschema.Draft202012Validator.check_schema(schema)
    fits = jsonschema.Draft202012Validator(closed(schema)).is_valid(values)
    assert (problems(schema, values) == ()) == fits


@settings(deadline=None)
@given(JUNK | st.dictionaries(st.sampled_from(["type", "properties", "items", "enum"]), JUNK))
def test_anything_is_a_schema_or_is_refused_in_words(junk: Any) -> None:
    wrong = check_schema(junk)
    assert all(": expected " in text for text in wrong)
    if not wrong:
        jsonschema.Draft202012Validator.check_schema(junk)
        assert problems(junk, None) == ("the slice: expected a mapping, got nothing",)
    else:
        with pytest.raises(ValueError, match="not a usable schema"):
            problems(junk, {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"port": 1}, []),
        ({}, ["port: expected a whole number, got nothing"]),
        ({"port": 70000}, ["port: expected at most 65535, got 70000"]),
        ({"port": True}, ["port: expected a whole number, got true"]),
        ({"port": 1.0}, ["port: expected a whole number, got 1.0"]),
        ({"port": 1, "keepalive": float("nan")}, ["keepalive: expected a number, got NaN"]),
        ({"port": 1, "prot": 1}, ["prot: expected a known key (port, mode, keepalive, name, "
                                  "addresses, peers), got an unknown one"]),
        ({"port": 1, "mode": "x"}, ['mode: expected "road" or "site", got "x"']),
        ({"port": 1, "name": "ab\n"}, ['name: expected text that matches ^[a-z]+$, got "ab\\n"']),
        ({"port": 1, "name": "abcdefghi"}, ["name: expected at most 8 characters, got 9 "
                                            "characters"]),
        ({"port": 1, "addresses": []}, ["addresses: expected at least 1 items, got 0 items"]),
        ({"port": 1, "peers": [{"key": "abc"}, {"key": "ab"}, {}]},
         ["peers[1].key: expected at least 3 characters, got 2 characters",
          "peers[2].key: expected text, got nothing"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_values_is_said_with_its_place(
    values: dict[str, Any], expected: list[str]
) -> None:
    assert problems(WIREGUARD, values) == tuple(expected)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ([], "the slice: expected a mapping with the key type, got a list"),
        ({"type": "string"}, 'type: expected object, got "string"'),
        ({"type": ["object"], "properties": {}},
         "type: expected object or array or string or integer or number or boolean, got a list"),
        ({"type": "object"}, "properties: expected a mapping of names to schemas, got nothing"),
        ({"type": "object", "properties": {}, "oneOf": []},
         "oneOf: expected a keyword of type object (type, description, properties, required, "
         "additionalProperties), got another one"),
        ({"type": "object", "properties": {"a": {"type": "string", "minimum": 1}}},
         "properties.a.minimum: expected a keyword of type string (type, description, enum, "
         "pattern, minLength, maxLength), got another one"),
        ({"type": "object", "properties": {"a": {"type": "array"}}},
         "properties.a.items: expected a mapping with the key type, got nothing"),
        ({"type": "object", "properties": {}, "required": ["a"]},
         'required[0]: expected one of the properties, got "a"'),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
         'properties.a.pattern: expected a regular expression, got "("'),
        ({"type": "object", "properties": {"a": {"type": "integer", "enum": [1, "2"]}}},
         'properties.a.enum[1]: expected a whole number, got "2"'),
        ({"type": "object", "properties": {"a": {"type": "integer", "enum": []}}},
         "properties.a.enum: expected a list that is not empty, got a list"),
        ({"type": "object",
          "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}},
         "properties.a.maxLength: expected at least minLength, 3, got 2"),
        ({"type": "object", "properties": {"a": {"type": "string", "maxLength": -1}}},
         "properties.a.maxLength: expected a whole number from 0, got -1"),
        ({"type": "object", "properties": {}, "additionalProperties": True},
         "additionalProperties: expected false, got true"),
        ({"type": "object", "properties": {"a": {"type": "boolean", "description": 1}}},
         "properties.a.description: expected text, got 1"),
    ],
)  # fmt: skip
def test_a_schema_outside_the_subset_is_refused_with_its_place(schema: Any, expected: str) -> None:
    assert check_schema(schema) == (expected,)


def test_types_nested_too_deeply_are_refused() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "boolean"}
        for _ in range(depth - 2):
            schema = {"type": "array", "items": schema}
        return {"type": "object", "properties": {"a": schema}}

    assert check_schema(nested(MAX_DEPTH)) == ()
    assert [text.split(": ")[1] for text in check_schema(nested(MAX_DEPTH + 1))] == [
        f"expected at most {MAX_DEPTH} types within each other, got more"
    ]


def test_what_is_set_lies_over_the_defaults() -> None:
    defaults = {"port": 1, "dns": {"name": "a", "ttl": 5}, "list": [1, 2]}
    values = {"dns": {"ttl": 6}, "list": [3], "new": None}
    assert merge(defaults, values) == {
        "port": 1, "dns": {"name": "a", "ttl": 6}, "list": [3], "new": None,
    }  # fmt: skip
    assert defaults["dns"] == {"name": "a", "ttl": 5}


@settings(deadline=None)
@given(SCHEMAS)
def test_a_schema_survives_its_way_to_the_device_as_json(schema: Any) -> None:
    assert check_schema(json.loads(json.dumps(schema))) == ()
