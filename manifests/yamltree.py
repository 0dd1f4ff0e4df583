"""YAML text to plain values, remembering the line of everything.

A strict subset of YAML 1.2, so that a document means what it looks like:
only true and false are booleans (not "no" or "on"), 02:30 and 2024-01-01 are
text, duplicate keys, tags, anchors and aliases are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from manifests.problem import Path, Problem

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

MAX_DEPTH = 32
_PLAIN = ("map", "seq", "str", "int", "float", "bool", "null")


class YamlError(Exception):
    """The text is not the YAML we accept."""

    def __init__(self, line: int, problem: Problem) -> None:
        super().__init__(problem.text)
        self.line = line
        self.problem = problem


@dataclass
class Tree:
    """A document as plain values, with the line (from 1) of every key and list item."""

    value: Value = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the value at path, or of the closest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2's core schema only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, object]]] = {}  # noqa: RUF012


# Each kind with its pattern and what its text may begin with ("" is empty text).
for _tag, _pattern, _first in (
    ("bool", r"^(true|false)$", ["t", "f"]),
    ("null", r"^(~|null|)$", ["~", "n", ""]),
    ("int", r"^[-+]?[0-9]{1,18}$", list("-+0123456789")),
    ("float", r"^[-+]?[0-9]{1,18}\.[0-9]{0,18}([eE][-+]?[0-9]{1,3})?$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def parse_yaml(text: str) -> Tree:
    """Reads one document. Raises YamlError with the line when it is not acceptable."""
    tree = Tree()
    try:
        _refuse_excess(text)
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            tree.value = _value(node, (), tree)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(
            mark.line + 1 if mark else 1,
            Problem(
                (),
                "well-formed YAML",
                f"an error ({error.problem})",
                "check indentation, quotes and colons here and on the line before",
            ),
        ) from error
    except yaml.YAMLError as error:
        raise YamlError(1, Problem((), "well-formed YAML", str(error).splitlines()[0])) from error
    return tree


def _refuse_excess(text: str) -> None:
    """Refuses what makes a small text expensive: anchors and aliases, deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = (event.start_mark.line if event.start_mark else 0) + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = Problem((), "plain values", "an anchor or alias", "write the value out")
            raise YamlError(line, problem)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise YamlError(line, Problem((), f"at most {MAX_DEPTH} levels of nesting", "more"))


def _value(node: yaml.Node, path: Path, tree: Tree) -> Value:
    line = node.start_mark.line + 1
    tree.lines.setdefault(path, line)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _PLAIN:
        raise YamlError(line, Problem(path, "a plain value", f"tag {node.tag}", "remove the tag"))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, number), tree) for number, item in enumerate(node.value)]
    text = str(node.value)
    match kind:
        case "null":
            return None
        case "bool":
            return text == "true"
        case "int":
            return int(text)
        case "float":
            return float(text)
        case _:
            return text


def _mapping(node: yaml.MappingNode, path: Path, tree: Tree) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key, str):
            raise YamlError(line, Problem(path, "text as a key", "a list or mapping"))
        place = (*path, key)
        if key in result:
            raise YamlError(
                line,
                Problem(
                    place,
                    "each key once",
                    f"it a second time (first on line {tree.lines[place]})",
                    "remove one of the two",
                ),
            )
        # The key's own line, also when the value starts further down.
        tree.lines[place] = line
        result[key] = _value(value_node, place, tree)
    return result
