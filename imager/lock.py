"""What was fetched from Debian: the exact versions and hashes, one line a package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class DebianPackage:
    """One fetched archive. source: the source package. sha256: of the .deb file, hex."""

    name: str
    version: str
    architecture: str
    source: str
    sha256: str


def parse_lock(text: str) -> tuple[DebianPackage, ...]:
    """The packages of a `packages.lock` as `imager.bootstrap` records it, sorted, each once."""
    lines = {line for line in text.splitlines() if line}
    return tuple(sorted(DebianPackage(*line.split("\t")) for line in lines))


def format_lock(packages: Iterable[DebianPackage]) -> str:
    """The document, sorted: the same packages give the same text."""
    lines = sorted(
        "\t".join((item.name, item.version, item.architecture, item.source, item.sha256))
        for item in packages
    )
    return "".join(f"{line}\n" for line in lines)
