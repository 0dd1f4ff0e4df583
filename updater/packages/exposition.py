"""Prometheus' text format, version 0.0.4: written, read, and merged. Pure.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/. What a
service says of itself is read strictly: it comes from a package, and a line
that is passed on unread could claim to be another package's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OURS = "orbital_"
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(
    rf"({_NAME})\s*(?:\{{\s*((?:{_LABEL}\s*,\s*)*(?:{_LABEL})?)\s*,?\s*\}})?\s+(\S+)(?:\s+(-?\d+))?"
)
_PAIR = re.compile(_LABEL)
_COMMENT = re.compile(rf"#\s*(HELP|TYPE)\s+({_NAME})(?:\s+(.*))?")
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


@dataclass(frozen=True)
class Sample:
    """One value. name: of the family, or with its suffix (_bucket). value: as written."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: str
    timestamp: str = ""


@dataclass(frozen=True)
class Family:
    """Samples of one name."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def render(families: Iterable[Family]) -> str:
    """The document: every family once, samples as they come."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        if family.help:
            lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [_line(sample) for sample in family.samples]
    return "\n".join(lines) + "\n" if lines else ""


def parse(text: str) -> tuple[Family, ...]:
    """The families of a document. Raises ValueError, naming the line."""
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    samples: dict[str, list[Sample]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.strip()
        if not words:
            continue
        if words.startswith("#"):
            comment = _COMMENT.fullmatch(words)
            if comment is None:
                continue
            value = comment[3] or ""
            if comment[1] == "HELP":
                helps.setdefault(comment[2], _unescaped(value))
            elif value not in TYPES:
                raise ValueError(f"line {number}: {value!r} is not a type")
            elif kinds.setdefault(comment[2], value) != value:
                raise ValueError(f"line {number}: a second type of {comment[2]}")
            continue
        sample = _sample(words, number)
        samples.setdefault(_family_of(sample.name, kinds), []).append(sample)
    return tuple(
        Family(name, kinds.get(name, "untyped"), helps.get(name, ""), tuple(found))
        for name, found in samples.items()
    )


def labelled(family: Family, labels: Mapping[str, str]) -> Family:
    """The family with labels added; one of its own of the same name becomes exported_NAME."""
    samples = tuple(
        Sample(
            sample.name,
            (
                *labels.items(),
                *(
                    (f"exported_{name}" if name in labels else name, value)
                    for name, value in sample.labels
                ),
            ),
            sample.value,
            sample.timestamp,
        )
        for sample in family.samples
    )
    return Family(family.name, family.kind, family.help, samples)


def merge(families: Iterable[Family]) -> tuple[Family, ...]:
    """Families of the same name as one, in the order of their first; the first one's type counts,
    and a later one of another type is left out: a document with both is not valid."""
    found: dict[str, Family] = {}
    for family in families:
        known = found.get(family.name)
        if known is None:
            found[family.name] = family
        elif known.kind == family.kind:
            samples = (*known.samples, *family.samples)
            found[family.name] = Family(family.name, known.kind, known.help, samples)
    return tuple(found.values())


def _family_of(name: str, kinds: Mapping[str, str]) -> str:
    for kind, suffixes in _PARTS.items():
        for suffix in suffixes:
            base = name.removesuffix(suffix)
            if base != name and kinds.get(base) == kind:
                return base
    return name


def _sample(line: str, number: int) -> Sample:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"line {number}: not a sample")
    *_, value, timestamp = match.groups()
    try:
        # Go's ParseFloat, which the format names, has no "_" between digits.
        float(value if "_" not in value else "?")
    except ValueError as error:
        raise ValueError(f"line {number}: {value!r} is not a number") from error
    labels = tuple((pair[1], _unescaped(pair[2])) for pair in _PAIR.finditer(match[2] or ""))
    if len({name for name, _ in labels}) != len(labels):
        raise ValueError(f"line {number}: a label twice")
    return Sample(match[1], labels, value, timestamp or "")


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in sample.labels)
    body = f"{sample.name}{{{labels}}}" if labels else sample.name
    return f"{body} {sample.value}" + (f" {sample.timestamp}" if sample.timestamp else "")


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
