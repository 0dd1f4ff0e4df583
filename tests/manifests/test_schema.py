"""The JSON Schemas that editors use agree with the models and with what is shipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from manifests.board import Board
from manifests.catalogue import REPOSITORY, find, names
from manifests.schema import FOLDER, MODELS, field_texts, schema, schema_text

SHIPPED = [(kind, find(kind, name)) for kind in MODELS for name in names(kind)]


def plain(path: Path) -> Any:
    """The document read by another reader than ours (all values as the schema sees them)."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_shipped_schema_is_that_of_the_models(kind: str) -> None:
    path = FOLDER / f"{kind}.schema.json"
    assert path.read_text(encoding="utf-8") == schema_text(kind), (
        "run: orbital manifest schema --write"
    )


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_schema_is_a_schema_and_describes_every_field(kind: str) -> None:
    document = schema(kind)
    jsonschema.Draft202012Validator.check_schema(document)
    for name, definition in document["$defs"].items():
        assert definition["description"], name
        for field, value in definition["properties"].items():
            if field not in ("kind", "type") or name in ("Firmware",):
                assert value.get("description"), f"document {name}.{field} in its docstring"


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=lambda value: Path(str(value)).stem)
def test_shipped_documents_validate_and_name_their_schema(kind: str, path: Path) -> None:
    jsonschema.Draft202012Validator(schema(kind)).validate(plain(path))
    first = path.read_text(encoding="utf-8").splitlines()[0]
    relative = os.path.relpath(FOLDER / f"{kind}.schema.json", path.parent)
    assert first == f"# yaml-language-server: $schema={relative}"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("board", ("architecture",), "z80"),
        ("board", ("layout", "partitions", 0, "size"), "64MB"),
        ("board", ("colour",), "red"),
        ("system", ("version",), 1.0),
        ("system", ("health", 0, "port"), 80),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(
    kind: str, path: tuple[str | int, ...], value: object
) -> None:
    document = plain(find(kind, names(kind)[0]))
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema(kind)).validate(document)


def test_there_is_something_shipped_of_every_kind() -> None:
    assert {kind for kind, _ in SHIPPED} == set(MODELS)
    assert FOLDER.is_relative_to(REPOSITORY)


def test_a_field_is_documented_by_its_own_struct_or_its_base() -> None:
    texts = field_texts(Board)
    assert texts["console"] == (
        "the serial console, e.g. ttyS0, with its speed where the driver does not know it."
    )
