"""JSON Schemas of the documents, made from the models, for editors.

Descriptions of fields come from the docstrings of the models: a line
``field: text`` (or ``field, field: text``) with continuation lines indented.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from manifests.board import Board
from manifests.capabilities import Capabilities
from manifests.document import Model, as_type
from manifests.package import PACKAGE
from manifests.sizes import SIZE_PATTERN, Size
from manifests.system import SystemManifest

FOLDER = Path(__file__).resolve().parent / "schemas"
MODELS: dict[str, Model[Any]] = {
    "board": Board,
    "capabilities": Capabilities,
    "package": PACKAGE,
    "system": SystemManifest,
}
_FIELD = re.compile(r"^([a-z_]+(?:, [a-z_]+)*): (.+)$")


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of document, one of MODELS."""
    model = as_type(MODELS[kind])
    document = msgspec.json.schema(model, schema_hook=_custom)
    structs = {struct.__name__: struct for struct in _structs(model)}
    for name, definition in document["$defs"].items():
        struct = structs[name]
        documentation = inspect.getdoc(struct) or ""
        definition["description"] = documentation.partition("\n\n")[0].replace("\n", " ")
        texts = field_texts(struct)
        for field, field_schema in definition["properties"].items():
            if field in texts:
                field_schema["description"] = texts[field]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def schema_text(kind: str) -> str:
    """The JSON Schema as the bytes of its file."""
    return json.dumps(schema(kind), indent=2, sort_keys=True) + "\n"


def write_schemas(folder: Path = FOLDER) -> tuple[Path, ...]:
    """Writes the schemas of all documents and returns the files."""
    folder.mkdir(exist_ok=True)
    written = []
    for kind in MODELS:
        path = folder / f"{kind}.schema.json"
        path.write_text(schema_text(kind), encoding="utf-8")
        written.append(path)
    return tuple(written)


def field_texts(model: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstrings of a model and of its bases say about each field."""
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        current: tuple[str, ...] = ()
        for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
            match = _FIELD.match(line)
            if match:
                current = tuple(match[1].split(", "))
                texts.update(dict.fromkeys(current, match[2]))
            elif current and line.startswith("    "):
                texts.update({name: f"{texts[name]} {line.strip()}" for name in current})
            else:
                current = ()
    return texts


def _structs(model: Any) -> Iterator[type[msgspec.Struct]]:
    """Every struct in the model, itself included."""
    pending: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(model)]
    while pending:
        kind = pending.pop()
        match kind:
            case msgspec.inspect.Metadata():
                pending.append(kind.type)
            case msgspec.inspect.UnionType():
                pending.extend(kind.types)
            case msgspec.inspect.VarTupleType():
                pending.append(kind.item_type)
            case msgspec.inspect.StructType():
                yield kind.cls
                pending.extend(field.type for field in kind.fields)


def _custom(kind: type) -> dict[str, Any]:
    if kind is Size:
        return {
            "type": "string",
            "pattern": SIZE_PATTERN,
            "patternErrorMessage": 'expected a size such as "512MiB"',
        }
    raise NotImplementedError(kind)
