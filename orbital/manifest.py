"""`orbital manifest`: documents of every kind, and their JSON Schemas."""

from __future__ import annotations

import argparse
from pathlib import Path

from manifests.capabilities import (
    DOCUMENTATION,
    device_policy,
    documentation,
    load_capabilities,
)
from manifests.checking import check_document
from manifests.schema import MODELS, schema, schema_text, write_schemas
from orbital.checked import print_checked
from orbital.output import Output
from recovery import codec


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="check documents for mistakes",
        description="Checks boards, systems, packages and capabilities (told apart by their "
        "keys). A system is checked with its packages and every board it is made for. Every "
        "mistake is named with file, line, key and fix. Exits with 3 when there is one.",
    )
    check.add_argument("file", nargs="+", type=Path, metavar="FILE", help="YAML file")
    check.set_defaults(handler=_check)
    schemas = commands.add_parser(
        "schema",
        help="print or write the JSON Schemas",
        description="Prints the JSON Schema of a kind of document, or with --write brings the "
        "schema files that editors use up to date with the models.",
    )
    schemas.add_argument("kind", nargs="?", choices=sorted(MODELS), help="kind of document")
    schemas.add_argument(
        "--write", action="store_true", help="write all schemas to manifests/schemas"
    )
    schemas.set_defaults(handler=_schema)
    capabilities = commands.add_parser(
        "capabilities",
        help="print or write what the capabilities of feature packages open",
        description="Prints manifests/capabilities.yaml as documentation, or with --write brings "
        "docs/capabilities.md up to date with it.",
    )
    capabilities.add_argument("--write", action="store_true", help="write docs/capabilities.md")
    capabilities.set_defaults(handler=_capabilities)


def _check(args: argparse.Namespace, output: Output) -> int:
    return print_checked([check_document(path) for path in args.file], output)


def _schema(args: argparse.Namespace, output: Output) -> int:
    if args.write:
        written = [str(path) for path in write_schemas()]
        output.result({"written": written}, "\n".join(written))
    elif args.kind:
        output.result(schema(args.kind), schema_text(args.kind).rstrip("\n"))
    else:
        kinds = sorted(MODELS)
        output.result({kind: schema(kind) for kind in kinds}, "\n".join(kinds))
    return 0


def _capabilities(args: argparse.Namespace, output: Output) -> int:
    document = load_capabilities()
    text = documentation(document)
    if args.write:
        DOCUMENTATION.write_text(text, encoding="utf-8")
        output.result({"written": [str(DOCUMENTATION)]}, str(DOCUMENTATION))
    else:
        output.result(codec.plain(device_policy(document, ())), text.rstrip("\n"))
    return 0
