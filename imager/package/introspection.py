"""D-Bus interface definitions: read strictly, and compared as callers would notice. Pure.

Format: D-Bus specification, "Introspection Data Format" and "Type System".
Read with expat directly: no entity is ever defined, expanded or fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BASIC = "ybnqiuxtdsogh"
_NESTED_AT_MOST = 32
_SIZE_AT_MOST = 1 << 20
_SIGNATURE_AT_MOST = 255
_ACCESS = {"read": {"read"}, "write": {"write"}, "readwrite": {"read", "write"}}
_MEMBERS = ("method", "signal", "property")
_CHILDREN = {
    "": ("node",),
    "node": ("node", "interface"),
    "interface": ("method", "signal", "property", "annotation"),
    "method": ("arg", "annotation"),
    "signal": ("arg", "annotation"),
    "property": ("annotation",),
    "arg": ("annotation",),
    "annotation": (),
}


@dataclass
class Interface:
    """What callers depend on. methods: types of what goes in and what comes out.

    signals: types of the arguments. properties: type and access (read, write).
    Names of arguments and annotations are not part of it.
    """

    methods: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    signals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    properties: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """breaking: what callers of the older version would notice. added: what is new."""

    breaking: tuple[str, ...]
    added: tuple[str, ...]


def parse_definitions(data: bytes) -> dict[str, Interface]:
    """The interfaces that an introspection document defines, by name.

    Raises ValueError that says what is wrong, and on which line.
    """
    if len(data) > _SIZE_AT_MOST:
        raise ValueError("a definition has at most 1 MiB")
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"not well-formed XML: {error}") from error
    except ValueError as error:
        raise ValueError(f"line {reader.parser.CurrentLineNumber}: {error}") from error
    return reader.interfaces


def compare(old: Interface, new: Interface) -> Changes:
    """What a caller of old meets in new."""
    breaking: list[str] = []
    added: list[str] = []
    tables = (
        ("method", old.methods, new.methods),
        ("signal", old.signals, new.signals),
        ("property", old.properties, new.properties),
    )
    for kind, before, after in tables:
        for name in sorted(set(before) | set(after)):
            if name not in after:
                breaking.append(f"{kind} {name} is gone")
            elif name not in before:
                added.append(f"{kind} {name}")
            elif before[name] != after[name]:
                change = f"{kind} {name} was {_show(before[name])} and is {_show(after[name])}"
                widened = kind == "property" and _widened(
                    old.properties[name], new.properties[name]
                )
                (added if widened else breaking).append(change)
    return Changes(tuple(breaking), tuple(added))


def check_type(signature: str) -> None:
    """Raises ValueError unless signature is one complete D-Bus type."""
    if len(signature) > _SIGNATURE_AT_MOST or _end(signature, 0, 0) != len(signature):
        raise ValueError(f"{signature!r} is not one complete type")


class _Reader:
    def __init__(self) -> None:
        self.interfaces: dict[str, Interface] = {}
        self._open: list[str] = []
        self._current: Interface | None = None
        self._member = ""
        self._in: list[str] = []
        self._out: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._close
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.EntityDeclHandler = self._entity
        self.parser.ExternalEntityRefHandler = self._external

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else ""
        if ":" in tag:  # documentation in a namespace of its own
            tag = ":"
        elif tag not in _CHILDREN.get(parent, ()) and parent != ":":
            raise ValueError(f"<{tag}> does not belong into <{parent or 'the document'}>")
        elif parent == ":":
            tag = ":"
        self._open.append(tag)
        if tag == "interface":
            self._start_interface(attributes.get("name", ""))
        elif tag in _MEMBERS:
            self._start_member(tag, attributes)
        elif tag == "arg":
            self._argument(parent, attributes)

    def _start_interface(self, name: str) -> None:
        if not _NAME.fullmatch(name) or len(name) > _SIGNATURE_AT_MOST:
            raise ValueError(f"{name!r} is not the name of an interface")
        if name in self.interfaces:
            raise ValueError(f"interface {name} is defined twice")
        self._current = self.interfaces[name] = Interface()

    def _start_member(self, tag: str, attributes: dict[str, str]) -> None:
        assert self._current is not None
        name = attributes.get("name", "")
        if not _MEMBER.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a {tag}")
        known = {
            "method": set(self._current.methods),
            "signal": set(self._current.signals),
            "property": set(self._current.properties),
        }
        if name in known[tag]:
            raise ValueError(f"{tag} {name} is defined twice")
        self._member, self._in, self._out = name, [], []
        if tag == "property":
            access = attributes.get("access", "")
            if access not in _ACCESS:
                raise ValueError(f"property {name} has the access {access!r}")
            check_type(attributes.get("type", ""))
            self._current.properties[name] = (attributes["type"], access)

    def _argument(self, parent: str, attributes: dict[str, str]) -> None:
        kind = attributes.get("type", "")
        check_type(kind)
        direction = attributes.get("direction", "in" if parent == "method" else "out")
        if direction not in ("in", "out") or (parent == "signal" and direction != "out"):
            raise ValueError(f"an argument of {self._member} has the direction {direction!r}")
        (self._in if direction == "in" else self._out).append(kind)

    def _close(self, _tag: str) -> None:
        tag = self._open.pop()
        if self._current is None:
            return
        if tag == "method":
            self._current.methods[self._member] = (tuple(self._in), tuple(self._out))
        elif tag == "signal":
            self._current.signals[self._member] = tuple(self._out)

    def _text(self, text: str) -> None:
        if text.strip() and self._open[-1] != ":":
            raise ValueError(f"text {text.strip()[:20]!r} where none belongs")

    def _doctype(
        self, _name: str, _system: str | None, _public: str | None, has_internal: bool
    ) -> None:
        # The usual line names D-Bus's DTD, which nobody fetches.
        if has_internal:
            raise ValueError("a document type with declarations of its own")

    def _entity(self, *_declaration: object) -> None:
        raise ValueError("an entity is declared")

    def _external(self, *_reference: object) -> int:
        raise ValueError("an external entity is used")


def _show(types: object) -> str:
    if isinstance(types, tuple) and types and isinstance(types[0], tuple):
        return f"({', '.join(types[0])}) -> ({', '.join(types[1])})"
    return f"({', '.join(types)})" if isinstance(types, tuple) else str(types)


def _widened(old: tuple[str, str], new: tuple[str, str]) -> bool:
    """Whether a property has its type still and may be used in more ways than before."""
    return old[0] == new[0] and _ACCESS[old[1]] < _ACCESS[new[1]]


def _end(signature: str, at: int, depth: int) -> int:
    """Where the complete type that starts at this place ends."""
    if at >= len(signature) or depth > _NESTED_AT_MOST:
        raise ValueError(f"{signature!r} is not one complete type")
    code = signature[at]
    if code in _BASIC or code == "v":
        return at + 1
    if code == "a":
        if signature[at + 1 : at + 2] == "{":
            if signature[at + 2 : at + 3] not in tuple(_BASIC):
                raise ValueError(f"{signature!r} is not a type: its dictionary has no basic key")
            end = _end(signature, at + 3, depth + 1)
            return _closed(signature, end, "}")
        return _end(signature, at + 1, depth + 1)
    if code == "(":
        end = _end(signature, at + 1, depth + 1)
        while signature[end : end + 1] not in ("", ")"):
            end = _end(signature, end, depth + 1)
        return _closed(signature, end, ")")
    raise ValueError(f"{signature!r} has the unknown type {code!r}")


def _closed(signature: str, at: int, bracket: str) -> int:
    if signature[at : at + 1] != bracket:
        raise ValueError(f"{signature!r} is not a type: it lacks {bracket!r}")
    return at + 1
